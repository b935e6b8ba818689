"""Normals of a ball are its radii, turned inwards they face away from who looks at it."""

import torch
import torch.nn.functional as F

from sap3d.cameras import maths as cam
from tests.threestudio.fields import ball, renderer
from threestudio.models.normals import Hits, normals, orientation, smoothness

RADIUS = 0.35


def looked_at(sharpness: float = 60.0):
    """A soft ball and where an image's rays meet it."""
    module = renderer(ball(64, RADIUS, sharpness=sharpness))
    camera = torch.tensor([0.4, 0.3, 1.7])
    origins, directions = cam.rays(camera, cam.pixel_grid(24))
    origins = origins.expand_as(directions)
    return module.geometry, Hits.of(module(origins, directions, samples=200), origins, directions)


def test_rays_end_on_the_ball_and_its_normals_are_its_radii():
    geometry, hits = looked_at()
    assert len(hits.points) > 50 and (hits.weights > 0.5).all()
    middle = (hits.directions * F.normalize(hits.points, dim=-1)).sum(-1) < -0.5  # not grazed
    assert (hits.points[middle].norm(dim=-1) - RADIUS).abs().max() < 0.05
    radii = F.normalize(hits.points, dim=-1)
    torch.testing.assert_close(normals(geometry, hits.points), radii, atol=0.05, rtol=0)


def test_a_surface_that_faces_away_costs_its_squared_cosine():
    directions = torch.tensor([[1.0, 0.0, 0.0]]).expand(3, -1)
    hits = Hits(torch.zeros(3, 3), directions, torch.tensor([1.0, 1.0, 0.5]))
    normal = torch.tensor([[-1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(orientation(normal, hits), torch.tensor((0.36 + 0.5) / 2.5))


def test_a_plane_is_smooth_and_a_bumpy_one_becomes_smoother_by_descent():
    geometry, hits = looked_at()
    geometry.values.data[..., 0] += 0.5 * torch.randn(64, 64, 64, generator=torch.Generator().manual_seed(0))

    def roughness():
        generator = torch.Generator().manual_seed(1)
        return smoothness(geometry, normals(geometry, hits.points), hits, generator)

    before = roughness().item()
    optimizer = torch.optim.Adam(geometry.parameters(), 0.05)
    for _ in range(10):
        optimizer.zero_grad()
        roughness().backward()
        optimizer.step()
    assert roughness() < 0.5 * before
    z = torch.linspace(-1, 1, 64).view(-1, 1, 1).expand(64, 64, 64)
    geometry.load({"grid": torch.stack([-z, z, z, z])})
    inner = Hits(0.5 * hits.points, hits.directions, hits.weights)
    torch.testing.assert_close(
        smoothness(geometry, normals(geometry, inner.points), inner, torch.Generator().manual_seed(1)),
        torch.tensor(0.0), atol=1e-6, rtol=0,
    )  # fmt: skip


def test_nothing_met_costs_nothing():
    geometry, hits = looked_at()
    nothing = Hits(hits.points[:0], hits.directions[:0], hits.weights[:0])
    normal = normals(geometry, nothing.points)
    assert orientation(normal, nothing) == 0 == smoothness(geometry, normal, nothing, torch.Generator())
