"""Files for other programs: closed, upright, coloured, and flat where a print lies."""

import numpy as np
import pytest
import trimesh
from PIL import Image
from scipy.spatial.transform import Rotation
from trimesh.visual.material import PBRMaterial

from threestudio.models.exporters.formats import SH_0, facing, printable, write_glb, write_obj, write_splats
from threestudio.models.exporters.texture import Atlas, unwrap

GREEN = (10, 200, 30)


def green(mesh: trimesh.Trimesh) -> Atlas:
    """Unwrapped, of one colour."""
    mesh.visual.vertex_colors = np.full((len(mesh.vertices), 4), 255, np.uint8)
    atlas = unwrap(mesh)
    material = PBRMaterial(baseColorTexture=Image.new("RGB", (8, 8), GREEN))
    atlas.mesh.visual = trimesh.visual.TextureVisuals(atlas.uv, material=material)
    return atlas


def cone() -> trimesh.Trimesh:
    """Standing, its point up: 0.2 wide, 0.6 high, about (0.1, 0, 0)."""
    return trimesh.creation.cone(0.1, 0.6).apply_translation((0.1, 0, -0.3))


def test_obj_has_a_position_once_and_every_chart(tmp_path):
    mesh = cone()
    atlas = green(mesh)
    assert len(atlas.source) > len(mesh.vertices), "the cone has seams"
    write_obj(tmp_path, atlas)
    rows = {"v": [], "vt": [], "vn": [], "f": []}
    for line in (tmp_path / "mesh.obj").read_text().splitlines():
        kind, *values = line.split()
        rows.get(kind, []).append(values)
    vertices, uv = np.array(rows["v"], float), np.array(rows["vt"], float)
    corners = np.array([[corner.split("/") for corner in face] for face in rows["f"]], int) - 1
    assert len(vertices) == len(mesh.vertices) and len(uv) == len(atlas.uv)
    closed = trimesh.Trimesh(vertices, corners[..., 0], process=False)
    assert closed.is_watertight and closed.volume == pytest.approx(mesh.volume)
    np.testing.assert_allclose(closed.bounds, [[0, -0.3, -0.1], [0.2, 0.3, 0.1]], atol=1e-3)
    assert (np.abs(closed.vertices[:, 1] - 0.3) < 1e-6).sum() == 1, "its point is up"
    np.testing.assert_allclose(uv[corners[..., 1]], atlas.uv[atlas.mesh.faces], atol=1e-6)
    np.testing.assert_array_equal(corners[..., 2], corners[..., 0])
    outward = (np.array(rows["vn"], float) * (vertices - closed.center_mass)).sum(1)
    assert (outward > 0).all()
    material = (tmp_path / "mesh.mtl").read_text().splitlines()
    assert {"Kd 1 1 1", "Ks 0 0 0", "map_Kd mesh.png"} <= set(material)
    assert Image.open(tmp_path / "mesh.png").getpixel((0, 0)) == GREEN


def test_glb_has_the_normals_of_the_surface_across_seams(tmp_path):
    atlas = green(cone())
    write_glb(tmp_path / "mesh.glb", atlas.mesh)
    (loaded,) = trimesh.load_scene(tmp_path / "mesh.glb", process=False).geometry.values()
    expected = atlas.mesh.vertex_normals[:, [0, 2, 1]] * [1, 1, -1]  # y up
    np.testing.assert_allclose(loaded.vertex_normals, expected, atol=1e-3)
    alone = trimesh.Trimesh(loaded.vertices, loaded.faces, process=False).vertex_normals
    assert np.abs(alone - expected).max() > 0.1, "which the split vertices alone do not tell"


def test_a_print_is_a_closed_body_on_a_flat_base_without_crumbs():
    sphere = trimesh.creation.icosphere(5, 0.4).apply_translation((0, 0, 0.1))
    crumb = trimesh.creation.icosphere(2, 0.1).apply_translation((0.6, 0, -0.5))
    body = printable(trimesh.util.concatenate([sphere, crumb]))
    assert body.is_watertight and body.is_winding_consistent and body.body_count == 1
    assert body.bounds[:, 2] == pytest.approx([0, 0.8 * 0.99], abs=1e-6)
    base = (np.abs(body.triangles[..., 2]) < 1e-6).all(1)
    height = 0.008  # of the cap that is cut off
    assert body.area_faces[base].sum() == pytest.approx(np.pi * (2 * 0.4 * height - height**2), rel=0.1)
    assert (body.face_normals[base, 2] < -0.999).all()


