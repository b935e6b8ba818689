"""Fields and components for the tests."""

import torch
from torch import Tensor

from sap3d.field.grid import SCENE_BOUND
from threestudio.models.geometry.dense_grid import DenseGrid
from threestudio.models.renderers.culled import CulledRenderer


def nodes(resolution: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, y, z of a grid's nodes, each [R, R, R], indexed [z, y, x]."""
    axis = torch.linspace(-SCENE_BOUND, SCENE_BOUND, resolution)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return x, y, z


def ball(resolution: int, radius: float, centre=(0.0, 0.0, 0.0), sharpness: float = 400.0) -> Tensor:
    """A grid [4, R, R, R]: a solid ball, red above z = 0, green below."""
    x, y, z = nodes(resolution)
    distance = ((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2).sqrt()
    density = ((radius - distance) * sharpness + 5).clamp(-20, 30)
    red = torch.where(z > 0, 6.0, -6.0)
    return torch.stack([density, red, -red, torch.full_like(red, -6.0)])


def renderer(grid: Tensor, **options) -> CulledRenderer:
    """The components around a grid [4, R, R, R]."""
    geometry = DenseGrid(DenseGrid.Config())
    geometry.load({"grid": grid})
    return CulledRenderer(CulledRenderer.Config(**options), geometry)
