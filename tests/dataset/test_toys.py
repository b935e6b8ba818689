"""Procedural toys: reproducible, inside every camera's view, textured, varied."""

import numpy as np
import pytest
import trimesh

from dataset import toy_shapes, toys
from dataset.toy_paint import TILE
from sap3d.errors import UserError
from sap3d.meshes import BOUNDING_SPHERE_RADIUS, normalise


@pytest.fixture(scope="module")
def sample():
    return [toys.make_toy(seed) for seed in range(40)]


def as_bytes(mesh):
    arrays = (mesh.vertices, mesh.faces, mesh.visual.uv, np.asarray(mesh.visual.material.image))
    return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)


def test_a_seed_gives_the_same_bytes_and_another_seed_gives_others():
    assert as_bytes(toys.make_toy(5)) == as_bytes(toys.make_toy(5))
    assert len({as_bytes(toys.make_toy(seed)) for seed in range(10)}) == 10


def test_toys_are_centred_and_fill_the_cube_or_the_sphere(sample):
    for mesh in sample:
        low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
        reach = np.linalg.norm(mesh.vertices, axis=1).max()
        np.testing.assert_allclose(low + high, 0, atol=1e-9)
        assert (high - low).max() <= 1 + 1e-9 and reach <= BOUNDING_SPHERE_RADIUS + 1e-9
        assert np.isclose((high - low).max(), 1) or np.isclose(reach, BOUNDING_SPHERE_RADIUS)
        assert (high - low).min() > 0.004


def test_textures_are_square_rgb_atlases_and_uv_stays_inside(sample):
    for mesh in sample:
        image = mesh.visual.material.image
        assert image.mode == "RGB" and image.width == image.height and image.width % TILE == 0
        assert mesh.visual.uv.shape == (len(mesh.vertices), 2)
        assert np.isfinite(mesh.visual.uv).all()
        assert mesh.visual.uv.min() >= 0 and mesh.visual.uv.max() <= 1


def test_meshes_are_made_of_real_triangles(sample):
    for mesh in sample:
        assert 10 <= len(mesh.faces) <= 8000
        assert mesh.faces.max() < len(mesh.vertices) and mesh.faces.min() >= 0
        assert np.isfinite(mesh.vertices).all()
        assert (mesh.area_faces > 1e-10).mean() > 0.95
        assert mesh.area > 0.02


def test_toys_differ_in_colour_shape_and_size(sample):
    colours = np.array([np.asarray(mesh.visual.material.image).mean(axis=(0, 1)) for mesh in sample])
    extents = np.sort([np.ptp(mesh.vertices, axis=0) for mesh in sample], axis=1)
    assert colours.std(axis=0).min() > 25
    assert colours.mean() < 200  # pale objects on the white background stay the exception
    assert (extents[:, 0] / extents[:, 2]).std() > 0.12
    assert len({len(mesh.faces) for mesh in sample}) > 20


@pytest.mark.parametrize("family", [family for family, _ in toys.FAMILIES], ids=lambda family: family.__name__)
def test_every_family_builds_and_varies(family):
    meshes = [toy_shapes.assemble(family(np.random.default_rng(seed))) for seed in range(5)]
    assert len({as_bytes(mesh) for mesh in meshes}) == 5
    for mesh in meshes:
        assert np.isfinite(mesh.vertices).all() and np.ptp(mesh.vertices, axis=0).min() > 0.005
        assert mesh.visual.uv.min() >= 0 and mesh.visual.uv.max() <= 1


def test_uv_finds_each_parts_own_paint():
    paints = [np.full((TILE, TILE, 3), 40 * side, dtype=np.uint8) for side in range(6)]
    mesh = toy_shapes.assemble(toy_shapes.box((1, 1, 1), paints))
    image = np.asarray(mesh.visual.material.image)
    column, row = (mesh.visual.uv * (1, -1) + (0, 1)).T * len(image)
    seen = image[row.astype(int), column.astype(int), 0].reshape(6, -1)
    assert (seen == 40 * np.arange(6)[:, None]).all()


def test_print_reads_from_left_to_right_on_every_side_of_a_box():
    for part in toy_shapes.box((1, 1, 1), [np.zeros((TILE, TILE, 3), np.uint8)] * 6):
        outward = part.points.mean(axis=0)
        right, up = (part.points[part.uv[:, axis] > 0.9].mean(axis=0) - outward for axis in (0, 1))
        assert np.cross(right, up) @ outward > 0
        a, b, c = part.points[part.faces].transpose(1, 0, 2)
        assert (np.cross(b - a, c - a) @ outward > 0).all()


def test_a_mirrored_part_stays_outward():
    ball = toy_shapes.ellipsoid((1, 1, 1), np.zeros((TILE, TILE, 3), np.uint8))
    for part in toy_shapes.both_sides(ball):
        assert trimesh.Trimesh(part.points, part.faces).volume > 0


def test_demo_names_map_to_seeds_that_training_does_not_use():
    assert toys.toy_seed("toy_007") == 1_000_007
    assert toys.toy_seed("toy_1234") == 1_001_234
    for name in ("toy_", "toy_7", "milk", "toy_-01", "toy_007 "):
        with pytest.raises(UserError, match="toy_000"):
            toys.toy_seed(name)


def test_normalise_keeps_the_texture_and_leaves_the_original_alone():
    mesh = toy_shapes.assemble(toys.mug(np.random.default_rng(0)))
    mesh.vertices = mesh.vertices * 30 + 5
    before = mesh.vertices.copy()
    small = normalise(mesh)
    np.testing.assert_array_equal(mesh.vertices, before)
    np.testing.assert_array_equal(small.visual.uv, mesh.visual.uv)
    assert np.linalg.norm(small.vertices, axis=1).max() <= BOUNDING_SPHERE_RADIUS + 1e-9
