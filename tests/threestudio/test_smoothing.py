"""Flat faces become flat, round ones smooth, and edges stay where they are."""

import numpy as np
import pytest
import trimesh

from threestudio.models.exporters.smoothing import smooth


def noisy(mesh: trimesh.Trimesh, by: float) -> trimesh.Trimesh:
    shift = np.random.default_rng(0).normal(scale=by, size=mesh.vertices.shape)
    return trimesh.Trimesh(mesh.vertices + shift, mesh.faces, process=False)


def box() -> trimesh.Trimesh:
    mesh = trimesh.creation.box((0.6, 0.4, 0.8))
    for _ in range(5):
        mesh = mesh.subdivide()
    return mesh


def angles(mesh: trimesh.Trimesh, normals: np.ndarray) -> np.ndarray:
    """Degrees between faces' normals and true ones."""
    return np.degrees(np.arccos((mesh.face_normals * normals).sum(1).clip(-1, 1)))


def test_a_box_gets_flat_faces_and_keeps_its_edges():
    true = box()
    rough = noisy(true, 0.0015)
    done = smooth(rough, steps=20, angle=20)
    before, after = (angles(mesh, true.face_normals).mean() for mesh in (rough, done))
    assert before > 8 and after < 0.25 * before
    assert done.is_watertight and done.volume == pytest.approx(true.volume, rel=0.01)
    np.testing.assert_allclose(done.bounds, true.bounds, atol=0.005)
    edges = np.isclose(np.abs(true.vertices[:, :2]), [0.3, 0.2]).all(1)  # the upright ones
    assert np.abs(done.vertices[edges] - true.vertices[edges])[:, :2].mean() < 0.003, "averaging would round them off"


def test_a_ball_stays_one():
    true = trimesh.creation.icosphere(4, 0.4)
    rough = noisy(true, 0.003)
    done = smooth(rough, steps=20, angle=20)
    assert angles(done, true.face_normals).mean() < 0.4 * angles(rough, true.face_normals).mean()
    np.testing.assert_allclose(np.linalg.norm(done.vertices, axis=1), 0.4, atol=0.008)
    assert done.volume == pytest.approx(true.volume, rel=0.01)
