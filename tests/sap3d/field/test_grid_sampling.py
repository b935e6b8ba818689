import pytest
import torch
import torch.nn.functional as F

from sap3d.cameras.maths import SCENE_BOUND
from sap3d.field import grid as dense


def reference(grid, points):
    """torch's own kernel; zero outside the cube."""
    values = F.grid_sample(grid, (points / SCENE_BOUND)[:, :, None, None], mode="bilinear", align_corners=True)
    return values[..., 0, 0].transpose(1, 2)


@pytest.mark.parametrize("fields, channels, resolution", [(1, 4, 9), (3, 4, 5), (2, 3, 2)])
def test_interpolation_and_its_gradients_equal_grid_sample(fields, channels, resolution):
    generator = torch.Generator().manual_seed(0)
    grid = torch.randn(fields, channels, *[resolution] * 3, generator=generator, requires_grad=True)
    points = (torch.rand(fields, 400, 3, generator=generator) * 2 - 1) * SCENE_BOUND
    # Away from the cells' faces, where the slope jumps and rounding decides the side.
    nodes = (points / SCENE_BOUND + 1) * (resolution - 1) / 2
    points = points[:, ((nodes - nodes.round()).abs() > 1e-3).all(-1).all(0)].requires_grad_()
    ours, theirs = dense.sample(grid, points), reference(grid, points)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    upstream = torch.randn(ours.shape, generator=generator)
    expected = torch.autograd.grad(theirs, [grid, points], upstream)
    for gradient, other in zip(torch.autograd.grad(ours, [grid, points], upstream), expected):
        torch.testing.assert_close(gradient, other, atol=1e-3, rtol=1e-4)


def test_nothing_is_outside_the_cube():
    grid = torch.ones(1, 4, 4, 4, 4, requires_grad=True)
    points = torch.tensor([[[0.0, 0.0, SCENE_BOUND * 1.01], [-2.0, 0.1, 0.2], [0.1, 0.2, 0.3]]], requires_grad=True)
    values = dense.sample(grid, points)
    assert values[0, :, 0].tolist() == [0, 0, pytest.approx(1)]
    gradients = torch.autograd.grad(values.sum(), [grid, points])
    assert gradients[0].sum().item() == pytest.approx(4) and (gradients[1][0, :2] == 0).all()


def test_nodes_are_met_exactly():
    grid = torch.arange(2 * 27.0).reshape(1, 2, 3, 3, 3)
    corner = torch.tensor([[[SCENE_BOUND, -SCENE_BOUND, 0.0]]])  # x last, y first, z middle
    torch.testing.assert_close(dense.sample(grid, corner)[0, 0], grid[0, :, 1, 0, 2])
