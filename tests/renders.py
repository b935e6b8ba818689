"""Whole images of fields, for the tests to compare with."""

import torch
from torch import Tensor

from sap3d.cameras import maths as cam
from sap3d.field.grid import Rendering, render


@torch.no_grad()
def render_images(grid: Tensor, cameras: Tensor, size: int, samples: int, rays_per_chunk: int = 65536) -> Rendering:
    """Images of one field [4, R, R, R] at cameras [V, 3]: a Rendering of [V, size, size, …]."""
    pixels = cam.pixel_grid(size)
    parts = [
        render(grid[None], camera[None, None], chunk, samples)
        for camera in cameras
        for chunk in pixels.split(rays_per_chunk)
    ]

    def gather(name: str) -> Tensor:
        return torch.cat([getattr(part, name).flatten(0, 2) for part in parts]).reshape(len(cameras), size, size, -1)

    return Rendering(gather("color"), gather("opacity")[..., 0], gather("depth")[..., 0])
