"""Renders of the embedded model's field, differentiable in it and in the cameras."""

from dataclasses import dataclass

import torch
from torch import Tensor

from camerabooth.backbones.embedded.volume import Field, sample_grid, turned
from sap3d.cameras import maths as cam
from sap3d.cameras.maths import SCENE_BOUND
from sap3d.field import grid as grids


@dataclass
class View:
    """A rendered field; P pixels of M targets."""

    image: Tensor  # colour on white and opacity, [B, M, P, 4]
    features: Tensor  # [B, M, P, C], zero where nothing is
    depth: Tensor  # expected depth relative to the camera's distance, in units of SCENE_BOUND, [B, M, P]
    weights: Tensor  # of the samples, [B, M, P, S]
    sample_depths: Tensor  # relative like `depth`, [B, M, P, S]


def render(
    field: Field, cameras: Tensor, pixels: Tensor, samples: int, generator: torch.Generator | None = None
) -> View:
    """Render pixels of a field's objects on white.

    Args:
        cameras: targets [B, M, ≥ 3], in the world.
        pixels: normalised image coordinates, [P, 2] or [B, M, P, 2].
        samples: samples a ray.
        generator: jitters the samples within their bins (training); None takes the bins' centres.
    """
    cameras = turned(cameras, field.azimuth)
    batch, targets = cameras.shape[:2]
    origins, directions = cam.rays(cameras, pixels.expand(batch, targets, *pixels.shape[-2:]))
    near, far = grids.ray_interval(origins, directions)
    if generator is None:
        offsets = torch.full((samples,), 0.5)
    else:
        offsets = torch.rand(*near.shape, samples, generator=generator)
    fractions = (torch.arange(samples, device=near.device) + offsets.to(near.device)) / samples
    depths = near[..., None] + (far - near)[..., None] * fractions
    points = origins[..., None, :] + depths[..., None] * directions[..., None, :]
    values = sample_grid(field.values, points.reshape(batch, -1, 3)).reshape(*depths.shape, -1)
    spacing = (far - near) * directions.norm(dim=-1) / samples
    weights, rendered = _Composite.apply(values, spacing)
    opacity = weights.sum(-1, keepdim=True)
    image = torch.cat([rendered[..., 1:4] + 1 - opacity, opacity], -1)
    relative = (depths - cameras[..., None, None, 2]) / SCENE_BOUND
    return View(image, rendered[..., 4:], (weights * relative).sum(-1), weights, relative)


class _Composite(torch.autograd.Function):
    """`grids.composite` of raw values [..., S, C], the first of which is density, at a spacing [...].

    Weights [..., S] and weighted sums [..., C]. One pass over the values where torch's own derivative takes five.
    """

    @staticmethod
    def forward(ctx, values: Tensor, spacing: Tensor) -> tuple[Tensor, Tensor]:
        raw = values[..., 0]
        optical = grids.activate_density(raw) * spacing[..., None]
        weights, _ = grids.composite(optical)
        rendered = torch.einsum("...s,...sc->...c", weights, values)
        ctx.save_for_backward(values, spacing, optical, weights)
        return weights, rendered

    @staticmethod
    def backward(ctx, weights_gradient: Tensor, rendered_gradient: Tensor) -> tuple[Tensor, Tensor]:
        values, spacing, optical, weights = ctx.saved_tensors
        gradient = weights[..., None] * rendered_gradient[..., None, :]
        slope = weights_gradient + torch.einsum("...sc,...c->...s", values, rendered_gradient)
        # ∂weight_i / ∂optical_j is the transmittance behind i at i = j, and −weight_i for all i behind j.
        weighted = slope * weights
        behind = weighted.flip(-1).cumsum(-1).flip(-1) - weighted
        transmittance = (-optical.cumsum(-1)).exp()
        optical_gradient = slope * transmittance - behind
        density = optical / spacing[..., None].clamp(min=1e-12)
        # d softplus(x) = 1 − exp(−softplus(x))
        raw_slope = grids.DENSITY_SCALE * (1 - (-density / grids.DENSITY_SCALE).exp())
        gradient[..., 0] += optical_gradient * raw_slope * spacing[..., None]
        return gradient, (optical_gradient * density).sum(-1)
