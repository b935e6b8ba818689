import pytest
import torch
import torch.nn.functional as F

from sap3d.cameras.maths import SCENE_BOUND
from sap3d.field import grid as dense


def reference(grid, points):
    """torch's own kernel, inside the cube."""
    values = F.grid_sample(grid, (points / SCENE_BOUND)[:, :, None, None], mode="bilinear", align_corners=True)
    return values[..., 0, 0].transpose(1, 2)


@pytest.mark.parametrize("fields, channels, resolution", [(1, 4, 9), (3, 4, 5), (2, 3, 2)])
def test_interpolation_and_its_gradients_equal_grid_sample(fields, channels, resolution, device):
    generator = torch.Generator().manual_seed(0)
    grid = torch.randn(fields, channels, *[resolution] * 3, generator=generator, requires_grad=True)
    points = (torch.rand(fields, 400, 3, generator=generator) * 2 - 1) * SCENE_BOUND
    # Away from the cells' faces, where the slope jumps and rounding decides the side.
    nodes = (points / SCENE_BOUND + 1) * (resolution - 1) / 2
    points = points[:, ((nodes - nodes.round()).abs() > 1e-3).all(-1).all(0)].requires_grad_()
    ours, theirs = dense.sample(grid.to(device), points.to(device)), reference(grid, points)
    torch.testing.assert_close(ours.cpu(), theirs, atol=1e-5, rtol=1e-5)
    upstream = torch.randn(ours.shape, generator=generator)
    expected = torch.autograd.grad(theirs, [grid, points], upstream)
    for gradient, other in zip(torch.autograd.grad(ours, [grid, points], upstream.to(device)), expected):
        torch.testing.assert_close(gradient, other, atol=1e-3, rtol=1e-4)


def test_nothing_is_outside_the_cube(device):
    grid = torch.ones(1, 4, 4, 4, 4, device=device, requires_grad=True)
    points = torch.tensor([[[0.0, 0.0, SCENE_BOUND * 1.01], [-2.0, 0.1, 0.2], [0.1, 0.2, 0.3]]], device=device)
    points.requires_grad_()
    values = dense.sample(grid, points)
    assert values[0, :, 0].tolist() == [0, 0, pytest.approx(1)]
    gradients = torch.autograd.grad(values.sum(), [grid, points])
    assert gradients[0].sum().item() == pytest.approx(4) and (gradients[1][0, :2] == 0).all()


def test_nodes_are_met_exactly(device):
    grid = torch.arange(2 * 27.0, device=device).reshape(1, 2, 3, 3, 3)
    corner = torch.tensor([[[SCENE_BOUND, -SCENE_BOUND, 0.0]]], device=device)  # x last, y first, z middle
    torch.testing.assert_close(dense.sample(grid, corner)[0, 0], grid[0, :, 1, 0, 2])


def test_rays_are_sampled_inside_the_sphere(device):
    origins = torch.tensor([[2.0, 0.0, 0.0], [2.0, 0.0, 0.4], [2.0, 0.0, 1.0]], device=device)
    directions = torch.tensor([-2.0, 0.0, 0.0], device=device)  # depths are in units of its length
    near, far = dense.ray_interval(origins, directions)
    ends = (origins + near[:, None] * directions).norm(dim=-1)
    torch.testing.assert_close(ends[:2], torch.full_like(ends[:2], SCENE_BOUND))
    expected = torch.tensor([SCENE_BOUND, (SCENE_BOUND**2 - 0.4**2) ** 0.5, 0.0], device=device)
    torch.testing.assert_close(far - near, expected, atol=1e-3, rtol=0)


def test_compositing_is_front_to_back(device):
    alpha = torch.tensor([0.5, 0.5, 1 - 1e-6], device=device)
    weights, opacity = dense.composite(-(1 - alpha).log())
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.25, 0.25], device=device))
    assert opacity.item() == pytest.approx(1)


def test_total_variation_is_of_each_grid_and_resizing_keeps_slopes(device):
    axis = torch.linspace(-1, 1, 5, device=device)
    ramp = axis[:, None, None].expand(1, 5, 5, 5)
    grids = torch.stack([torch.zeros_like(ramp), ramp])
    torch.testing.assert_close(dense.total_variation(grids), torch.tensor([0.0, 0.25], device=device))
    torch.testing.assert_close(dense.resize(grids, 9)[1, 0, :, 3, 4], torch.linspace(-1, 1, 9, device=device))
