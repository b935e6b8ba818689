"""The cameras of the inputs, refined together with the field."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sap3d.cameras import wrap_angle


class PoseTable(nn.Module):
    """(elevation, azimuth, radius) of each view; view 0's azimuth is the gauge and stays what it is."""

    @dataclass
    class Config:
        elevation_range: list[float] = field(default_factory=lambda: [-30.0, 80.0])  # degrees
        radius_range: list[float] = field(default_factory=lambda: [1.2, 2.6])

    def __init__(self, config: Config, cameras: Tensor):
        """Args: cameras: [N, 3], radians."""
        super().__init__()
        self.register_buffer("initial", cameras.clone())
        # Cameras handed to this stage may lie outside the bounds; these only hold back the refinement.
        low = torch.tensor([math.radians(config.elevation_range[0]), -math.inf, config.radius_range[0]])
        high = torch.tensor([math.radians(config.elevation_range[1]), math.inf, config.radius_range[1]])
        self.register_buffer("low", torch.minimum(low, cameras))
        self.register_buffer("high", torch.maximum(high, cameras))
        free = torch.ones_like(cameras)
        free[0, 1] = 0
        self.register_buffer("free", free)
        self.offsets = nn.Parameter(torch.zeros_like(cameras))

    def forward(self) -> Tensor:
        """Cameras [N, 3]; differentiable."""
        return self.initial + self.offsets * self.free

    def prior(self) -> Tensor:
        """Mean squared offset from the initial cameras (radians and units of length alike)."""
        return (self.offsets * self.free).square().mean()

    @torch.no_grad()
    def project(self) -> None:
        """Bring the offsets back into the bounds, and their mean radius to the initial one.

        The object's size and its distance are nearly the same thing in an image, so together they would drift.
        """
        self.offsets[:, 2] -= self.offsets[:, 2].mean()
        self.offsets.copy_((self.initial + self.offsets).clamp(self.low, self.high) - self.initial)

    @torch.no_grad()
    def cameras(self) -> Tensor:
        """Cameras [N, 3] with azimuths in [−π, π), outside any graph."""
        cameras = self().detach().cpu().clone()
        cameras[:, 1] = wrap_angle(cameras[:, 1])
        return cameras
