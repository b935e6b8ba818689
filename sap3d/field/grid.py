"""Batched dense-grid volume renderer: many small radiance fields, or one large, in plain torch.

A field is a grid [4, R, R, R] of raw values over the cube |x|, |y|, |z| ≤ SCENE_BOUND, indexed [channel, z, y, x] with
corner-aligned nodes: channel 0 is density before activation, 1–3 colour before the sigmoid. Values are interpolated
first and activated after (DVGO, arXiv 2111.11215, §4.1), which lets a coarse grid hold a sharp surface. Only the part
of a ray inside the sphere of radius SCENE_BOUND is sampled. Everything is differentiable in the grid and the cameras.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from torch import Tensor

from sap3d.cameras import maths as cam
from sap3d.cameras.maths import SCENE_BOUND

DENSITY_SCALE = 30.0  # density per unit of length at softplus = 1: a surface a few hundredths thick can be opaque
DENSITY_SHIFT = -5.0  # a grid of zeros is then nearly transparent (opacity below 0.25 along a diameter)


@dataclass
class Rendering:
    """What `render` returns; leading dimensions are those of the pixels."""

    color: Tensor  # composited on white, [..., 3]
    opacity: Tensor  # [...]
    depth: Tensor  # expected depth of what was hit, premultiplied by opacity, [...]


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
        where = (points / SCENE_BOUND)[:, :, None, None]
        return F.grid_sample(grid, where, mode="bilinear", align_corners=True)[..., 0, 0].transpose(1, 2)
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


def render(
    grid: Tensor,
    cameras: Tensor,
    pixels: Tensor,
    samples: int,
    generator: torch.Generator | None = None,
) -> Rendering:
    """Render pixels of B fields on white, each seen by V cameras.

    Args:
        grid: [B, 4, R, R, R].
        cameras: [B, V, 3].
        pixels: normalised image coordinates, [P, 2], [V, P, 2] or [B, V, P, 2].
        samples: samples a ray.
        generator: jitters the samples within their bins (training); None takes the bins' centres.

    Returns:
        Rendering with leading dimensions [B, V, P].
    """
    batch, views = cameras.shape[:2]
    origins, directions = cam.rays(cameras, pixels.expand(batch, views, *pixels.shape[-2:]))
    near, far = ray_interval(origins, directions)
    if generator is None:
        offsets = torch.full((samples,), 0.5, device=grid.device)
    else:
        # The same for all fields of a batch, so that a field's fit does not depend on its company.
        offsets = torch.rand(*near.shape[1:], samples, generator=generator).to(grid.device)
    fractions = (torch.arange(samples, device=grid.device) + offsets) / samples
    depths = near[..., None] + (far - near)[..., None] * fractions
    points = origins[..., None, :] + depths[..., None] * directions[..., None, :]
    raw = sample(grid, points.reshape(batch, -1, 3)).reshape(*depths.shape, 4)
    spacing = ((far - near) * directions.norm(dim=-1) / samples)[..., None]
    weights, opacity = composite(activate_density(raw[..., 0]) * spacing)
    color = (weights[..., None] * raw[..., 1:].sigmoid()).sum(-2) + (1 - opacity)[..., None]
    return Rendering(color, opacity, (weights * depths).sum(-1))


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
