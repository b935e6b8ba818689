"""Batched dense-grid volume renderer: many small radiance fields, or one large, in plain torch.

A field is a grid [4, R, R, R] of raw values over the cube |x|, |y|, |z| ≤ SCENE_BOUND, indexed [channel, z, y, x] with
corner-aligned nodes: channel 0 is density before activation, 1–3 colour before the sigmoid. Values are interpolated
first and activated after (DVGO, arXiv 2111.11215, §4.1), which lets a coarse grid hold a sharp surface. Only the part
of a ray inside the sphere of radius SCENE_BOUND is sampled. Everything is differentiable in the grid and the cameras.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sap3d import cameras as cam
from sap3d.cameras import SCENE_BOUND

DENSITY_SCALE = 30.0  # density per unit of length at softplus = 1: a surface a few hundredths thick can be opaque
DENSITY_SHIFT = -5.0  # a grid of zeros is then nearly transparent (opacity below 0.25 along a diameter)


@dataclass
class Rendering:
    """What `render` returns; leading dimensions are those of the pixels."""

    color: Tensor  # composited on the background, [..., 3]
    opacity: Tensor  # [...]
    depth: Tensor  # expected depth of what was hit, premultiplied by opacity, [...]
    weights: Tensor  # per sample, [..., S]
    points: Tensor  # sample positions, [..., S, 3]


def activate_density(raw: Tensor) -> Tensor:
    """Raw density → density per unit of length."""
    return DENSITY_SCALE * F.softplus(raw + DENSITY_SHIFT)


def sample(grid: Tensor, points: Tensor) -> Tensor:
    """Trilinear interpolation of raw values; zero outside the cube.

    Args:
        grid: [B, C, R, R, R].
        points: world points, [B, P, 3].

    Returns:
        [B, P, C].
    """
    batch, count = points.shape[:2]
    # torch's CPU kernel runs its batch in parallel and nothing else: a single grid is presented once for each thread.
    chunks = torch.get_num_threads() if batch == 1 and points.device.type == "cpu" else 1
    if count % chunks == 0 and chunks > 1:
        grid, points = grid.expand(chunks, -1, -1, -1, -1), points.reshape(chunks, count // chunks, 3)
    values = F.grid_sample(grid, (points / SCENE_BOUND)[:, :, None, None], mode="bilinear", align_corners=True)
    return values[..., 0, 0].transpose(1, 2).reshape(batch, count, -1)


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
    background: float = 1.0,
) -> Rendering:
    """Render pixels of B fields, each seen by V cameras.

    Args:
        grid: [B, 4, R, R, R].
        cameras: [B, V, 3].
        pixels: normalised image coordinates, [P, 2], [V, P, 2] or [B, V, P, 2].
        samples: samples a ray.
        generator: jitters the samples within their bins (training); None takes the bins' centres.
        background: grey level behind the field.

    Returns:
        Rendering with leading dimensions [B, V, P].
    """
    batch, views = cameras.shape[:2]
    origins, directions = cam.rays(cameras, pixels.expand(batch, views, *pixels.shape[-2:]))
    near, far = ray_interval(origins, directions)
    if generator is None:
        offsets = torch.full((samples,), 0.5, device=grid.device)
    else:
        offsets = torch.rand(*near.shape, samples, generator=generator).to(grid.device)
    fractions = (torch.arange(samples, device=grid.device) + offsets) / samples
    depths = near[..., None] + (far - near)[..., None] * fractions
    points = origins[..., None, :] + depths[..., None] * directions[..., None, :]
    raw = sample(grid, points.reshape(batch, -1, 3)).reshape(*depths.shape, 4)
    spacing = ((far - near) * directions.norm(dim=-1) / samples)[..., None]
    weights, opacity = composite(activate_density(raw[..., 0]) * spacing)
    color = (weights[..., None] * raw[..., 1:].sigmoid()).sum(-2) + background * (1 - opacity)[..., None]
    return Rendering(color, opacity, (weights * depths).sum(-1), weights, points)


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


@torch.no_grad()
def render_images(grid: Tensor, cameras: Tensor, size: int, samples: int, rays_per_chunk: int = 65536) -> Rendering:
    """Whole images of one field, without gradients and without keeping weights or points.

    Args:
        grid: [4, R, R, R].
        cameras: [V, 3].

    Returns:
        Rendering of [V, size, size, …]; weights and points are empty.
    """
    pixels = cam.pixel_grid(size, grid.device)
    parts = []
    for camera in cameras:
        for chunk in pixels.split(rays_per_chunk):
            parts.append(render(grid[None], camera[None, None], chunk, samples))
    shape = (len(cameras), size, size)
    gather = lambda name: torch.cat([getattr(part, name).flatten(0, 2) for part in parts]).reshape(*shape, -1)
    empty = grid.new_empty(0)
    return Rendering(gather("color"), gather("opacity")[..., 0], gather("depth")[..., 0], empty, empty)
