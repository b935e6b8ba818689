import numpy as np
import pytest
import torch

from sap3d.cameras import maths as cam
from sap3d.cameras.maths import SCENE_BOUND
from sap3d.field import grid as dense
from sap3d.field.occupancy import Occupancy, floaters
from tests.sap3d.field.test_rendering import blobs
from tests.threestudio.fields import ball


def test_what_is_left_out_is_thin(device):
    grid = blobs().to(device)
    space = Occupancy.of(grid[0], min_opacity=1e-2, margin=0)
    points = (torch.rand(20000, 3, generator=torch.Generator().manual_seed(0)).to(device) * 2 - 1) * SCENE_BOUND
    density = dense.activate_density(dense.sample(grid[None], points[None])[0, :, 0])
    opacity = 1 - (-density * 2 * SCENE_BOUND / 23).exp()
    assert opacity[~space.contains(points)].max() < 1e-2


def test_everything_is_the_sphere_above_the_floor(device):
    points = torch.tensor([[0.0, 0.0, 0.6], [0.0, 0.0, -0.6], [0.6, 0.6, 0.0]], device=device)
    assert Occupancy().contains(points).tolist() == [True, True, False]
    assert Occupancy(floor=-0.1).contains(points).tolist() == [True, False, False]


@pytest.mark.parametrize("camera", [[0.4, 0.3, 1.7], [0.4, 0.3, 1.7, 0.1, 0.0, 0.5, 0.7]])
def test_spans_hold_what_is_there(camera, device):
    """A ball: rays that meet it do so between their depths, those far beside it have none."""
    camera, radius, size = torch.tensor(camera, device=device), 0.3, 32
    space = Occupancy.of(ball(48, radius)[0].to(device), min_opacity=1e-2, margin=0)
    origins, directions = cam.rays(camera, cam.pixel_grid(size, device))
    length2 = directions.square().sum(-1)
    middle = -(origins * directions).sum(-1) / length2
    closest = (origins + middle[:, None] * directions).norm(dim=-1)
    half = (radius**2 - closest.square()).clamp(min=0) / length2
    # An image's spans are found on a coarser one.
    spans = (
        (space.span(origins.expand_as(directions), directions, 48), 0.45),
        (space.image_span(camera, size, 48), 0.8),
    )
    hit = closest < radius - 0.01
    for (near, far), beside in spans:
        assert (near <= middle - half.sqrt())[hit].all() and (far >= middle + half.sqrt())[hit].all()
        assert (far == near)[closest > beside].all() and (far - near)[hit].max() < 1.0


def test_floaters_are_small_pieces_by_themselves():
    alone, beside = ball(48, 0.35), ball(48, 0.05, centre=(0.0, 0.55, 0.3))
    space = Occupancy.of(alone[0].maximum(beside[0]), min_opacity=1e-2, margin=0)
    ours = Occupancy.of(alone[0], min_opacity=1e-2, margin=0)
    assert torch.equal(space.without_floaters(0.02).nodes, ours.nodes)
    assert torch.equal(space.without_floaters(0.001).nodes, space.nodes)  # its volume is about a hundredth
    solid = np.zeros((5, 5, 5), bool)
    solid[:2], solid[4, 4, 4] = True, True
    assert floaters(solid, 0.05).sum() == 1 and not floaters(solid, 0.01).any()
