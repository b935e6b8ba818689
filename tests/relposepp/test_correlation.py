import math

import torch

from relposepp.correlation import PairHead, azimuth_labels, circular_correlation, flip_angles, spectra
from relposepp.lifting import cylinder_points, resample_frustum
from sap3d.cameras import maths as cam


def smooth_rings(generator: torch.Generator, *shape: int, sectors: int = 36) -> torch.Tensor:
    """Random band-limited features along the last axis."""
    coefficients = torch.zeros(*shape, sectors // 2 + 1, dtype=torch.complex64)
    coefficients[..., 1:6] = torch.randn(*shape, 5, dtype=torch.complex64, generator=generator)
    return torch.fft.irfft(coefficients, n=sectors)


def test_correlation_equals_the_slow_sum():
    generator = torch.Generator().manual_seed(0)
    first, second = smooth_rings(generator, 5), smooth_rings(generator, 5)
    fast = circular_correlation(torch.fft.rfft(first), torch.fft.rfft(second), 36, 36)
    slow = [sum((first[:, (phi + k) % 36] * second[:, phi]).sum() for phi in range(36)) for k in range(36)]
    torch.testing.assert_close(fast, torch.stack(slow), atol=1e-5, rtol=1e-4)


def test_finer_bins_interpolate():
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.fft.rfft(torch.randn(3, 36, generator=generator)) for _ in range(2))
    coarse, fine = (circular_correlation(first, second, 36, bins) for bins in (36, 72))
    torch.testing.assert_close(fine[::2], coarse, atol=1e-4, rtol=1e-4)


def test_turned_view_shifts_the_distribution():
    generator = torch.Generator().manual_seed(2)
    head = PairHead(4, 2, 3)
    for layer in (head.convolutions[-1], head.film):
        torch.nn.init.normal_(layer.weight, generator=generator)
    context = torch.randn(1, 3, generator=generator)
    first, second = smooth_rings(generator, 2, 4, 6).unbind()

    def energy(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        correlations = circular_correlation(spectra(a)[None], spectra(b)[None], 36, 72)
        return head(correlations, correlations[:, :2].square(), context)[0]

    # A camera turned by +k sectors sees its surroundings moved by −k sectors.
    turned = energy(first, second.roll(-7, -1))
    torch.testing.assert_close(turned, energy(first, second).roll(14), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(energy(second, first), flip_angles(energy(first, second)), atol=1e-4, rtol=1e-4)


def test_same_object_peaks_at_the_azimuth_difference():
    world = smooth_rings(torch.Generator().manual_seed(3), 8)
    azimuths = (5, 21)  # in sectors
    first, second = (world.roll(-a, -1) for a in azimuths)  # f(φ) = F(φ + azimuth)
    energy = circular_correlation(torch.fft.rfft(first), torch.fft.rfft(second), 36, 72)
    assert energy.argmax() == 2 * (azimuths[1] - azimuths[0])


def test_labels_wrap():
    labels = azimuth_labels(torch.tensor([0.0, 2 * math.pi - 0.01]), 72, math.radians(5))
    torch.testing.assert_close(labels.sum(-1), torch.ones(2))
    torch.testing.assert_close(labels[0, 1], labels[0, -1])
    assert labels[1].argmax() == 0 and labels[1, -1] > labels[1, 1]


def test_lifting_puts_a_point_into_its_cell():
    """A frustum that is 1 around one world point shows up in the cylinder's cell nearest to that point."""
    points = cylinder_points(5, 8, 36)
    camera = torch.tensor([[math.radians(25), 0.0, 1.8]])
    target = points[3, 5, 8]
    pixel, depth = cam.project(camera, target.view(1, 1, 3))
    bins, size = 24, 48
    place = torch.stack([(depth[0, 0] - 1.8) / cam.SCENE_BOUND, -pixel[0, 0, 1], pixel[0, 0, 0]])
    axes = [(torch.arange(n) + 0.5) / n * 2 - 1 for n in (bins, size, size)]
    d, y, x = torch.meshgrid(*axes, indexing="ij")
    distance = (torch.stack([d, y, x], -1) - place).square().sum(-1)
    frustum = torch.exp(-distance / 0.02)[None, None]
    cells = resample_frustum(frustum, camera, points)[0, 0]
    assert cells.argmax() == torch.arange(5 * 8 * 36).view(5, 8, 36)[3, 5, 8]
    assert cells.max() > 0.8
