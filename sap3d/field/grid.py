"""Dense grids of raw values: many small radiance fields, or one large, in plain torch, on any device.

A field is a grid [4, R, R, R] of raw values over the cube |x|, |y|, |z| ≤ SCENE_BOUND, indexed [channel, z, y, x] with
corner-aligned nodes: channel 0 is density before activation, 1–3 colour before the sigmoid. Values are interpolated
first and activated after (DVGO, arXiv 2111.11215, §4.1), which lets a coarse grid hold a sharp surface. Only the part
of a ray inside the sphere of radius SCENE_BOUND is sampled. Everything is differentiable in the grid and the points.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sap3d.cameras.maths import SCENE_BOUND
from sap3d.field import trilinear
from sap3d.field.smoothness import Variation

DENSITY_SCALE = 30.0  # density per unit of length at softplus = 1: a surface a few hundredths thick can be opaque
DENSITY_SHIFT = -5.0  # a grid of zeros is then nearly transparent (opacity below 0.25 along a diameter)


def activate_density(raw: Tensor) -> Tensor:
    """Raw density → density per unit of length."""
    return DENSITY_SCALE * F.softplus(raw + DENSITY_SHIFT)


def sample(grid: Tensor, points: Tensor) -> Tensor:
    """Trilinear interpolation of raw values; zero outside the cube.

    On the CPU it is compiled (trilinear.py): many times as fast as torch's kernel for volumes (`F.grid_sample`, used on
    other devices), gradients included.

    Args:
        grid: [B, C, R, R, R]; the fastest layout is channels last (as of `torch.channels_last_3d`).
        points: world points, [B, P, 3].

    Returns:
        [B, P, C].
    """
    batch, channels, resolution = grid.shape[:3]
    if grid.device.type != "cpu":
        unit = points / SCENE_BOUND
        values = F.grid_sample(grid, unit[:, :, None, None], mode="bilinear", align_corners=True)[..., 0, 0]
        # The kernel fades out over one node's spacing.
        return values.transpose(1, 2).masked_fill((unit.abs() > 1).any(-1, keepdim=True), 0)
    table = node_rows(grid)
    nodes = (points + SCENE_BOUND) * ((resolution - 1) / (2 * SCENE_BOUND))
    return _Interpolation.apply(table, nodes, resolution).reshape(batch, -1, channels)


def node_rows(grid: Tensor) -> Tensor:
    """Grids [B, C, R, R, R] as one row a node, x fastest, [B · R³, C]."""
    return grid.permute(0, 2, 3, 4, 1).reshape(-1, grid.shape[1])


@dataclass(frozen=True)
class Grids:
    """B fields as one function of points."""

    values: Tensor  # raw, [B, 4, R, R, R]

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density per unit of length [...] and colour in [0, 1] [..., 3] at world points [..., 3], B equal parts."""
        raw = sample(self.values, points.reshape(len(self.values), -1, 3)).reshape(*points.shape[:-1], 4)
        return activate_density(raw[..., 0]), raw[..., 1:].sigmoid()

    @property
    def table(self) -> Tensor:
        """One row a node, x fastest, [B · R³, 4]."""
        return node_rows(self.values)


class _Interpolation(torch.autograd.Function):
    """Values of a table [B · R³, C] at positions in units of nodes [B, P, 3]: [B · P, C]."""

    @staticmethod
    def forward(ctx, table: Tensor, nodes: Tensor, resolution: int) -> Tensor:
        ctx.save_for_backward(table, nodes)
        ctx.places = nodes.shape[1], resolution
        rows = nodes.detach().reshape(-1, 3).numpy()
        return torch.from_numpy(trilinear.interpolate(table.detach().numpy(), rows, *ctx.places))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        table, nodes = ctx.saved_tensors
        rows, upstream = nodes.detach().reshape(-1, 3).numpy(), gradient.contiguous().numpy()
        table_gradient = nodes_gradient = None
        if ctx.needs_input_grad[0]:
            table_gradient = torch.from_numpy(trilinear.spread(table.shape, rows, *ctx.places, upstream))
        if ctx.needs_input_grad[1]:
            slopes = trilinear.slopes(table.detach().numpy(), rows, *ctx.places, upstream)
            nodes_gradient = torch.from_numpy(slopes).view(nodes.shape)
        return table_gradient, nodes_gradient, None


def ray_interval(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Depths at which rays enter and leave the sphere of radius SCENE_BOUND, [...]; equal for rays that miss it.

    Args:
        origins, directions: [..., 3], broadcasting.
    """
    length2 = directions.square().sum(-1)
    middle = -(origins * directions).sum(-1) / length2
    closest2 = (origins + middle[..., None] * directions).square().sum(-1)
    inside = SCENE_BOUND**2 - closest2
    half = (inside.clamp(min=1e-8) / length2).sqrt() * (inside > 0)
    return middle - half, middle + half


def composite(optical_depth: Tensor) -> tuple[Tensor, Tensor]:
    """Alpha compositing front to back.

    Args:
        optical_depth: density × length of each sample, [..., S].

    Returns:
        Weights [..., S] and their sum, the opacity [...].
    """
    accumulated = optical_depth.cumsum(-1)
    transmittance = (optical_depth - accumulated).exp()
    weights = transmittance * (1 - (-optical_depth).exp())
    return weights, 1 - (-accumulated[..., -1]).exp()


def resize(grid: Tensor, resolution: int) -> Tensor:
    """Trilinear resampling of grids [B, C, R, R, R] to another resolution."""
    return F.interpolate(grid, size=(resolution,) * 3, mode="trilinear", align_corners=True)


def total_variation(grid: Tensor) -> Tensor:
    """Mean squared difference of neighbouring nodes, summed over the axes, of each grid of [B, C, R, R, R], [B]."""
    if grid.device.type == "cpu" and grid.dtype == torch.float32:
        return Variation.apply(grid.permute(0, 2, 3, 4, 1))
    return sum(grid.diff(dim=axis).square().mean((1, 2, 3, 4)) for axis in (2, 3, 4))
