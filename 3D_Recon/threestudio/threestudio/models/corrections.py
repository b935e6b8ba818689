"""What photos of one object differ in though the object does not: exposure, roll, principal point and focal length."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sap3d.cameras import maths as cam
from sap3d.images import resample


class PhotoCorrections(nn.Module):
    """Small free parameters of each photo with a Gaussian prior at zero; renders of the field are without them.

    A point of a photo shows what the ideal camera (upright, centred, of the one field of view) has at another point,
    and the object's colours there times a gain; white stays white. Gains, focal lengths and shifts
    upwards are fixed in the mean over photos: the field's colours, the radii and the field's height could take up more.
    """

    @dataclass
    class Config:
        exposure: float = 0.0  # expected deviations; of the logarithm of each channel's gain. Zero: not free
        roll: float = 0.0  # radians
        shift: float = 0.0  # of the principal point, where (−1, 1) is the image
        focal: float = 0.0  # of the logarithm of the focal length

    def __init__(self, config: Config, photos: int):
        super().__init__()
        widths = [config.exposure] * 3 + [config.roll] + [config.shift] * 2 + [config.focal]
        self.register_buffer("widths", torch.tensor(widths))
        self.values = nn.Parameter(torch.zeros(photos, len(widths)))  # in expected deviations

    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-gains [N, 3], rolls [N], shifts [N, 2] and log-focals [N]."""
        scaled = self.values * self.widths
        return scaled[:, :3], scaled[:, 3], scaled[:, 4:6], scaled[:, 6]

    def ideal_pixels(self, view: Tensor, pixel: Tensor) -> Tensor:
        """Where the ideal cameras see what the photos `view` [P] show at `pixel` [P, 2]; normalised coordinates."""
        _, roll, shift, focal = (part[view] for part in self.parts())
        return rotate((pixel - shift) * (-focal).exp()[:, None], -roll)

    def expose(self, view: Tensor, color: Tensor, opacity: Tensor) -> Tensor:
        """Ideal colours on white, [P, 3], of opacity [P], as the photos `view` [P] show them."""
        white = 1 - opacity[:, None]
        return (color - white) * self.parts()[0][view].exp() + white

    @torch.no_grad()
    def undo(self, photos: Tensor) -> Tensor:
        """The photos [N, 4, S, S], colour on white and alpha, as ideal cameras would have taken them."""
        if not self.values.any():
            return photos
        gain, roll, shift, focal = (part.to(photos) for part in self.parts())
        size = photos.shape[-1]
        ideal = cam.pixel_grid(size, photos.device).expand(len(photos), -1, -1)
        pixel = rotate(ideal, roll[:, None]) * focal.exp()[:, None, None] + shift[:, None]
        grid = (pixel * pixel.new_tensor([1.0, -1.0])).view(len(photos), size, size, 2)
        color, alpha = resample(photos, grid).split((3, 1), 1)
        premultiplied = (color - 1 + alpha) / gain.exp()[..., None, None]
        return torch.cat([(premultiplied + 1 - alpha).clamp(0, 1), alpha], 1)

    def prior(self) -> Tensor:
        """Mean squared value, in expected deviations."""
        return self.values.square().mean()

    @torch.no_grad()
    def project(self) -> None:
        """Bring gains, focal lengths and shifts upwards back to none in the mean; call it after each step."""
        fixed = [0, 1, 2, 5, 6]
        self.values[:, fixed] -= self.values[:, fixed].mean(0)


def rotate(points: Tensor, angle: Tensor) -> Tensor:
    """Points [..., 2] turned counter-clockwise by angles [...]."""
    x, y = points.unbind(-1)
    return torch.stack([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], -1)
