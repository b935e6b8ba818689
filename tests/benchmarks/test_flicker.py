"""Warping between frames, on planes whose points are known."""

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.flicker import differences
from sap3d.cameras import maths as cam


def plane(cameras: torch.Tensor, size: int, paint: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of the plane x = 0.2, painted by its y and z: colours and opacity [F, 4, S, S], distances [F, S, S]."""
    origins, directions = cam.rays(cameras, cam.pixel_grid(size))
    depth = (0.2 - origins[..., 0]) / directions[..., 0]
    points = origins + depth[..., None] * directions
    grey = torch.stack([paint(*each[:, 1:].T, frame) for frame, each in enumerate(points)])[:, None]
    colours = torch.cat([grey.expand(-1, 3, -1), torch.ones_like(grey)], 1)
    return colours.unflatten(-1, (size, size)), depth.unflatten(-1, (size, size))


def test_colours_fixed_in_space_have_no_flicker_and_others_have_their_own():
    cameras = torch.tensor([[0.1, -0.1, 1.8], [0.15, 0.05, 1.8], [0.1, 0.15, 1.7]])

    def paint(change: float, y: torch.Tensor, z: torch.Tensor, frame: int) -> torch.Tensor:
        return 0.5 + 0.3 * torch.sin(3 * y) * torch.cos(2 * z) + change * frame

    for change, expected in ((0.0, 0.0), (0.1, (0.1 + 0.1 + 0.2) / 3)):
        found = differences(cameras, *plane(cameras, 64, partial(paint, change))).mean()
        torch.testing.assert_close(found, torch.tensor(expected), atol=2e-3, rtol=0)
