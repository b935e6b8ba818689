"""Energies of relative azimuths: circular cross-correlation of two views' cylinders, all bins at once, by FFT.

View i's cylinder holds the object's features f_i(φ) = F(φ + azimuth_i). For Δ = azimuth_j − azimuth_i the features
agree when f_j(φ) = f_i(φ + Δ), so Σ_φ f_i(φ + Δ) · f_j(φ) peaks at the relative azimuth. Turning a camera shifts the
result exactly: the equivariance is built in, not learned.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relposepp.lifting import wrap_columns


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
    """Turns the correlations of several feature groups and other evidence into one energy a bin.

    A small network along Δ, circular too, combines them (a silhouette's agreement counts only where the texture has
    nothing to say), and what the views look like decides how (on a can, colours count for more than on a carton).
    Both orders of a pair are averaged, so that energy(i, j, Δ) = energy(j, i, −Δ).
    """

    def __init__(self, groups: int, evidence: int, context: int, hidden: int = 48):
        super().__init__()
        self.temperature = nn.Parameter(torch.full((groups,), -1.0))
        self.convolutions = nn.ModuleList(
            [nn.Conv1d(groups + evidence, hidden, 5), nn.Conv1d(hidden, hidden, 5), nn.Conv1d(hidden, 1, 5)]
        )
        self.film = nn.Linear(context, 2 * hidden + groups)
        for layer in (self.convolutions[-1], self.film):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, correlations: Tensor, evidence: Tensor, context: Tensor) -> Tensor:
        """Unnormalised log-probabilities [P, bins].

        Args:
            correlations, evidence: of order 1, reversed in Δ when the pair is taken in the other order;
                [P, groups, bins] and [P, channels, bins].
            context: of the pair, the same in both orders, [P, C].
        """
        film = self.film(context)[..., None].float()
        scale, shift, gain = film.split([*[self.convolutions[0].out_channels] * 2, correlations.shape[1]], 1)
        scaled = correlations * (self.temperature[:, None] + gain).exp()
        x = torch.cat([scaled, evidence], 1)

        def one_way(x: Tensor) -> Tensor:
            first, second, last = self.convolutions
            x = F.relu(first(wrap_columns(x, 2)) * (1 + scale) + shift)
            return last(wrap_columns(F.relu(second(wrap_columns(x, 2))), 2))[:, 0]

        return (one_way(x) + flip_angles(one_way(flip_angles(x)))) / 2 + scaled.sum(1)


def flip_angles(x: Tensor) -> Tensor:
    """Values at Δ → values at −Δ along the last axis."""
    return torch.roll(x.flip(-1), 1, -1)