def test_a_print_on_legs_of_unlike_length_is_one_body():
    table = trimesh.creation.box((1, 1, 0.1))
    legs = [trimesh.creation.box((0.1, 0.1, length)).apply_translation((x, 0, -length / 2)) for x, length in
            ((-0.4, 0.6), (0.4, 0.5))]  # fmt: skip
    body = printable(trimesh.boolean.union([table, *legs], engine="manifold"))
    assert body.body_count == 1 and body.is_watertight


def test_a_print_of_two_bodies_has_both_each_on_its_own_flat_base():
    """A pair of shoes, of which one floats a little; and a hollow, which is filled."""
    spheres = [trimesh.creation.icosphere(4, radius).apply_translation((x, 0, z)) for radius, x, z in
               ((0.3, 0, 0.3), (0.2, 0.6, 0.23))]  # fmt: skip
    hollow = trimesh.creation.icosphere(2, 0.1).apply_translation((0, 0, 0.3))
    hollow.invert()
    both = printable(trimesh.util.concatenate([*spheres, hollow])).split()
    assert len(both) == 2 and all(body.is_watertight for body in both)
    for body, sphere in zip(sorted(both, key=lambda body: -body.volume), spheres):
        assert body.bounds[:, 2] == pytest.approx([0, 0.99 * sphere.extents[2]], abs=1e-5)
        assert body.bounds[:, 0] == pytest.approx(sphere.bounds[:, 0], abs=1e-5)
        assert body.volume == pytest.approx(sphere.volume, rel=0.01)


def test_a_print_of_a_body_above_another_stays_above_it():
    cup = trimesh.creation.cylinder(0.3, 0.4).apply_translation((0, 0, 0.2))
    lid = trimesh.creation.cylinder(0.3, 0.1).apply_translation((0, 0, 0.6))
    both = printable(trimesh.util.concatenate([lid, cup])).split()
    heights = sorted(tuple(body.bounds[:, 2]) for body in both)
    np.testing.assert_allclose(heights, [(0, 0.396), (0.546, 0.646)], atol=1e-5)


def test_splats_lie_on_the_surface_in_its_colour(tmp_path):
    mesh = green(cone()).mesh
    write_splats(tmp_path / "splat.ply", mesh)
    data = trimesh.load(tmp_path / "splat.ply").metadata["_ply_raw"]["vertex"]["data"]
    points = np.column_stack([data[name] for name in "xyz"])
    upright = np.column_stack([points[:, 0], points[:, 2], -points[:, 1]])  # y is down
    assert len(points) > 50_000
    side = (0.3 - upright[:, 2]) / 0.6 * 0.1 - np.hypot(upright[:, 0] - 0.1, upright[:, 1])
    base = np.abs(upright[:, 2] + 0.3)
    assert np.minimum(np.abs(side), base).max() < 0.002, "of a cone of 32 sides"
    colors = 0.5 + SH_0 * np.column_stack([data[f"f_dc_{index}"] for index in range(3)])
    np.testing.assert_allclose(colors, np.tile(np.array(GREEN) / 255, (len(points), 1)), atol=1e-6)
    # Together they cover the surface about once, and are flat along its normals.
    along, across = np.exp(data["scale_0"][0]), np.exp(data["scale_2"][0])
    assert 2 < len(points) * 2 * np.pi * along**2 / mesh.area < 5 and across < along / 5
    turns = Rotation.from_quat(np.column_stack([data[f"rot_{index}"] for index in (1, 2, 3, 0)]))
    normals = np.column_stack([data[name] for name in ("nx", "ny", "nz")])
    np.testing.assert_allclose(turns.apply([0, 0, 1]), normals, atol=1e-5)


def test_rotations_bring_the_z_axis_to_any_normal():
    normals = np.random.default_rng(0).normal(size=(50, 3))
    normals = np.vstack([normals / np.linalg.norm(normals, axis=1, keepdims=True), np.eye(3), -np.eye(3)])
    turned = Rotation.from_quat(np.roll(facing(normals), -1, axis=1)).apply([0, 0, 1])
    np.testing.assert_allclose(turned, normals, atol=1e-6)


def test_nothing_is_written_of_nothing(tmp_path):
    write_obj(tmp_path, Atlas.empty())
    write_splats(tmp_path / "splat.ply", trimesh.Trimesh())
    assert not printable(trimesh.Trimesh()).faces.size
    assert not (tmp_path / "mesh.png").exists()
    assert b"element vertex 0" in (tmp_path / "splat.ply").read_bytes()
