"""Outlines of a mesh are found, and follow those of photos."""

import math

import numpy as np
import pytest
import torch
import trimesh

from dataset.render import Renderer
from sap3d.cameras import maths as cam
from threestudio.models.exporters.outlines import follow_outlines, outline, outline_distances, pulls

CAMERAS = torch.tensor([[0.3, azimuth, 1.8] for azimuth in torch.arange(6) * (math.pi / 3)])


def test_distances_are_those_to_a_disc():
    size, radius = 128, 0.5
    x, y = cam.pixel_grid(size).unbind(-1)
    away = ((x**2 + y**2).sqrt() - radius).view(size, size)
    distances = outline_distances((away < 0).float()[None])[0]
    assert (distances - away).abs().max() < 1.5 * 2 / size


def test_of_an_empty_photo_no_vertex_is_wanted_elsewhere():
    ball = trimesh.creation.icosphere(3, 0.4)
    moved = follow_outlines(ball, ball.face_normals, outline_distances(torch.zeros(1, 64, 64)), CAMERAS[:1])
    np.testing.assert_allclose(moved.vertices, ball.vertices, atol=1e-3)


def test_a_ball_s_outline_lies_where_sight_touches_it():
    ball = trimesh.creation.icosphere(5, 0.4)
    eye = np.array([1.8, 0.0, 0.0])
    vertex, outward = outline(ball, eye)
    # Points whose radius is perpendicular to the sight: x = r² / d.
    np.testing.assert_allclose(ball.vertices[vertex, 0], 0.16 / 1.8, atol=0.02)
    np.testing.assert_allclose(outward, ball.vertices[vertex] / 0.4, atol=0.05)


def test_what_is_seen_before_the_object_is_no_outline():
    small, large = trimesh.creation.icosphere(3, 0.1), trimesh.creation.icosphere(4, 0.4)
    both = trimesh.util.concatenate([small.apply_translation((0.6, 0, 0)), large])
    vertex, _ = outline(both, np.array([1.8, 0.0, 0.0]))
    assert (vertex >= len(small.vertices)).all(), "the small ball stands before the large one"


@pytest.mark.parametrize("share", [0.95, 1.05])
def test_a_mesh_of_another_size_gets_the_photos_outlines(share: float):
    true = trimesh.creation.box((0.6, 0.4, 0.5))
    for _ in range(4):
        true = true.subdivide()
    alphas = torch.from_numpy(Renderer(true).render(CAMERAS, 256)[..., 3] / np.float32(255))
    wrong = trimesh.Trimesh(true.vertices * share, true.faces, process=False)
    distances = outline_distances(alphas)
    found = follow_outlines(wrong, wrong.face_normals, distances, CAMERAS)

    def beside(mesh: trimesh.Trimesh) -> float:
        """Mean distance of the outlines from the photos'."""
        parts = [pulls(mesh, *each) for each in zip(distances, CAMERAS.double())]
        return np.concatenate([abs((out * mesh.vertices[vertex]).sum(1) - goal) for vertex, out, goal in parts]).mean()

    assert beside(wrong) > 0.01 and beside(found) < 0.3 * beside(wrong)
    assert (found.face_normals * true.face_normals).sum(1).mean() > 0.99, "sides move as a whole"
