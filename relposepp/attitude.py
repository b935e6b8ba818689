"""How a camera was held: elevation and roll of a single view.

What stands on the ground has an up: a flat base, a vertical axis, walls, a head above feet. Told from one view this is
vague, and of a view from right above it is nothing at all, so the answer is a distribution over both angles at once.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sap3d.imagenet import CHANNELS

ELEVATIONS = torch.deg2rad(torch.arange(-20.0, 86.0, 5.0))  # bin centres
ROLLS = torch.deg2rad(torch.arange(-45.0, 46.0, 5.0))
UPRIGHT = len(ROLLS) // 2  # the bin of no roll
LEVEL = 0.25  # share of the turned views of training that keep their roll; the others are turned to any


class AttitudeHead(nn.Module):
    """What the image encoder makes of views → logits over ELEVATIONS × ROLLS, [V, 22, 19]."""

    def __init__(self, coarse: int, summary: int, channels: int = 24, hidden: int = 192):
        super().__init__()
        self.coarse = nn.Conv2d(coarse, channels, 1)
        self.known = nn.Sequential(nn.GroupNorm(8, CHANNELS[-1]), nn.Conv2d(CHANNELS[-1], channels, 1))
        self.hidden = nn.Linear(2 * channels * 16 + summary, hidden)
        self.logits = nn.Linear(hidden, len(ELEVATIONS) * len(ROLLS))

    def forward(self, coarse: Tensor, known: Tensor, summary: Tensor) -> Tensor:
        """Of maps [V, coarse, 8, 8] and [V, 320, 4, 4], where things are counts, and summaries [V, summary]."""
        maps = torch.cat([F.avg_pool2d(self.coarse(coarse), 2), self.known(known)], 1)
        hidden = F.relu(self.hidden(torch.cat([F.relu(maps).flatten(1), summary], 1)))
        return self.logits(hidden).float().unflatten(1, (len(ELEVATIONS), len(ROLLS)))


def bin_labels(values: Tensor, centres: Tensor) -> Tensor:
    """Gaussian soft labels of values [V] over evenly spaced bins [B], one bin wide: [V, B]."""
    width = centres[1] - centres[0]
    return torch.softmax(-0.5 * ((values[:, None] - centres.to(values.device)) / width).square(), -1)


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
