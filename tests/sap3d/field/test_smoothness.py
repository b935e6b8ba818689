from itertools import combinations

import pytest
import torch

from sap3d.field.smoothness import Roughness, Variation


def values(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def differences(grid):
    """Sum over the axes of the means of squared first differences of [B, R, R, R, C], [B]."""
    return sum(grid.diff(dim=axis).square().mean((1, 2, 3, 4)) for axis in (1, 2, 3))


def bending(density):
    straight = sum(density.diff(n=2, dim=axis).square().mean() for axis in range(3))
    return straight + 2 * sum(density.diff(dim=a).diff(dim=b).square().mean() for a, b in combinations(range(3), 2))


@pytest.mark.parametrize("resolution", [3, 4, 9])
def test_forms_and_gradients_are_those_of_the_differences(resolution):
    grid = values(2, *[resolution] * 3, 4).requires_grad_()
    weights = torch.tensor([1.0, 3.0])
    pairs = [(Variation.apply(grid), differences(grid))]
    colours = 3 * differences(grid[1:, ..., 1:])  # of a sum over channels
    pairs.append((Roughness.apply(grid[1]), torch.cat([bending(grid[1, ..., 0])[None], colours])))
    for found, known in pairs:
        torch.testing.assert_close(found, known, rtol=1e-4, atol=1e-6)
        gradients = [torch.autograd.grad((each * weights).sum(), grid)[0] for each in (found, known)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_what_is_linear_does_not_bend():
    axis = torch.arange(8.0)
    grid = (axis[:, None, None] - 2 * axis[:, None] + 3 * axis + 1)[..., None].expand(-1, -1, -1, 4)
    bent, varied = Roughness.apply(grid.contiguous())
    assert abs(bent) < 1e-4 and varied == pytest.approx(3 * (1 + 4 + 9))


def test_threads_change_no_digit():
    grid, found, before = values(40, 40, 40, 4).requires_grad_(), [], torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(torch.autograd.grad(Roughness.apply(grid).sum(), grid)[0])
    torch.set_num_threads(before)
    assert torch.equal(*found)
