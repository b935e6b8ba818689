"""Volume rendering by quadrature: batches of grids, rays of any field, and whole images, on any device.

All of it is `integrate`: samples between two depths of each ray, composited front to back. Where an `Occupancy` says
that there may be nothing, the field is not asked.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sap3d.cameras import maths as cam
from sap3d.cameras.maths import SCENE_BOUND
from sap3d.field.grid import DENSITY_SCALE, DENSITY_SHIFT, Grids, composite, ray_interval
from sap3d.field.march import March
from sap3d.field.occupancy import Occupancy
from sap3d.field.samples import COLOR, DEPTH, DISTORTION, OPACITY

# Density per unit of length [...] and colour in [0, 1] [..., 3] at world points [..., 3].
Field = Callable[[Tensor], tuple[Tensor, Tensor]]
IMAGE_BLOCKS = 4  # parts of an image's rays, front to back; what hides the next is found out between them
OPAQUE = 0.999  # opacity from which nothing behind shows


@dataclass
class Rendering:
    """What rays show; leading dimensions are theirs."""

    color: Tensor  # [..., 3]; premultiplied by the opacity until it is put `on` a background
    opacity: Tensor  # [...]
    depth: Tensor  # expected depth of what was hit, premultiplied by the opacity, [...]
    distortion: Tensor | None = None  # Mip-NeRF 360's distortion of the rays' weights, [...]

    def on(self, background: Tensor | float) -> "Rendering":
        """Before a background [..., 3]."""
        color = self.color + background * (1 - self.opacity)[..., None]
        return Rendering(color, self.opacity, self.depth, self.distortion)


def bins(samples: int, rays: tuple[int, ...], device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Where samples lie in units of bins along rays: their centres, [S], or jittered by a generator, [*rays, S]."""
    places = torch.arange(samples, device=device)
    if generator is None:
        return places + 0.5
    return places + torch.rand(*rays, samples, generator=generator, device=generator.device).to(device)


def integrate(
    field: Field,
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    bins: Tensor,
    occupancy: Occupancy | None = None,
) -> Rendering:
    """Quadrature along rays, differentiable in all but the occupancy, without background.

    On the CPU rays through `Grids` are marched by compiled code (march.py); all other fields and devices are
    computed by torch, sample by sample for all rays at once.

    Args:
        origins, directions: as of `sap3d.cameras.maths.rays`, [..., 3]; with an occupancy [P, 3].
        near, far: depths, [...].
        bins: of the samples, [..., S].
        occupancy: only what it contains is evaluated; None evaluates all samples.
    """
    if isinstance(field, Grids) and near.device.type == "cpu":
        return _marched(field, origins, directions, near, far, bins, occupancy)
    samples = bins.shape[-1]
    depths = near[..., None] + bins * ((far - near) / samples)[..., None]
    length = (far - near) * directions.norm(dim=-1) / samples
    if occupancy is None:
        density, color = field(origins[..., None, :] + depths[..., None] * directions[..., None, :])
        weights, opacity = composite(density * length[..., None])
        total = (weights[..., None] * color).sum(-2)
    else:
        with torch.no_grad():
            points = origins[:, None] + depths[..., None] * directions[:, None]
            flat = occupancy.contains(points).view(-1).nonzero()[:, 0]
        ray = flat // samples
        density, color = field(origins[ray] + depths.view(-1)[flat, None] * directions[ray])
        optical = density.new_zeros(depths.numel()).index_put((flat,), density * length[ray])
        weights, opacity = composite(optical.view(depths.shape))
        packed = weights.reshape(-1)[flat, None] * color
        total = packed.new_zeros(len(near), 3).index_add(0, ray, packed)
    units = 1 / (2 * SCENE_BOUND)
    spread = distortion(weights, depths.detach() * units, (far - near).detach()[..., None] * (units / samples))
    return Rendering(total, opacity, (weights * depths).sum(-1), spread)


def _marched(
    grids: Grids,
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    bins: Tensor,
    occupancy: Occupancy | None,
) -> Rendering:
    """`integrate` by `March`."""
    places = [each.expand_as(directions).reshape(-1, 3) for each in (origins, directions)]
    depths = [each.reshape(-1) for each in (near, far)]
    space = (occupancy or Occupancy()).packed()
    activation = DENSITY_SCALE, DENSITY_SHIFT
    resolution, bins = grids.values.shape[-1], bins.reshape(-1, bins.shape[-1])
    shown = March.apply(grids.table, *places, *depths, bins, resolution, activation, *space)
    shown = shown.view(*near.shape, 6)
    return Rendering(shown[..., COLOR], shown[..., OPACITY], shown[..., DEPTH], shown[..., DISTORTION])


