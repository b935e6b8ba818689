"""Configurations that look alike from afar, told apart in detail.

The faces of packages differ in print, which the search's small images hardly show: it cannot tell from which of two
opposite sides a photo of one was taken. So the rivals of a configuration, which are its own with views half a turn on
and others that weigh nearly as much, are fitted anew to images of 128×128. What those fits leave unexplained counts for
more than what the search's do.
"""

import itertools
import math

import torch
from torch import Tensor
from tqdm import tqdm

from sap3d.field.synthesis import Level, fit_all

# Half turns are rivals that leave little more unexplained than their configuration, from afar and then nearer.
FAR = Level(16, 32, steps=36, pixels=96, samples=16, pose_rate=0.0)
NEARER = Level(32, 64, steps=60, pixels=192, samples=32, pose_rate=0.0)
ALIKE = 1.4  # times as much
DETAIL = Level(64, 128, steps=160, pixels=400, samples=64, pose_rate=0.01)


def half_turns(cameras: Tensor) -> Tensor:
    """Cameras [N, C] with up to two views half a turn on about the vertical axis, first as they are, [K, N, C].

    View 0 stays where it is: when it turns, all others do.
    """
    views = len(cameras)
    chosen = [each for count in range(3) for each in itertools.combinations(range(views), count)]
    patterns = torch.zeros(len(chosen), views)
    for pattern, each in zip(patterns, chosen):
        pattern[list(each)] = 1
    patterns = (patterns - patterns[:, :1]).abs().unique(dim=0)  # two of four views turn as the other two do
    turned = cameras.repeat(len(patterns), 1, 1)
    turned[..., 1] += math.pi * patterns.to(cameras)
    return turned


def alike(images: Tensor, cameras: Tensor) -> tuple[Tensor, Tensor]:
    """Those half turns of cameras [N, C] of views [N, 4, S, S] that look like them in small images.

    Returns:
        Configurations [K, N, C], and what they leave unexplained over what the cameras do, [K].
    """
    found = half_turns(cameras)
    for level in (FAR, NEARER):
        if len(found) == 1:
            break
        with tqdm(disable=True) as progress:
            losses = fit_all(images, found, level, progress).losses
        ratios = losses / losses[0]
        found, ratios = found[ratios < ALIKE], ratios[ratios < ALIKE]
    return found[1:], ratios[1:]


def fit_in_detail(images: Tensor, configurations: Tensor) -> tuple[Tensor, Tensor]:
    """Configurations [K, N, C] of views [N, 4, S, S] after a fit in detail.

    Returns:
        Where it has moved them to, and what it leaves unexplained, [K].
    """
    total = len(configurations) * DETAIL.steps
    with tqdm(desc="comparing rivals", total=total, unit="step", mininterval=1, leave=False) as progress:
        fit = fit_all(images, configurations, DETAIL, progress)
    return fit.cameras, fit.losses
