"""Photos that stand for the far side, too."""

import math

import pytest
import torch

from relposepp import decide
from sap3d.cameras.symmetry import repeated, turned
from sap3d.field import synthesis
from sap3d.field.rendering import render_views
from sap3d.field.synthesis import Level, unexplained
from tests.threestudio.fields import nodes

CAMERAS = torch.tensor([[0.3, 0.0, 1.7], [0.5, 1.2, 1.8]])
LEVEL = Level(resolution=16, size=32, steps=60, pixels=128, samples=24, pose_rate=0.0)


def box(*, handle: bool = False, back: str = "red") -> torch.Tensor:
    """A red box with green ends, [4, 24, 24, 24]; perhaps with an arm to +x, or with a blue side at -y."""
    x, y, z = nodes(24)
    inside = (x.abs() < 0.2) & (y.abs() < 0.15) & (z.abs() < 0.4)
    if handle:
        inside |= (x > 0) & (y.abs() < 0.1) & (z.abs() < 0.1)
    ends, blue = x.abs() > 0.12, (y < 0) & (back == "blue")
    density = torch.where(inside, 20.0, -10.0)
    colors = [torch.where(where, 6.0, -6.0) for where in (~ends & ~blue, ends, ~ends & blue)]
    return torch.stack([density, *colors])


def photos(grid: torch.Tensor, cameras: torch.Tensor) -> torch.Tensor:
    """White-composited colour and alpha, [N, 4, 32, 32]."""
    return render_views(grid, cameras, 32, 64)


def test_a_symmetric_object_looks_the_same_half_a_turn_on():
    here, there = photos(box(), CAMERAS), photos(box(), turned(CAMERAS, 2)[2:])
    torch.testing.assert_close(here, there, atol=2e-3, rtol=0)
    with_handle = photos(box(handle=True), CAMERAS) - photos(box(handle=True), turned(CAMERAS, 2)[2:])
    assert with_handle.square().mean() > 0.01


@pytest.mark.parametrize("order", [1, 2, 3])
def test_other_sides_follow_the_views(order):
    images = photos(box(handle=True), CAMERAS)
    shown, cameras = repeated(images, CAMERAS, order)
    for side in range(order):
        rows = slice(2 * side, 2 * side + 2)
        assert torch.equal(shown[rows], images) and torch.equal(cameras[rows, ::2], CAMERAS[:, ::2])
        torch.testing.assert_close(cameras[rows, 1], CAMERAS[:, 1] + side * 2 * math.pi / order)


@pytest.mark.parametrize("views", [1, 2])
def test_what_photos_contradict_remains_as_a_loss(views, monkeypatch):
    """A handle shows from wherever it is seen in outline; the other side's colour, where one of the photos shows it."""
    monkeypatch.setattr(synthesis, "HELD", LEVEL)
    cameras = torch.tensor([[0.3, 1.3, 1.7], [0.3, 1.3 + math.pi - 0.6, 1.7]])[:views]

    def excess(**options) -> float:
        views = photos(box(**options), cameras)
        return decide.symmetric_loss(views, cameras) - unexplained(views, cameras)

    assert excess() < 0.008
    assert excess(handle=True) > 0.018
    contradicted = excess(back="blue")
    assert contradicted > 0.011 if views == 2 else contradicted < 0.008
