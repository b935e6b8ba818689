import math

import pytest
import torch

from sap3d.cameras import maths as cam
from tests.threestudio.fields import ball, nodes, renderer
from threestudio.models.floor import find_floor
from threestudio.systems.sap3d import SAP3D

BASE, WIDTH = -0.3, 0.25
SPARE = SAP3D.Config.floor_spare
ABOVE = torch.tensor([[0.3, 0.0, 1.8], [0.5, 2.0, 1.8], [0.4, -2.0, 1.8]])


def column(bulge: float):
    """A round column up to z = 0.3 whose underside hangs down by `bulge` in the middle, as a cone."""
    x, y, z = nodes(64)
    across = (x**2 + y**2).sqrt()
    underside = BASE - bulge * (1 - across / WIDTH)
    inside = torch.stack([WIDTH - across, 0.3 - z, z - underside]).amin(0)
    density = (inside * 400 + 5).clamp(-20, 30)
    return renderer(torch.stack([density, *[torch.zeros_like(density)] * 3]))


def silhouettes(field, cameras):
    return torch.stack([field.image(camera, 64).opacity for camera in cameras])


def test_bulge_under_the_base_is_found():
    masks = silhouettes(column(0.0), ABOVE)
    bulging = column(0.05)  # less steep than the lowest camera looks down, so no photo shows it
    assert (silhouettes(bulging, ABOVE) - masks).abs().mean() < 2e-3
    assert find_floor(bulging, ABOVE, masks, SPARE) == pytest.approx(BASE, abs=0.015)
    assert bulging.floor == -math.inf


def test_all_of_a_ball_stays_that_its_silhouettes_need():
    field, radius = renderer(ball(64, 0.4)), 0.4
    masks = silhouettes(field, ABOVE)
    field.floor = find_floor(field, ABOVE, masks, SPARE)
    # The lowest camera sees the ball's rim where its line of sight is a tangent. Just above, little of it goes.
    lowest = -radius * torch.cos(ABOVE[:, 0]).max().item()
    assert lowest < field.floor < lowest + 0.07
    assert (masks - silhouettes(field, ABOVE)).sum() < 1.05 * SPARE * masks.sum()
    field.floor = find_floor(field, ABOVE, masks, 0.0)
    assert field.floor < lowest


def test_nothing_shows_below_the_floor():
    field, level = renderer(ball(64, 0.4)), torch.tensor([0.0, 0.0, 1.8])
    whole = field.image(level, 64).opacity
    field.floor = 0.0
    half = field.image(level, 64).opacity
    torch.testing.assert_close(half[:30], whole[:30])
    assert whole[34:44, 32].min() > 0.9 and half[34:].max() == 0
    origins, directions = cam.rays(level, cam.pixel_grid(64))
    rays = field(origins.expand_as(directions), directions)
    torch.testing.assert_close(rays.opacity.view(64, 64) > 0.5, half > 0.5)
