"""The results' folder: cameras where they are, tiles where they belong."""

import json

import bundle
import numpy as np
import torch
import trimesh
from PIL import Image

from sap3d.cameras import maths as cam
from sap3d.cameras.poses import write_poses
from sap3d.images import sheet


def test_frusta_start_at_the_cameras_and_open_towards_the_origin(tmp_path):
    cameras = torch.tensor([[0.3, 0.5, 1.8], [0.6, -2.0, 2.1]])
    write_poses(tmp_path / "poses.json", cameras[None], [0.0])
    (tmp_path / "results.json").write_text(json.dumps({"views": 2}))
    shown = bundle.with_cameras(trimesh.Scene(trimesh.creation.box()), tmp_path)
    assert len(shown.geometry) == 3
    frusta = list(shown.geometry.values())[1:]
    for camera, frustum in zip(cameras, frusta):
        x, y, z = cam.camera_positions(camera).numpy()
        position = np.array([x, z, -y])  # y up
        distance = np.linalg.norm(frustum.vertices - position, axis=1)
        assert distance.min() < 2 * bundle.LINE
        # The four far corners lie towards the origin by the frustum's length.
        depth = (position - frustum.vertices) @ (position / np.linalg.norm(position))
        np.testing.assert_allclose(depth.max(), bundle.FRUSTUM, atol=2 * bundle.LINE)
    assert not np.array_equal(frusta[0].visual.vertex_colors[0], frusta[1].visual.vertex_colors[0])


def test_novel_views_lose_their_background_and_nothing_of_the_object():
    tiles = np.full((84, 32, 32, 3), 255, np.uint8)
    tiles[:, 8:24, 8:24] = (200, 40, 40)
    tiles[:, 12:20, 12:20] = 255  # white within the object is the object's
    seen = bundle.without_background(sheet(tiles, bundle.AZIMUTHS))
    pitch = 32 + bundle.PAD
    for row, column in ((0, 0), (3, 7), (6, 11)):
        top, left = bundle.PAD + row * pitch, bundle.PAD + column * pitch
        alpha = seen[top : top + 32, left : left + 32, 3]
        assert not alpha[:7].any() and not alpha[:, 25:].any()
        assert (alpha[10:22, 10:22] > 250).all()


def test_a_small_mesh_has_a_jpeg_in_the_same_place(tmp_path):
    noise = np.random.default_rng(0).normal(128, 10, (256, 256, 3)).astype(np.uint8)
    box = trimesh.creation.box()
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(noise))
    box.visual = trimesh.visual.TextureVisuals(uv=box.vertices[:, :2] + 0.5, material=material)
    box.export(tmp_path / "mesh.glb")
    large = trimesh.load_scene(tmp_path / "mesh.glb")
    (tmp_path / "small.glb").write_bytes(bundle.jpeg_textures(large.copy()).export(file_type="glb"))
    large, small = (
        next(iter(trimesh.load_scene(tmp_path / name).geometry.values())) for name in ("mesh.glb", "small.glb")
    )
    texture = small.visual.material.baseColorTexture
    assert texture.format == "JPEG"
    assert np.abs(np.asarray(texture, float) - noise).mean() < 10
    np.testing.assert_allclose(small.visual.uv, large.visual.uv)
    assert (tmp_path / "small.glb").stat().st_size < (tmp_path / "mesh.glb").stat().st_size / 2
