"""Photometric evidence for relative azimuths: views unwrapped around the vertical axis and compared.

Each view's colours are unrolled from the surface of revolution that has its silhouette's widths; two unrolled views
are compared at every relative azimuth by normalised cross-correlation over what both see (masked correlation by FFT,
Padfield 2012, IEEE Trans. Image Processing 21(5)). Nothing is learned here. On cans and bottles, whose outline says
nothing, the print alone then tells how far they were turned.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from relposepp.lifting import wrap_columns
from sap3d.cameras import maths as cam
from sap3d.cameras.maths import SCENE_BOUND

LEVELS = 24  # heights within ±SCENE_BOUND
WIDTH_SAMPLES = 41  # of a silhouette's row
BLUR = 7  # cells; what is smoother is left out of the fine channels
GRAZING = 0.15  # cosine of the steepest angle at which a surface counts as seen
CHANNELS = 6  # of `compare`
SHARPNESS = 15.0  # of `azimuth_log_probabilities`
SHARED = 0.15  # overlap from which a correlation means something
LEAST_OVERLAP = 0.01  # and LEAST_VARIANCE: below them there is nothing to compare
LEAST_VARIANCE = 1e-3


def unwrap(images: Tensor, cameras: Tensor, sectors: int) -> tuple[Tensor, Tensor]:
    """Colours around the object as a view at azimuth 0 sees them, if the object is a surface of revolution.

    Args:
        images: white-composited RGB + mask, [V, 4, S, S].
        cameras: at azimuth 0, [V, ≥ 3].

    Returns:
        Colours [V, 3, LEVELS, sectors] (sector k at azimuth 2πk / sectors) and weights [V, LEVELS, sectors], 0 where
        the view does not see the surface.
    """
    height = ((torch.arange(LEVELS, device=images.device) + 0.5) / LEVELS * 2 - 1) * SCENE_BOUND
    profile = half_widths(images[:, 3:], cameras, height)[..., None]
    azimuth = torch.arange(sectors, device=images.device) * (2 * math.pi / sectors)
    normal = torch.stack([azimuth.cos(), azimuth.sin(), torch.zeros_like(azimuth)], -1)
    z = height[:, None].expand(len(images), -1, sectors)
    points = torch.stack([profile * normal[:, 0], profile * normal[:, 1], z], -1)
    seen = cam.sample_images(images, cameras, points)
    sight = F.normalize(cam.camera_positions(cameras)[:, None, None] - points, dim=-1)
    inside = ((seen[:, 3] - 0.7) / 0.3).clamp(0, 1)
    return seen[:, :3], ((sight * normal).sum(-1) - GRAZING).clamp(min=0) * inside


def half_widths(masks: Tensor, cameras: Tensor, height: Tensor) -> Tensor:
    """Half the silhouette's width at points of the vertical axis, in world units: [V, LEVELS]."""
    across = torch.linspace(-SCENE_BOUND, SCENE_BOUND, WIDTH_SAMPLES, device=masks.device)
    z, y = torch.meshgrid(height, across, indexing="ij")
    points = torch.stack([torch.zeros_like(y), y, z], -1)[None]
    return cam.sample_images(masks, cameras, points)[:, 0].mean(-1) * SCENE_BOUND


def moments(color: Tensor, weight: Tensor) -> Tensor:
    """Fourier coefficients over azimuth of all that `compare` needs of a view.

    Returns:
        Complex [V, 9, LEVELS, sectors // 2 + 1]: the weight, the weighted colours and their weighted squared norm;
        then the last two again of colours without what is smooth in them.
    """
    fine = color - blur(color * weight[:, None]) / blur(weight[:, None]).clamp(min=1e-3)
    fields = [weight[:, None]]
    for values in (color - 0.5, fine):
        fields += [weight[:, None] * values, (weight * values.square().sum(1))[:, None]]
    return torch.fft.rfft(torch.cat(fields, 1).float())


def blur(cells: Tensor) -> Tensor:
    """Mean over BLUR × BLUR cells, circular in azimuth."""
    half = BLUR // 2
    return F.avg_pool2d(F.pad(wrap_columns(cells, half), (0, 0, half, half)), BLUR, 1)


def compare(first: Tensor, second: Tensor, sectors: int) -> Tensor:
    """How well two views agree for Δ = azimuth(second) − azimuth(first) = 2πk / sectors.

    Args:
        first, second: `moments`, [P, 9, LEVELS, F].

    Returns:
        [P, CHANNELS, sectors]: normalised cross-correlation of colours and of fine colours, both again times the root
        of the overlap, negative mean squared difference, overlap (1 where both see all that they could).
    """

    def correlate(a: Tensor, b: Tensor) -> Tensor:
        return torch.fft.irfft((a * b.conj()).sum(-2), n=sectors)

    squared = [correlate(moment[:, 0], moment[:, 0])[:, :1] for moment in (first, second)]
    most = (squared[0] * squared[1]).sqrt().clamp(min=1e-6)
    overlap = (correlate(first[:, 0], second[:, 0]) / most).clamp(min=LEAST_OVERLAP)
    count = overlap * most
    sum_first = correlate(first[:, 1:4], second[:, :1]) / count[:, None]
    sum_second = correlate(first[:, :1], second[:, 1:4]) / count[:, None]
    product = correlate(first[:, 1:4], second[:, 1:4]).sum(1) / count
    power_first = correlate(first[:, 4], second[:, 0]) / count
    power_second = correlate(first[:, 0], second[:, 4]) / count
    covariance = product - (sum_first * sum_second).sum(1)
    variance_first = power_first - sum_first.square().sum(1)
    variance_second = power_second - sum_second.square().sum(1)
    colors = covariance / deviation(variance_first, variance_second)
    fine_product = correlate(first[:, 5:8], second[:, 5:8]).sum(1) / count
    fine_first = correlate(first[:, 8], second[:, 0]) / count
    fine_second = correlate(first[:, 0], second[:, 8]) / count
    fine = fine_product / deviation(fine_first, fine_second)
    root = overlap.sqrt()
    difference = (power_first + power_second - 2 * product).clamp(min=0)
    return torch.stack([colors, fine, colors * root, fine * root, -difference, overlap], 1)


def deviation(first: Tensor, second: Tensor) -> Tensor:
    """Root of the product of two variances, kept away from zero."""
    return ((first.clamp(min=0) + LEAST_VARIANCE) * (second.clamp(min=0) + LEAST_VARIANCE)).sqrt()


def azimuth_log_probabilities(agreement: Tensor) -> Tensor:
    """Log-probabilities of a pair's relative azimuths if colours were all there is: [P, CHANNELS, bins] → [P, bins].

    A word for the search's proposals, not a calibrated one: of views that share nothing, the colours know nothing.
    """
    return (SHARPNESS * agreement[:, 0] * (agreement[:, 5] > SHARED)).log_softmax(-1)
