"""Half-turn symmetry: an object that looks the same when it is turned by 180° about the vertical.

Packages, cans, bottles and bowls do, or nearly; then a photo also shows the far side, seen from the other direction.
"""

import math

import torch
from torch import Tensor

from sap3d.field.synthesis import Level, joint_fit


def half_turned(cameras: Tensor) -> Tensor:
    """Cameras (elevation, azimuth, …) [..., C] on the other side of the object."""
    turned = cameras.clone()
    turned[..., 1] += math.pi
    return turned


def with_far_sides(images: Tensor, cameras: Tensor, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Views [N, 4, S, S] at cameras [N, C], followed, if the object is symmetric, by the same views half a turn on."""
    if not symmetric:
        return images, cameras
    return torch.cat([images, images]), torch.cat([cameras, half_turned(cameras)])


def mean_of_sides(cameras: Tensor) -> Tensor:
    """One camera of each photo, [N, C], from those that `with_far_sides` gave it, after they have moved, [2 N, C]."""
    here, there = cameras.chunk(2)
    total = here + there
    total[..., 1] -= math.pi
    return total / 2


def loss_from_both_sides(photos: Tensor, cameras: Tensor, level: Level) -> float:
    """What remains of their loss when voxels are to look like the photos from the other side, too.

    Silhouettes that are not their own mirror images, a handle on one side, and faces of different colours that photos
    show from both directions raise it above that of the photos alone; print that no two photos contradict does not.

    Args:
        photos: colour on white and alpha in [0, 1], [N, 4, S, S].
        cameras: held, [N, C].
    """
    images, cameras = with_far_sides(photos, cameras, symmetric=True)
    return joint_fit(images, cameras[None], level).losses.item()
