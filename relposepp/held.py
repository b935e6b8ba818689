"""How the cameras of own photos were held: what they may have besides elevation, azimuth and radius.

Networks know upright views alone. So each photo's roll is told first (attitude.py), networks see it turned upright, and
its camera, from which voxels are fitted to the photo as it is, carries the roll.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from relposepp import attitude
from relposepp.attitude import ELEVATIONS, ROLLS
from relposepp.model import IMAGE_SIZE, Elevations, RelativePose
from sap3d.cameras import maths as cam
from sap3d.cameras.framing import upright
from sap3d.images import to_tensor

# Most people hold a camera level in all photos, some in none; standard deviations of the rolls, and the share of those.
LEVEL_SIGMA, TILTED_SIGMA, TILTED = math.radians(3), math.radians(20), 0.3
GUESSED = 0.5  # share of the configurations that are tried with other rolls than the likeliest


@dataclass
class Held:
    """What is known of N photos' cameras before they are placed."""

    views: Tensor  # upright, for the network, [N, 4, 128, 128]
    elevations: Elevations
    rolls: Tensor  # distributions over attitude.ROLLS, [N, 19]
    fields_of_view: Tensor  # radians, [N]
    free_view: bool  # whether these are a guess but for what they share

    @property
    def likeliest_rolls(self) -> Tensor:
        """Modes, refined by the mean around them, in radians, [N]."""
        return modes(self.rolls)

    def cameras(self, plain: Tensor, rolls: Tensor | None = None) -> Tensor:
        """Cameras [..., N, 7] that stand where `cam.plain` ones [..., N, 3] do, with these rolls [..., N]."""
        rolls = (self.likeliest_rolls if rolls is None else rolls).to(plain).expand(plain.shape[:-1])
        view = self.fields_of_view.to(plain).expand_as(rolls)
        radius = plain[..., 2] * cam.TAN_HALF_FOV / (view / 2).tan()
        zero = torch.zeros_like(rolls)
        return torch.stack([plain[..., 0], plain[..., 1], radius, zero, zero, rolls, view], -1)

    def hypotheses(self, plain: Tensor, generator: torch.Generator) -> Tensor:
        """Configurations [K, N, 3] with rolls, [K, N, 7]: some with the likeliest, some with drawn ones."""
        count, views = plain.shape[:2]
        drawn = torch.multinomial(self.rolls, count, replacement=True, generator=generator).T  # [K, N]
        guess = torch.rand(count, 1, generator=generator) < GUESSED
        guess[0] = False
        return self.cameras(plain, torch.where(guess, ROLLS[drawn], self.likeliest_rolls.cpu()))


def modes(rolls: Tensor) -> Tensor:
    """Modes of distributions over ROLLS [N, R], between the bins: the mean over three, in radians, [N]."""
    peak = rolls.argmax(-1, keepdim=True)
    near = (torch.arange(len(ROLLS), device=rolls.device) - peak).abs() <= 1
    weights = rolls * near
    return weights @ ROLLS.to(rolls) / weights.sum(-1)


def with_prior(told: Tensor) -> Tensor:
    """What the network says of each view, [N, E, R], with a prior on the set's rolls in the place of training's."""
    told = told / attitude.trained_rolls()
    level, tilted = (torch.softmax(-0.5 * (ROLLS / sigma).square(), 0) for sigma in (LEVEL_SIGMA, TILTED_SIGMA))
    kinds = torch.stack([told * level, told * tilted])
    evidence = kinds.sum((2, 3)).clamp(min=1e-12)  # of each view, [2, N]
    share = torch.softmax(evidence.log().sum(1) + torch.tensor([1 - TILTED, TILTED]).log(), 0)
    return (share[:, None, None, None] * kinds / evidence[..., None, None]).sum(0)


@torch.no_grad()
def hold(network: RelativePose, photos: list[np.ndarray], fields_of_view: Tensor, known: bool) -> Held:
    """What is known of N photos, uint8 RGBA [S, S, 4].

    Args:
        fields_of_view: of the photos, radians, [N].
        known: whether they are right, or only but for a common factor of the focal lengths.
    """
    device = next(network.parameters()).device
    logits = network.attitude(to_tensor(photos, IMAGE_SIZE).to(device)).cpu()
    both = with_prior(logits.flatten(1).softmax(-1).view_as(logits))
    rolls = both.sum(1)
    turned = cam.full_cameras(torch.zeros(len(photos), 3))
    turned[:, 5] = modes(rolls)
    views, _ = upright(photos, turned, IMAGE_SIZE)
    return Held(
        views.to(device),
        Elevations(ELEVATIONS.to(device), both.sum(2).to(device)),
        rolls,
        fields_of_view.float().to(device),
        not known,
    )
