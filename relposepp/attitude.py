"""How a camera was held: elevation and roll of a single view, by a small network of its own.

What stands on the ground has an up: a flat base, a vertical axis, walls. Told from one view this is vague, and of a
view from right above it is nothing at all, so the answer is a distribution over both angles at once.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from relposepp.lifting import Residual
from sap3d.errors import UserError

ELEVATIONS = torch.deg2rad(torch.arange(-20.0, 86.0, 5.0))  # bin centres
ROLLS = torch.deg2rad(torch.arange(-45.0, 46.0, 5.0))
SIZE = 32  # of its images: outlines tell most
LEVEL = 0.25  # share of its training's views that are left as they are; the others are turned to any roll
FILE = "attitude.safetensors"


class Attitude(nn.Module):
    """White-composited RGB + mask, [V, 4, 32, 32] → logits over ELEVATIONS × ROLLS, [V, 22, 19]."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128), hidden: int = 192):
        super().__init__()
        layers, channels = [], 4
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), Residual(width)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.hidden = nn.Sequential(nn.GroupNorm(8, channels), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2),
                                    nn.Linear(channels * 16, hidden), nn.ReLU())  # fmt: skip
        self.logits = nn.Linear(hidden, len(ELEVATIONS) * len(ROLLS))

    def forward(self, images: Tensor) -> Tensor:
        features = self.features((images * 2 - 1).contiguous(memory_format=torch.channels_last))
        return self.logits(self.hidden(features)).float().unflatten(1, (len(ELEVATIONS), len(ROLLS)))


def bin_labels(values: Tensor, centres: Tensor) -> Tensor:
    """Gaussian soft labels of values [V] over evenly spaced bins [B], one bin wide: [V, B]."""
    width = centres[1] - centres[0]
    return torch.softmax(-0.5 * ((values[:, None] - centres) / width).square(), -1)


def trained_rolls() -> Tensor:
    """How often rolls are in training, [19]: LEVEL of the views keep their own, and most have none."""
    own = torch.softmax(-0.5 * (ROLLS / math.radians(6)).square(), 0)
    own = 0.31 * own + 0.69 * (ROLLS.abs() < 1e-3)
    return LEVEL * own + (1 - LEVEL) / len(ROLLS)


def attitude_loss(logits: Tensor, elevation: Tensor, roll: Tensor) -> Tensor:
    """Divergence from true angles in radians, [V] each, spread over neighbouring bins; averaged over views."""
    labels = bin_labels(elevation, ELEVATIONS)[:, :, None] * bin_labels(roll, ROLLS)[:, None]
    return F.kl_div(logits.flatten(1).log_softmax(-1), labels.flatten(1), reduction="batchmean")


def expected(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Means of elevation and roll in radians, [V] each."""
    probabilities = logits.flatten(1).softmax(-1).view_as(logits)
    return probabilities.sum(2) @ ELEVATIONS, probabilities.sum(1) @ ROLLS


def load_attitude(folder: Path, device: torch.device) -> Attitude:
    """The network in a folder, ready for inference.

    Raises:
        UserError: missing or unreadable.
    """
    model = Attitude()
    try:
        model.load_state_dict({name: value.float() for name, value in load_file(folder / FILE).items()})
    except Exception as error:
        raise UserError(f"{folder / FILE}: not weights of this model ({str(error).splitlines()[0]})") from error
    return model.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
