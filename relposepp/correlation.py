"""Energies of relative azimuths: circular cross-correlation of two views' cylinders, all bins at once, by FFT.

View i's cylinder holds the object's features f_i(φ) = F(φ + azimuth_i). For Δ = azimuth_j − azimuth_i the features
agree when f_j(φ) = f_i(φ + Δ), so Σ_φ f_i(φ + Δ) · f_j(φ) peaks at the relative azimuth. Turning a camera shifts the
result exactly: the equivariance is built in, not learned.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def spectra(features: Tensor) -> Tensor:
    """Fourier coefficients over azimuth of features without mean and with norm 1.

    Args:
        features: [..., C, S].

    Returns:
        Complex, [..., C, S // 2 + 1].
    """
    features = features.float()
    features = features - features.mean(-1, keepdim=True)
    norm = features.square().sum((-2, -1), keepdim=True)
    return torch.fft.rfft(features * (norm + 1e-6).rsqrt())


def circular_correlation(first: Tensor, second: Tensor, sectors: int, bins: int) -> Tensor:
    """Σ_φ first(φ + Δ) · second(φ), summed over channels, for Δ = 2πk / bins.

    Args:
        first, second: spectra of S = `sectors` samples, complex [..., C, S // 2 + 1].
        bins: at least S; more bins are the trigonometric interpolation.

    Returns:
        [..., bins].
    """
    product = (first * second.conj()).sum(-2)
    if bins > sectors and sectors % 2 == 0:
        # Between samples, the highest frequency counts half: its mirror image lies in the longer spectrum too.
        weight = torch.ones(product.shape[-1], device=product.device)
        weight[-1] = 0.5
        product = product * weight
    return torch.fft.irfft(product, n=bins) * (bins / sectors)


def azimuth_labels(delta: Tensor, bins: int, sigma: float) -> Tensor:
    """Wrapped-Gaussian soft labels of angles over `bins` bins centred at 2πk / bins.

    Args:
        delta: radians, [...].
        sigma: radians.

    Returns:
        Probabilities, [..., bins].
    """
    centres = torch.arange(bins, device=delta.device) * (2 * math.pi / bins)
    distance = torch.remainder(delta[..., None] - centres + math.pi, 2 * math.pi) - math.pi
    return torch.softmax(-0.5 * (distance / sigma).square(), -1)


class PairHead(nn.Module):
    """Turns the correlations of several feature groups into one energy a bin.

    A small network along Δ, circular too, combines the groups (a silhouette's agreement counts only where the texture
    has nothing to say). Both orders of a pair are averaged, so that energy(i, j, Δ) = energy(j, i, −Δ).
    """

    def __init__(self, groups: int, hidden: int = 32):
        super().__init__()
        self.temperature = nn.Parameter(torch.full((groups,), -1.0))
        self.conv1 = nn.Conv1d(groups, hidden, 5)
        self.conv2 = nn.Conv1d(hidden, 1, 5)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, correlations: Tensor) -> Tensor:
        """Normalised correlations [P, groups, bins] → unnormalised log-probabilities [P, bins]."""
        scaled = correlations * self.temperature.exp()[:, None]
        return (self._one_way(scaled) + flip_angles(self._one_way(flip_angles(scaled)))) / 2 + scaled.sum(1)

    def _one_way(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.conv1(F.pad(x, (2, 2), mode="circular")))
        return self.conv2(F.pad(hidden, (2, 2), mode="circular"))[:, 0]


def flip_angles(x: Tensor) -> Tensor:
    """Values at Δ → values at −Δ along the last axis."""
    return torch.roll(x.flip(-1), 1, -1)
