"""Photos that do not fit the rest, of another object, of this one laid down, mirrored; and sets that fit nowhere.

Each photo is left out once. What the others then leave unexplained falls a little, for there is less to explain; where
one photo contradicts the rest, it is most of it. Compare SparseAGS's outlier test (arXiv 2412.03570, §3.3). Each photo
is also fitted alone, which leaves unexplained what is too fine for the voxels and nothing else; where cameras are
wrong, or no cameras are right, all together leave more.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sap3d.field.synthesis import Level, empty_loss, joint_fit, view_losses

FEWEST = 4  # photos: of three that disagree nobody knows which is wrong
LEVEL = Level(resolution=24, size=32, steps=80, pixels=192, samples=24, pose_rate=0.0)
MOST = 0.5  # share of what is unexplained that must go with a photo
UNSEEN = 0.35  # share of itself that the others' voxels must leave unexplained
# Of the cameras' `soundness`: the likeliest on held-out photos (benchmarks/phones.py).
EVEN, STEEPNESS = 3.5, 1.5


def leave_each_out(images: Tensor, cameras: Tensor) -> tuple[Tensor, Tensor, float]:
    """How far each view contradicts the others, at held cameras.

    Args:
        images: colour on white and alpha, [N, 4, S, S].
        cameras: [N, C].

    Returns:
        By what share less is unexplained of the others without it, [N]; how much of it the others' voxels leave
        unexplained, as a share of what an empty field leaves, [N]; and how many times as much all views together leave
        unexplained as each alone, in the mean.
    """
    count = len(images)
    one = torch.eye(count).to(images)
    weights = torch.cat([torch.ones_like(one[:1]), 1 - one, one])
    hypotheses = cameras.expand(len(weights), -1, -1).contiguous()
    fit = joint_fit(images, hypotheses, LEVEL, view_weights=weights)
    target = F.interpolate(images, size=(LEVEL.size,) * 2, mode="area").flatten(2).transpose(1, 2)
    losses = view_losses(fit.grid, fit.cameras, target, LEVEL)  # [2 N + 1, N]
    together, apart, alone = losses[0], losses[1 : count + 1], losses[count + 1 :].diagonal()
    fall = 1 - (apart * (1 - one)).sum(1) / (together * (1 - one)).sum(1)
    empty = torch.stack([empty_loss(image[None]) for image in images])
    contradiction = (together / empty).mean() / (alone / empty).mean()
    return fall.cpu(), (apart.diagonal() / empty).cpu(), contradiction.item()


def outliers(fall: Tensor, unseen: Tensor) -> list[int]:
    """The views that contradict the others, by what `leave_each_out` says; at most one in four, the worst first."""
    named = [int(view) for view in fall.argsort(descending=True) if fall[view] > MOST and unseen[view] > UNSEEN]
    return named[: len(fall) // 4]


def soundness(contradiction: float, even: float = EVEN, steepness: float = STEEPNESS) -> float:
    """The probability that cameras are right at all that leave so many times as much unexplained as each view alone."""
    return 1 / (1 + (contradiction / even) ** steepness)
