"""Normals of a field, and what a surface's normals should be like."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sap3d.field.rendering import Rendering


@dataclass
class Hits:
    """Where rays meet what they show; without gradients."""

    points: Tensor  # [P, 3]
    directions: Tensor  # of the rays, unit, [P, 3]
    weights: Tensor  # their opacities, [P]

    @classmethod
    @torch.no_grad()
    def of(cls, rendering: Rendering, origins: Tensor, directions: Tensor) -> "Hits":
        """At the expected depths of rays [P, 3]; those that meet nothing are left out."""
        met = rendering.opacity > 0.5
        depth = rendering.depth[met] / rendering.opacity[met]
        points = origins[met] + depth[:, None] * directions[met]
        return cls(points, F.normalize(directions[met], dim=-1), rendering.opacity[met])

    def mean(self, values: Tensor) -> Tensor:
        """Mean of values [P] by weight; 0 without hits."""
        return (self.weights * values).sum() / self.weights.sum().clamp(min=1e-6)


def normals(geometry: nn.Module, points: Tensor) -> Tensor:
    """Outward unit normals [P, 3] at world points [P, 3]: minus the slope of the raw density over a node each way."""
    steps = geometry.spacing * torch.cat([torch.eye(3), -torch.eye(3)]).to(points)
    raw = geometry.raw((points[:, None] + steps).view(-1, 3))[:, 0].view(-1, 2, 3)
    return F.normalize(raw[:, 1] - raw[:, 0], dim=-1)


def orientation(normal: Tensor, hits: Hits) -> Tensor:
    """Ref-NeRF's orientation loss (arXiv 2112.03907, eq. 11) where rays end: what is seen faces the camera."""
    return hits.mean((normal * hits.directions).sum(-1).clamp(min=0).square())


def smoothness(geometry: nn.Module, normal: Tensor, hits: Hits, generator: torch.Generator) -> Tensor:
    """Squared differences of the normals and those about a node away, in a random direction."""
    shift = torch.randn(hits.points.shape, generator=generator, device=generator.device).to(hits.points)
    shift = shift * geometry.spacing
    return hits.mean((normal - normals(geometry, hits.points + shift)).square().sum(-1))
