"""Compact meshes: which shapes are refused, and what is kept of geometry and colours."""

import numpy as np
import pytest
import trimesh
from PIL import Image
from trimesh.visual.material import MultiMaterial, SimpleMaterial

from dataset import compact
from sap3d.errors import UserError


def sheet_of(image: Image.Image) -> trimesh.Trimesh:
    """A box whose texture coordinates are its x and y."""
    mesh = trimesh.creation.box()
    visual = trimesh.visual.TextureVisuals(uv=mesh.vertices[:, :2] + 0.5, material=SimpleMaterial(image=image))
    return trimesh.Trimesh(mesh.vertices, mesh.faces, visual=visual, process=False)


@pytest.mark.parametrize("sides", [(1, 0.05, 0.05), (0.01, 1, 1)])
def test_rods_and_sheets_are_refused(sides):
    with pytest.raises(UserError, match="thin"):
        compact.check_shape(trimesh.creation.box(sides))


@pytest.mark.parametrize("sides", [(1, 0.03, 0.2), (0.12, 0.12, 1)])
def test_flat_and_slender_things_are_kept(sides):
    compact.check_shape(trimesh.creation.box(sides))


def test_transparent_textures_are_refused():
    compact.check_shape(sheet_of(Image.new("RGBA", (4, 4), (9, 9, 9, 255))))
    with pytest.raises(UserError, match="transparent"):
        compact.check_shape(sheet_of(Image.new("RGBA", (4, 4), (9, 9, 9, 0))))


def test_sets_and_parts_are_refused():
    one, far, near = trimesh.creation.box(), trimesh.creation.box(), trimesh.creation.box()
    far.apply_translation([3, 0, 0])
    near.apply_translation([1.02, 0, 0])
    compact.check_single(one + near, min_faces=24)
    with pytest.raises(UserError, match="scattered"):
        compact.check_single(one + far, min_faces=24)
    with pytest.raises(UserError, match="fewer than 25 faces"):
        compact.check_single(one + near, min_faces=25)


def test_compact_keeps_geometry_and_colours(tmp_path):
    rng = np.random.default_rng(0)
    ramp = np.zeros((64, 64, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(64) * 4, np.arange(64)[:, None] * 4
    mesh = sheet_of(Image.fromarray(ramp))
    mesh.visual.uv = 0.2 + 0.3 * mesh.visual.uv + [2, -1]  # a part of the image, some tiles away
    mesh.visual.material = MultiMaterial(materials=[mesh.visual.material, SimpleMaterial(diffuse=(10, 20, 30))])
    mesh.visual.face_materials = np.array([0] * 8 + [1] * 4)
    compact.write_compact(mesh, tmp_path / "m.npz")
    stored = compact.read_compact(tmp_path / "m.npz")
    assert stored.bounds == pytest.approx(np.array([[-1], [1]]) * np.full(3, 0.6 / np.sqrt(3)), abs=1e-6)
    order = np.argsort(mesh.visual.face_materials, kind="stable")
    scale = stored.extents / mesh.extents
    np.testing.assert_allclose(stored.triangles, mesh.triangles[order] * scale, atol=1e-6)
    assert tuple(stored.visual.material.materials[1].main_color[:3]) == (10, 20, 30)

    def colour(of: trimesh.Trimesh, face: int, weights: np.ndarray) -> np.ndarray:
        image = of.visual.material.materials[0].image
        u, v = weights @ of.visual.uv[of.faces[face]]
        x, y = u % 1 * image.width - 0.5, (-v) % 1 * image.height - 0.5
        return np.asarray(image)[round(y), round(x)].astype(int)

    image = stored.visual.material.materials[0].image
    assert 0.3 * 64 < max(image.size) < 0.4 * 64  # cropped to what is used
    for weights in rng.dirichlet(np.ones(3), 20):
        assert np.abs(colour(stored, 0, weights) - colour(mesh, order[0], weights)).max() < 16


def test_compact_repeated_textures_stay_whole_and_large_ones_shrink(tmp_path):
    mesh = sheet_of(Image.new("RGB", (1024, 512), (50, 60, 70)))
    mesh.visual.uv = mesh.visual.uv * 3
    compact.write_compact(mesh, tmp_path / "m.npz")
    stored = compact.read_compact(tmp_path / "m.npz")
    assert stored.visual.material.materials[0].image.size == (256, 128)
    np.testing.assert_allclose(stored.visual.uv, mesh.visual.uv, atol=1e-6)


def test_compact_simplifies_plain_parts_and_refuses_large_textured_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(compact, "SIMPLIFIED_FACES", 1000)
    monkeypatch.setattr(compact, "MAX_FACES", 2000)
    sphere = trimesh.creation.icosphere(4)
    assert len(sphere.faces) == 5120
    compact.write_compact(sphere, tmp_path / "m.npz")
    stored = compact.read_compact(tmp_path / "m.npz")
    assert 900 < len(stored.faces) < 1100
    assert stored.volume == pytest.approx(4 / 3 * np.pi / 8, rel=0.02) and np.abs(stored.vertices).max() <= 0.5 + 1e-6
    visual = trimesh.visual.TextureVisuals(
        uv=sphere.vertices[:, :2], material=SimpleMaterial(image=Image.new("RGB", (4, 4)))
    )
    with pytest.raises(UserError, match="too many faces"):
        textured = trimesh.Trimesh(sphere.vertices, sphere.faces, visual=visual, process=False)
        compact.write_compact(textured, tmp_path / "t.npz")
    assert not (tmp_path / "t.npz").exists()
