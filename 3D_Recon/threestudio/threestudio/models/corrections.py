"""What photos of one object differ in though the object does not: exposure and white balance."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


class PhotoCorrections(nn.Module):
    """Gains of each photo's channels, free with a Gaussian prior about none; renders of the field are without them.

    A photo shows the object's colours times its gains; white stays white. They are fixed in the mean over photos, which
    the field's colours could take up as well. Roll and lens belong to cameras (docs/CONVENTIONS.md).
    """

    @dataclass
    class Config:
        exposure: float | None = None  # expected deviation of a gain's logarithm; 0: not free; None: see `SAP3D`

    def __init__(self, config: Config, photos: int):
        super().__init__()
        self.width = config.exposure or 0.0
        self.values = nn.Parameter(torch.zeros(photos, 3))  # in expected deviations

    def log_gains(self) -> Tensor:
        """Of each photo's channels, [N, 3]."""
        return self.values * self.width

    def expose(self, view: Tensor, color: Tensor, opacity: Tensor) -> Tensor:
        """Ideal colours on white, [P, 3], of opacity [P], as the photos `view` [P] show them."""
        white = 1 - opacity[:, None]
        return (color - white) * self.log_gains()[view].exp() + white

    @torch.no_grad()
    def undo(self, photos: Tensor) -> Tensor:
        """The photos [N, 4, S, S], colour on white and alpha, with gains of one."""
        if not self.values.any():
            return photos
        color, alpha = photos.split((3, 1), 1)
        premultiplied = (color - 1 + alpha) / self.log_gains().to(photos).exp()[..., None, None]
        return torch.cat([(premultiplied + 1 - alpha).clamp(0, 1), alpha], 1)

    def prior(self) -> Tensor:
        """Mean squared value, in expected deviations."""
        return self.values.square().mean()

    @torch.no_grad()
    def project(self) -> None:
        """Bring gains back to none in the mean; call it after each step."""
        self.values -= self.values.mean(0)
