"""Voxels fitted to the inputs, and how far they can be trusted: what a tuned model remembers of its object besides.

Where inputs overlap, voxels are sharper than the network's mean; where nothing was seen, they are anything. Fits that
leave one input out each tell the one from the other: by the jackknife's estimate of the renders' variance (B. Efron,
C. Stein: The jackknife estimate of variance, Annals of Statistics 9, 1981).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sap3d.cameras.symmetry import repeated
from sap3d.field.rendering import render_views
from sap3d.field.synthesis import Level, coarse_to_fine, joint_fit

# At held cameras: the fit to all inputs, and those that leave one out.
WHOLE = (
    Level(resolution=24, size=64, steps=80, pixels=384, samples=32, pose_rate=0.0),
    Level(resolution=48, size=64, steps=120, pixels=384, samples=48, pose_rate=0.0),
)
PARTIAL = (
    Level(resolution=16, size=64, steps=60, pixels=256, samples=24, pose_rate=0.0),
    Level(resolution=32, size=64, steps=80, pixels=320, samples=32, pose_rate=0.0),
)
SMOOTHING = 3  # pixels, of the variance at half the views' size


class InstanceField(nn.Module):
    """Raw voxels of all inputs [4, R, R, R] and of all but one [N, 4, r, r, r], and the network's squared error."""

    def __init__(self, resolution: int, views: int, partial_resolution: int):
        super().__init__()
        self.register_buffer("whole", torch.zeros(4, *(resolution,) * 3))
        self.register_buffer("partial", torch.zeros(views, 4, *(partial_resolution,) * 3))
        self.register_buffer("error", torch.zeros(()))

    @classmethod
    def fit(cls, images: Tensor, cameras: Tensor, error: Tensor, seed: int, order: int = 1) -> "InstanceField":
        """Fit voxels to two or more views [N, 4, S, S] at cameras [N, 3].

        Args:
            error: mean `camerabooth.judge.errors_on_object` of the network's views of the inputs, given the others.
            order: of the object's symmetry; what leaves a view out leaves it out from all sides that look alike.
        """
        views, weights = len(images), 1 - torch.eye(len(images), device=images.device).repeat(1, order)
        images, cameras = repeated(images, cameras, order)
        field = cls(WHOLE[-1].resolution, views, PARTIAL[-1].resolution)
        field.whole = coarse_to_fine(images, cameras, WHOLE, seed).grid[0]
        field.partial = None
        for level in PARTIAL:
            hypotheses = cameras.expand(views, -1, -1).contiguous()
            field.partial = joint_fit(images, hypotheses, level, seed, start=field.partial, view_weights=weights).grid
        field.error = error.detach().clamp(min=1e-6)  # variances may be zero
        return field.to(images.device)

    def render(self, cameras: Tensor, size: int) -> Tensor:
        """Colour on white and alpha in [0, 1] at cameras [M, 3], [M, 4, size, size]."""
        return render_views(self.whole, cameras, size, WHOLE[-1].samples)

    def trust(self, cameras: Tensor, size: int) -> Tensor:
        """How far to trust the field rather than the network at cameras [M, 3], in [0, 1], [M, 1, size, size]."""
        parts = [render_views(grid, cameras, size // 2, PARTIAL[-1].samples) for grid in self.partial.unbind()]
        # (n − 1)/n times the sum of squared deviations: fits that share all inputs but one differ less than fits to
        # other inputs would.
        variance = (len(parts) - 1) * torch.stack(parts).var(0, correction=0).mean(1, keepdim=True)
        variance = F.avg_pool2d(variance, SMOOTHING, 1, SMOOTHING // 2, count_include_pad=False)
        variance = F.interpolate(variance, size=size, mode="bilinear")
        return self.error / (self.error + variance)

    def combine(self, views: Tensor, cameras: Tensor) -> Tensor:
        """The network's views [M, 4, S, S] with the field's, each weighted by the inverse of its variance."""
        size = views.shape[-1]
        trust = self.trust(cameras, size)
        return trust * self.render(cameras, size) + (1 - trust) * views