def render(
    grid: Tensor,
    cameras: Tensor,
    pixels: Tensor,
    samples: int,
    generator: torch.Generator | None = None,
) -> Rendering:
    """Render pixels of B fields on white, each seen by V cameras; every sample is evaluated.

    Args:
        grid: [B, 4, R, R, R].
        cameras: [B, V, 3], [B, V, 5] or [B, V, 7].
        pixels: normalised image coordinates, [P, 2], [V, P, 2] or [B, V, P, 2].
        samples: samples a ray.
        generator: jitters the samples within their bins (training), alike for all fields of a batch, so that a field's
            fit does not depend on its company; None takes the bins' centres.

    Returns:
        Rendering with leading dimensions [B, V, P].
    """
    batch, views = cameras.shape[:2]
    origins, directions = cam.rays(cameras, pixels.expand(batch, views, *pixels.shape[-2:]))
    near, far = ray_interval(origins, directions)
    places = bins(samples, near.shape[1:], grid.device, generator)
    return integrate(Grids(grid), origins, directions, near, far, places).on(1.0)


@torch.no_grad()
def render_views(raw: Tensor, cameras: Tensor, size: int, samples: int) -> Tensor:
    """Views of one grid [4, R, R, R] at cameras [M, ≥ 3]: colour on white and opacity, [M, 4, size, size]."""
    pixels, views = cam.pixel_grid(size, raw.device), []
    for camera in cameras:
        view = render(raw[None], camera[None, None], pixels, samples)
        views.append(torch.cat([view.color, view.opacity[..., None]], -1).reshape(size, size, 4).permute(2, 0, 1))
    return torch.stack(views)


def render_rays(
    field: Field,
    origins: Tensor,
    directions: Tensor,
    occupancy: Occupancy,
    samples: int,
    span_samples: int,
    generator: torch.Generator | None = None,
) -> Rendering:
    """Rays [P, 3] without background, differentiably; samples lie between the first and the last occupied place.

    Args:
        span_samples: along the whole ray, by which those places are found.
        generator: as of `render`.
    """
    near, far = occupancy.span(origins, directions, span_samples)
    active = (far > near).nonzero()[:, 0]
    near, far = near[active], far[active]
    places = bins(samples, near.shape, near.device, generator)
    parts = integrate(field, origins[active], directions[active], near, far, places, occupancy)
    packed = torch.cat([parts.color, torch.stack([parts.opacity, parts.depth, parts.distortion], -1)], -1)
    whole = packed.new_zeros(len(origins), 6).index_copy(0, active, packed)
    color, opacity, depth, spread = whole.split([3, 1, 1, 1], -1)
    return Rendering(color, opacity[:, 0], depth[:, 0], spread[:, 0])


@torch.no_grad()
def render_image(
    field: Field, camera: Tensor, size: int, occupancy: Occupancy, samples: int, span_samples: int
) -> Rendering:
    """A whole image of a camera [≥ 3] without background: a Rendering of [size², …].

    Rays that meet no occupied place are skipped; the others are marched in blocks between the first and the last such
    place and dropped once nothing behind them shows.
    """
    origins, directions = cam.rays(camera, cam.pixel_grid(size, camera.device))
    origins = origins.expand_as(directions)
    near, far = occupancy.image_span(camera, size, span_samples)
    active = (far > near).nonzero()[:, 0]
    color, opacity, depth = torch.zeros_like(directions), torch.zeros_like(near), torch.zeros_like(near)
    places = bins(samples // IMAGE_BLOCKS, (), near.device, None)
    length = (far - near) / IMAGE_BLOCKS
    for block in range(IMAGE_BLOCKS):
        start = near[active] + block * length[active]
        rays = origins[active], directions[active], start, start + length[active]
        part = integrate(field, *rays, places, occupancy)
        visible = 1 - opacity[active]
        color[active] += visible[:, None] * part.color
        depth[active] += visible * part.depth
        opacity[active] += visible * part.opacity
        active = active[opacity[active] < OPAQUE]
    return Rendering(color, opacity, depth)


def distortion(weights: Tensor, middles: Tensor, extent: float | Tensor) -> Tensor:
    """Mip-NeRF 360's distortion loss (arXiv 2111.12077, eq. 15): small when a ray's weight lies in one place.

    Args:
        weights: [..., S].
        middles: where the samples lie, ascending, in units of the scene, [..., S].
        extent: width of a ray's samples in the same units, [..., 1] or one for all.
    """
    # Σij wi wj |si − sj| by prefix sums, in O(S) memory.
    before = weights.cumsum(-1) - weights
    moment = (weights * middles).cumsum(-1) - weights * middles
    pairs = 2 * (weights * (middles * before - moment)).sum(-1)
    return pairs + (weights.square() * extent).sum(-1) / 3
