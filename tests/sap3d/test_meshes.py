import pytest
import trimesh

from sap3d.meshes import normal_scale, normalise


@pytest.mark.parametrize("sides", [(0.5, 0.4, 2.0), (3.0, 1.0, 0.2), (1.0, 1.0, 1.0)])
def test_size_is_undone_wherever_the_object_faces(sides):
    """By the height, by a side of the box, and by the bounding sphere."""
    mesh = normalise(trimesh.creation.box(sides))
    assert normal_scale(mesh.vertices) == pytest.approx(1)
    mesh.apply_transform(trimesh.transformations.rotation_matrix(0.7, [0, 0, 1], [0.3, 0.1, 0]))
    mesh.apply_scale(1.3)
    assert normal_scale(mesh.vertices) == pytest.approx(1 / 1.3)
