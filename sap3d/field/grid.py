"""Dense grids of raw values: many small radiance fields, or one large, in plain torch, on any device.

A field is a grid [4, R, R, R] of raw values over the cube |x|, |y|, |z| ≤ SCENE_BOUND, indexed [channel, z, y, x] with
corner-aligned nodes: channel 0 is density before activation, 1–3 colour before the sigmoid. Values are interpolated
first and activated after (DVGO, arXiv 2111.11215, §4.1), which lets a coarse grid hold a sharp surface. Only the part
of a ray inside the sphere of radius SCENE_BOUND is sampled. Everything is differentiable in the grid and the points.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from torch import Tensor

from sap3d.cameras.maths import SCENE_BOUND

DENSITY_SCALE = 30.0  # density per unit of length at softplus = 1: a surface a few hundredths thick can be opaque
DENSITY_SHIFT = -5.0  # a grid of zeros is then nearly transparent (opacity below 0.25 along a diameter)


def activate_density(raw: Tensor) -> Tensor:
    """Raw density → density per unit of length."""
    return DENSITY_SCALE * F.softplus(raw + DENSITY_SHIFT)


def sample(grid: Tensor, points: Tensor) -> Tensor:
    """Trilinear interpolation of raw values; zero outside the cube.

    On the CPU this is a sparse matrix of corner weights times the table of nodes, five times as fast as torch's
    kernel for volumes (`F.grid_sample`, used on other devices), gradients included.

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
    table = grid.permute(0, 2, 3, 4, 1).reshape(-1, channels)
    nodes = (points + SCENE_BOUND) * ((resolution - 1) / (2 * SCENE_BOUND))
    return _Interpolation.apply(table, nodes, resolution).reshape(batch, -1, channels)


class _Interpolation(torch.autograd.Function):
    """Weighted sums of the rows of a table [B · R³, C] at positions in units of nodes [B, P, 3]: [B · P, C]."""

    @staticmethod
    def forward(ctx, table: Tensor, nodes: Tensor, resolution: int) -> Tensor:
        corners = nodes.floor().clamp_(0, resolution - 2)
        fractions = (nodes - corners).reshape(-1, 3).unbind(-1)
        x, y, z = corners.int().unbind(-1)
        first = x + resolution * (y + resolution * z)
        first += torch.arange(len(nodes), dtype=torch.int32)[:, None] * resolution**3
        offsets = torch.tensor([0, 1, resolution, resolution + 1], dtype=torch.int32)
        offsets = torch.cat([offsets, offsets + resolution**2])
        index = first.reshape(-1, 1) + offsets
        weights = _corner_weights(*fractions)
        outside = ((nodes < 0) | (nodes > resolution - 1)).any(-1).reshape(-1, 1)
        if outside.any():
            weights.masked_fill_(outside, 0)
        ctx.nodes_shape = nodes.shape
        ctx.save_for_backward(table, index, weights, outside, *fractions)
        return F.embedding_bag(index, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        table, index, weights, outside, x, y, z = ctx.saved_tensors
        table_gradient = nodes_gradient = None
        if ctx.needs_input_grad[0]:
            rows = np.arange(0, index.numel() + 1, 8, dtype=np.int32)
            matrix = csr_matrix((weights.view(-1).numpy(), index.view(-1).numpy(), rows), (len(index), len(table)))
            table_gradient = torch.from_numpy(matrix.T @ gradient.numpy())
        if ctx.needs_input_grad[1]:
            # A matrix product sums the few channels much faster than sum(-1) does.
            ones = gradient.new_ones(gradient.shape[1], 1)
            slopes = [
                (F.embedding_bag(index, table, per_sample_weights=slope, mode="sum") * gradient) @ ones
                for slope in (_corner_weights(None, y, z), _corner_weights(x, None, z), _corner_weights(x, y, None))
            ]
            nodes_gradient = torch.cat(slopes, -1).masked_fill_(outside, 0).reshape(ctx.nodes_shape)
        return table_gradient, nodes_gradient, None


def _corner_weights(x: Tensor | None, y: Tensor | None, z: Tensor | None) -> Tensor:
    """Weights of a cell's corners, x fastest, from fractions [K]: [K, 8]; None: the derivative along that axis."""
    like = x if x is not None else y
    one = torch.ones_like(like)
    (x0, x1), (y0, y1), (z0, z1) = [(-one, one) if f is None else (1 - f, f) for f in (x, y, z)]
    weights = like.new_empty(len(like), 8)
    for pair, yz in enumerate((z0 * y0, z0 * y1, z1 * y0, z1 * y1)):
        torch.mul(yz, x0, out=weights[:, 2 * pair])
        torch.mul(yz, x1, out=weights[:, 2 * pair + 1])
    return weights


def ray_interval(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Depths at which rays enter and leave the sphere of radius SCENE_BOUND, [...]; equal for rays that miss it.

    Args:
        origins, directions: [..., 3], broadcasting.
    """
    length2 = directions.square().sum(-1)
    middle = -(origins * directions).sum(-1) / length2
    closest2 = (origins + middle[..., None] * directions).square().sum(-1)
    half = ((SCENE_BOUND**2 - closest2).clamp(min=1e-8) / length2).sqrt()
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
    """Mean squared difference of neighbouring nodes for each grid of [B, C, R, R, R], [B]."""
    return sum(grid.diff(dim=axis).square().mean((1, 2, 3, 4)) for axis in (2, 3, 4))
