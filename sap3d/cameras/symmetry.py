"""Rotational symmetry: an object that looks the same when it is turned about the vertical by a part of a full turn.

Packages, cans, bottles and bowls do at half a turn (order 2), or nearly; then a photo also shows the far side, seen
from the other direction. Order 1 is no symmetry.
"""

import math

import torch
from torch import Tensor


def turned(cameras: Tensor, order: int) -> Tensor:
    """Cameras (elevation, azimuth, …) [N, C] of all sides that look alike, the given ones first, [order · N, C]."""
    sides = cameras.repeat(order, 1, 1)
    sides[..., 1] += torch.arange(order, device=cameras.device)[:, None] * (2 * math.pi / order)
    return sides.flatten(0, 1)


def repeated(images: Tensor, cameras: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Views [N, 4, S, S] at cameras [N, C] as seen from all sides that look alike, the given ones first."""
    return images.repeat(order, 1, 1, 1), turned(cameras, order)
