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
    trimesh.creation.box().export(tmp_path / "mesh.glb")
    cameras = torch.tensor([[0.3, 0.5, 1.8], [0.6, -2.0, 2.1]])
    write_poses(tmp_path / "poses.json", cameras[None], [0.0])
    (tmp_path / "results.json").write_text(json.dumps({"views": 2}))
    shown = bundle.camera_scene(tmp_path)
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


def test_novel_view_cuts_the_tile_of_its_azimuth_and_elevation(tmp_path):
    grid = cam.evaluation_grid(torch.tensor([0.2, 0.0, 1.8]))
    tiles = np.zeros((len(grid), 16, 16, 3), np.uint8)
    tiles[:, :, :] = np.arange(len(grid))[:, None, None, None]
    Image.fromarray(sheet(tiles, bundle.AZIMUTHS)).save(tmp_path / "sheet.png")
    for azimuth, elevation in ((0, 0), (30, -45), (330, 45), (180, 15), (360, -15)):
        wanted = torch.tensor([0.2 + np.radians(elevation), np.radians(azimuth % 360), 1.8])
        index = (grid - wanted).abs().sum(1).argmin().item()
        assert np.asarray(bundle.novel_view(tmp_path / "sheet.png", azimuth, elevation)).mean() == index


def test_a_small_mesh_has_a_jpeg_in_the_same_place(tmp_path):
    noise = np.random.default_rng(0).normal(128, 10, (256, 256, 3)).astype(np.uint8)
    box = trimesh.creation.box()
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(noise))
    box.visual = trimesh.visual.TextureVisuals(uv=box.vertices[:, :2] + 0.5, material=material)
    box.export(tmp_path / "mesh.glb")
    bundle.write_small_mesh(tmp_path / "mesh.glb", tmp_path / "small.glb")
    large, small = (
        next(iter(trimesh.load_scene(tmp_path / name).geometry.values())) for name in ("mesh.glb", "small.glb")
    )
    texture = small.visual.material.baseColorTexture
    assert texture.format == "JPEG"
    assert np.abs(np.asarray(texture, float) - noise).mean() < 10
    np.testing.assert_allclose(small.visual.uv, large.visual.uv)
    assert (tmp_path / "small.glb").stat().st_size < (tmp_path / "mesh.glb").stat().st_size / 2
