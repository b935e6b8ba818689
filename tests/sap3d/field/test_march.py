import numpy as np
import pytest
import torch

from sap3d.cameras import maths as cam
from sap3d.field import grid as dense
from sap3d.field.occupancy import Occupancy
from sap3d.field.rendering import bins, integrate
from sap3d.field.samples import fast_exp, fast_log1p, first_and_last

SHOWN = ("color", "opacity", "depth", "distortion")


def fields(count, resolution=12, seed=0):
    """Soft and hard places, and much emptiness, [count, 4, R, R, R]."""
    noise = torch.randn(count, 4, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
    grid = dense.resize(noise * 8, resolution)
    grid[:, 0] += 1
    return grid


def shown_and_gradients(grid, cameras, pixels, samples, compiled, occupancy=None):
    """What rays of fields show, and the gradients of a random sum of it in the fields and the cameras."""
    grid, cameras = grid.clone().requires_grad_(), cameras.clone().requires_grad_()
    field = dense.Grids(grid) if compiled else lambda points: dense.Grids(grid)(points)
    origins, directions = cam.rays(cameras, pixels)
    near, far = dense.ray_interval(origins, directions)
    places = bins(samples, near.shape[1:], grid.device, torch.Generator().manual_seed(1))
    if occupancy is not None:  # one field, seen by one camera
        origins, directions = origins.expand_as(directions)[0, 0], directions[0, 0]
        near, far, places = near[0, 0], far[0, 0], places[0]
    shown = integrate(field, origins, directions, near, far, places, occupancy)
    generator, loss = torch.Generator().manual_seed(2), 0
    for name in SHOWN:
        values = getattr(shown, name)
        loss = loss + (values * torch.rand(values.shape, generator=generator)).sum()
    return [getattr(shown, name) for name in SHOWN], torch.autograd.grad(loss, [grid, cameras])


@pytest.mark.parametrize("samples", [5, 16, 40])
def test_rays_show_what_torch_computes_and_have_its_gradients(samples):
    grid, pixels = fields(2), torch.rand(3, 9, 2, generator=torch.Generator().manual_seed(3)) * 2 - 1
    cameras = torch.tensor([[0.4, 0.3, 1.7], [-0.2, 2.0, 1.5], [1.2, -1.0, 2.0]]).expand(2, -1, -1)
    shown, gradients = shown_and_gradients(grid, cameras, pixels, samples, compiled=True)
    expected, expected_gradients = shown_and_gradients(grid, cameras, pixels, samples, compiled=False)
    assert 0.1 < expected[1].mean() < 0.9
    for found, known in zip(shown, expected):
        torch.testing.assert_close(found, known, atol=3e-5, rtol=1e-4)
    for found, known in zip(gradients, expected_gradients):
        torch.testing.assert_close(found, known, atol=2e-4 * known.abs().max().item(), rtol=0)


def test_what_is_empty_or_below_the_floor_is_not_looked_at():
    grid, camera = fields(1), torch.tensor([0.4, 0.3, 1.7])[None, None]
    nodes = torch.rand(10, 10, 10, generator=torch.Generator().manual_seed(5)) > 0.5
    space = Occupancy(nodes, floor=-0.2)
    pixels = cam.pixel_grid(8)
    shown, gradients = shown_and_gradients(grid, camera, pixels, 24, True, space)
    expected, expected_gradients = shown_and_gradients(grid, camera, pixels, 24, False, space)
    everywhere, _ = shown_and_gradients(grid, camera, pixels, 24, True, Occupancy())
    assert (everywhere[1] - shown[1]).abs().max() > 0.1
    for found, known in zip(shown, expected):
        torch.testing.assert_close(found, known, atol=3e-5, rtol=1e-4)
    for found, known in zip(gradients, expected_gradients):
        torch.testing.assert_close(found, known, atol=2e-4 * known.abs().max().item(), rtol=0)


def test_the_first_and_last_occupied_samples_are_those_of_all():
    nodes = torch.rand(6, 6, 6, generator=torch.Generator().manual_seed(5)) > 0.9
    space = Occupancy(nodes, floor=-0.3)
    origins, directions = cam.rays(torch.tensor([0.4, 0.3, 1.7]), cam.pixel_grid(12))
    origins = origins.expand_as(directions)
    near, far = dense.ray_interval(origins, directions)
    first, last = first_and_last(origins, directions, near, far, 20, *space.packed())
    depths = near[:, None] + (far - near)[:, None] * ((torch.arange(20) + 0.5) / 20)
    hit = space.contains(origins[:, None] + depths[..., None] * directions[:, None])
    assert hit.any(1).any() and not hit.any(1).all()
    for ray, places in enumerate(hit):
        found = places.nonzero().flatten().tolist() or [20, -1]
        assert (first[ray], last[ray]) == ((20, -1) if found == [20, -1] else (found[0], found[-1]))


def test_threads_change_no_digit():
    grid, cameras = fields(1, 32), torch.tensor([[0.4, 0.3, 1.7], [0.1, 2.0, 1.7]])[None]
    found, before = [], torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        shown, gradients = shown_and_gradients(grid, cameras, cam.pixel_grid(30), 24, compiled=True)
        found.append([*shown, *gradients])
    torch.set_num_threads(before)
    assert all(torch.equal(one, many) for one, many in zip(*found))


def test_exponentials_and_logarithms_are_exact_to_a_few_ulps():
    x = np.linspace(-86, 87, 4001, dtype=np.float32)
    found = np.array([fast_exp(each) for each in x], np.float64)
    np.testing.assert_allclose(found, np.exp(x.astype(np.float64)), rtol=3e-7)
    x = np.exp(np.linspace(-40, 60, 4001)).astype(np.float32)
    found = np.array([fast_log1p(each) for each in x], np.float64)
    np.testing.assert_allclose(found, np.log1p(x.astype(np.float64)), rtol=3e-7)
