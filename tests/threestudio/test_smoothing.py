"""Flat faces become flat, round ones smooth, and edges stay where they are."""

import numpy as np
import pytest
import trimesh

from threestudio.models.exporters.smoothing import (
    Pulls,
    beside_flat_sides,
    fitted,
    flattest,
    incidence,
    neighbours,
    sharp_normals,
    smooth,
)


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
    return between(mesh.face_normals, normals)


def between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Degrees between unit vectors [K, 3]."""
    return np.degrees(np.arccos((first * second).sum(1).clip(-1, 1)))


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


def test_rounded_edges_get_the_normals_of_sharp_ones():
    true = box()
    rough = noisy(true, 0.0015)
    half = true.bounds[1] - 0.03
    inner = rough.vertices.clip(-half, half)
    outward = rough.vertices - inner
    rounded = inner + 0.03 * outward / np.linalg.norm(outward, axis=1, keepdims=True)
    mesh = smooth(trimesh.Trimesh(rounded, true.faces, process=False), steps=20, angle=20)
    normals = sharp_normals(mesh, steps=80, angle=20, flat=10)
    before, after = (between(each, true.face_normals).mean() for each in (mesh.face_normals, normals))
    assert before > 3 and after < 0.7 * before


@pytest.mark.parametrize("faces", [5_000, 20_000])
def test_boxes_have_flat_sides_and_balls_have_none(faces):
    def beside(shape: trimesh.Trimesh) -> float:
        size = np.sqrt(2 * shape.area / faces)
        mesh = noisy(shape.subdivide_to_size(1.5 * size), 0.02 * size)
        return beside_flat_sides(mesh, neighbours(incidence(mesh))).mean()

    rod = trimesh.creation.capsule(height=0.8, radius=0.05, count=(16, 16))
    assert beside(trimesh.creation.box((0.6, 0.4, 0.3))) == 1
    assert beside(trimesh.creation.icosphere(subdivisions=4, radius=0.4)) == 0
    assert beside(rod) == 0


def test_the_flattest_patch_lies_on_a_faces_own_side_of_an_edge():
    mesh = box()
    normals, corner = np.array(mesh.face_normals), np.isclose(np.abs(mesh.vertices), mesh.bounds[1]).all(1)
    guide, spread = flattest(normals, mesh.area_faces, neighbours(incidence(mesh)))
    away = ~corner[mesh.faces].any(1)  # a corner's own faces have no patch without its other sides
    np.testing.assert_allclose(guide[away], normals[away], atol=1e-6)
    np.testing.assert_allclose(spread[away], 0, atol=1e-6)


@pytest.mark.parametrize(
    "shape",
    [
        trimesh.creation.icosphere(4, 0.4),
        trimesh.creation.torus(0.35, 0.15, 96, 48),
        trimesh.creation.cylinder(0.03, 0.8, sections=6),
    ],
    ids=["ball", "ring", "rod"],
)
def test_what_is_round_or_thin_keeps_its_normals(shape: trimesh.Trimesh):
    assert between(sharp_normals(shape, steps=40, angle=20, flat=10), shape.face_normals).mean() < 2


def test_pulled_vertices_take_their_side_along():
    mesh = box()
    top = np.flatnonzero(np.isclose(mesh.vertices[:, 2], 0.4))
    pulled = top[::10]
    up = np.tile((0.0, 0.0, 1.0), (len(pulled), 1))
    moved = fitted(mesh, np.array(mesh.face_normals), Pulls(pulled, up, np.full(len(pulled), 0.43)))
    rise = moved.vertices[np.setdiff1d(top, pulled), 2] - 0.4
    assert 0.015 < rise.mean() < 0.03 and rise.std() < 0.1 * rise.mean()
    below = mesh.vertices[:, 2] < 0.2
    np.testing.assert_allclose(moved.vertices[below], mesh.vertices[below], atol=1e-4)
