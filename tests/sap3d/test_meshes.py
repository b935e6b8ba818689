import numpy as np
import pytest
import trimesh

from sap3d.cameras.maths import Y_UP
from sap3d.cameras.placement import Placement
from sap3d.meshes import Size, normal_scale, normalise, read_result


@pytest.mark.parametrize("sides", [(0.5, 0.4, 2.0), (3.0, 1.0, 0.2), (1.0, 1.0, 1.0)])
def test_size_is_undone_wherever_the_object_faces(sides):
    """By the height, by a side of the box, and by the bounding sphere."""
    mesh = normalise(trimesh.creation.box(sides))
    assert normal_scale(mesh.vertices) == pytest.approx(1)
    mesh.apply_transform(trimesh.transformations.rotation_matrix(0.7, [0, 0, 1], [0.3, 0.1, 0]))
    mesh.apply_scale(1.3)
    assert normal_scale(mesh.vertices) == pytest.approx(1 / 1.3)


def test_a_size_is_of_the_longest_side_wherever_the_object_faces(tmp_path):
    box = trimesh.creation.box((0.5, 0.2, 0.4))
    box.apply_transform(trimesh.transformations.rotation_matrix(0.7, [0, 0, 1]))
    size = Size.of(box.vertices, 250)
    assert size.metres == pytest.approx(0.5) and sorted(size.sides) == pytest.approx([0.1, 0.2, 0.25])
    assert size.sides[2] == pytest.approx(0.2), "the height is last"
    assert size.placed(Placement(0.9, 0.3)) == Placement(pytest.approx(0.45), 0.3)
    size.write(tmp_path)
    assert Size.read(tmp_path).sides == pytest.approx(size.sides)
    assert "200 mm. mesh.stl is in millimetres" in size.sentence()


def test_without_a_size_files_are_of_the_unit_cube():
    size = Size.of(trimesh.creation.box((0.5, 0.2, 0.4)).vertices, None)
    assert (size.metres, size.stl_unit) == (1, 1) and "of the unit cube" in size.sentence()


def test_the_results_mesh_is_in_the_world_of_their_cameras(tmp_path):
    mesh = trimesh.creation.cone(0.2, 0.6)
    size = Size.of(mesh.vertices, 120)
    size.write(tmp_path)
    mesh.copy().apply_transform(np.array(Y_UP)).apply_scale(size.metres).export(tmp_path / "mesh.obj")
    np.testing.assert_allclose(read_result(tmp_path).bounds, mesh.bounds, atol=1e-6)
