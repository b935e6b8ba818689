"""Muon against a singular value decomposition, torch's AdamW, and a convex problem."""

import pytest
import torch
from torch import nn

from camerabooth.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (16, 16)])
def test_directions_are_nearly_orthogonal_with_the_singular_vectors_of_the_gradient(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    direction = orthogonalised(matrix).float()
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    exact = u @ v
    assert (direction * exact).sum() / (direction.norm() * exact.norm()) > 0.97
    assert 0.5 < torch.linalg.svdvals(direction).min() and torch.linalg.svdvals(direction).max() < 1.3


def test_vectors_move_as_with_adamw():
    ours, theirs = nn.LayerNorm(6), nn.LayerNorm(6)
    first = Muon(ours, 0.1, weight_decay=0.02)
    second = torch.optim.AdamW(theirs.parameters(), lr=0.1, betas=(0.9, 0.98), weight_decay=0.02)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        gradients = torch.randn(2, 6, generator=generator)
        for module in (ours, theirs):
            module.weight.grad, module.bias.grad = gradients[0].clone(), gradients[1].clone()
        first.step()
        second.step()
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


def test_a_convolution_is_learned_from_its_outputs():
    torch.manual_seed(0)
    truth, learned = nn.Conv3d(4, 6, 3), nn.Conv3d(4, 6, 3)
    optimizer = Muon(learned, 0.02, weight_decay=0.0)
    x = torch.randn(4, 4, 6, 6, 6)
    losses = []
    for _ in range(60):
        loss = (learned(x) - truth(x)).square().mean()
        learned.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]
