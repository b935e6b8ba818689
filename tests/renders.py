"""Whole images of fields, for the tests to compare with."""

import torch
from torch import Tensor

from sap3d.cameras import maths as cam
from sap3d.field.rendering import Rendering, render, render_views


@torch.no_grad()
def render_images(grid: Tensor, cameras: Tensor, size: int, samples: int, rays_per_chunk: int = 65536) -> Rendering:
    """Images of one field [4, R, R, R] at cameras [V, 3]: a Rendering of [V, size, size, …]."""
    pixels = cam.pixel_grid(size, grid.device)
    parts = [
        render(grid[None], camera[None, None], chunk, samples)
        for camera in cameras
        for chunk in pixels.split(rays_per_chunk)
    ]

    def gather(name: str) -> Tensor:
        return torch.cat([getattr(part, name).flatten(0, 2) for part in parts]).reshape(len(cameras), size, size, -1)

    return Rendering(gather("color"), gather("opacity")[..., 0], gather("depth")[..., 0])


def coloured_box(cameras: Tensor, size: int = 32) -> Tensor:
    """Views of a coloured box off the axis at cameras [V, C]: white-composited RGB + mask, [V, 4, size, size]."""
    axis = torch.linspace(-1, 1, 24, device=cameras.device)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    inside = ((x - 0.1).abs() < 0.55) & ((y + 0.15).abs() < 0.35) & (z.abs() < 0.5)
    grid = torch.stack([torch.where(inside, 12.0, -5.0), 6 * x, 6 * y, 6 * z])
    return render_views(grid, cameras, size, 48)


BOX_CAMERAS = torch.tensor([[0.3, 0.0, 1.8], [0.5, 1.4, 2.0], [0.1, 2.9, 1.7], [0.4, -1.5, 1.9]])


def mean_error(cameras: Tensor, truth: Tensor) -> float:
    """Mean pairwise rotation error in degrees."""
    return cam.pairwise_rotation_errors(cameras.cpu(), truth.cpu()).mean().rad2deg().item()
