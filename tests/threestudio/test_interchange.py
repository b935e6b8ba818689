"""What other tools read says the same as our cameras."""

import json
import math
import shutil

import imageio.v3 as imageio
import numpy as np
import pycolmap
import torch
import trimesh
from PIL import Image
from scipy.spatial.transform import Rotation
from trimesh.visual.material import PBRMaterial

from sap3d.cameras import maths as cam
from threestudio.models.exporters.interchange import TO_OPENCV, InterchangeExporter
from threestudio.models.exporters.texture import FACING

CAMERAS = cam.full_cameras(torch.tensor([[0.3, 0.0, 1.8], [-0.2, 2.0, 1.5], [1.2, -2.5, 2.1]]))
CAMERAS[:, 5:] = torch.tensor([[0.0, cam.FIELD_OF_VIEW], [0.5, 0.6], [-0.4, 1.2]])  # rolls and fields of view
SIZE = 64
POINT = np.array([0.2, -0.1, 0.3])


def written(folder) -> None:
    photos = torch.rand(3, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    photos[:, :3] = photos[:, :3] * photos[:, 3:] + 1 - photos[:, 3:]
    mesh = trimesh.creation.box((0.5, 0.5, 0.5))
    material = PBRMaterial(baseColorTexture=Image.new("RGB", (8, 8), (10, 200, 30)))
    mesh.visual = trimesh.visual.TextureVisuals(np.full((8, 2), 0.5), material=material)
    InterchangeExporter(InterchangeExporter.Config(SIZE, 500)).write(folder, photos, CAMERAS, mesh)


def ours() -> np.ndarray:
    """Where the point is seen, in pixels from the top left, [3, 2]."""
    pixels, _ = cam.project(CAMERAS, torch.from_numpy(POINT).float().expand(3, 1, 3))
    return ((pixels[:, 0] * torch.tensor([1, -1]) + 1) / 2 * SIZE).numpy()


def test_nerfstudio_sees_the_point_where_we_do(tmp_path):
    written(tmp_path)
    folder = tmp_path / "interchange"
    content = json.loads((folder / "transforms.json").read_text())
    assert math.isclose(2 * math.atan(SIZE / 2 / content["fl_y"]), cam.FIELD_OF_VIEW, rel_tol=1e-6)
    for frame, expected, field_of_view in zip(content["frames"], ours(), CAMERAS[:, 6].tolist()):
        assert math.isclose(2 * math.atan(SIZE / 2 / frame["fl_y"]), field_of_view, rel_tol=1e-6)
        local = np.linalg.inv(np.array(frame["transform_matrix"])) @ [*POINT, 1]  # OpenGL: looks along −z
        x = frame["fl_x"] * local[0] / -local[2] + content["cx"]
        y = frame["fl_y"] * -local[1] / -local[2] + content["cy"]
        np.testing.assert_allclose([x, y], expected, atol=1e-4)
        assert imageio.imread(folder / frame["file_path"]).shape == (SIZE, SIZE, 4)
    cloud = trimesh.load(folder / content["ply_file_path"])
    assert cloud.vertices.shape == (500, 3) and (np.abs(cloud.vertices).max(1) > 0.2499).all()
    assert (cloud.colors[:, :3] == [10, 200, 30]).all()


def test_colmap_sees_the_point_where_we_do(tmp_path):
    written(tmp_path)
    folder = tmp_path / "interchange/sparse/0"
    lenses = {}
    for line in lines_of(folder / "cameras.txt"):
        number, model, width, height, *lenses[line.split()[0]] = line.split()
        assert (model, width, height) == ("PINHOLE", str(SIZE), str(SIZE))
    lines = lines_of(folder / "images.txt")
    assert all(lines), "gsplat's reader stops at an empty line"
    for line, expected in zip(lines[::2], ours()):
        w, x, y, z, *translation = map(float, line.split()[1:8])
        fx, fy, cx, cy = map(float, lenses[line.split()[8]])
        local = Rotation.from_quat([x, y, z, w]).apply(POINT) + translation  # OpenCV: looks along +z
        np.testing.assert_allclose([fx * local[0] / local[2] + cx, fy * local[1] / local[2] + cy], expected, atol=1e-4)
    assert len(lines_of(folder / "points3D.txt")) == 500


def lines_of(path) -> list[str]:
    """Of a COLMAP text file, without its comments."""
    return [line for line in path.read_text().rstrip("\n").split("\n") if not line.startswith("#")]


def test_colmap_reads_the_same_from_text_and_binary(tmp_path):
    written(tmp_path)
    folder = tmp_path / "interchange/sparse/0"
    poses = cam.spherical_to_w2c(CAMERAS.double()).numpy()
    eyes = cam.camera_positions(CAMERAS.double()).numpy()
    for suffix, read in (("txt", pycolmap.Reconstruction.read_text), ("bin", pycolmap.Reconstruction.read_binary)):
        only, model = tmp_path / suffix, pycolmap.Reconstruction()
        only.mkdir()
        for path in folder.glob(f"*.{suffix}"):
            shutil.copy(path, only)
        read(model, only)
        for index, pose in enumerate(poses):
            np.testing.assert_allclose(model.images[index + 1].cam_from_world().matrix(), TO_OPENCV @ pose, atol=1e-6)
        for point in model.points3D.values():
            # Of a box a point is seen by those whose side of its face it is on.
            normal = np.sign(point.xyz) * (np.arange(3) == np.abs(point.xyz).argmax())
            tracked = {element.image_id - 1 for element in point.track.elements}
            sight = (eyes - point.xyz) / np.linalg.norm(eyes - point.xyz, axis=1, keepdims=True)
            assert tracked == set(np.flatnonzero(sight @ normal > FACING))
        model.update_point_3d_errors()
        assert model.compute_mean_reprojection_error() < 1e-3


def test_masks_are_what_is_opaque(tmp_path):
    written(tmp_path)
    for index in range(3):
        image, mask = (imageio.imread(tmp_path / f"interchange/{part}/{index:03d}.png") for part in ("images", "masks"))
        np.testing.assert_array_equal(mask, image[..., 3])


def test_pictures_are_straight_alpha_and_nothing_is_drawn_from_nothing(tmp_path):
    photo = torch.tensor([0.75, 1.0, 0.5, 0.5]).view(4, 1, 1).expand(4, SIZE, SIZE)  # half of (0.5, 1, 0) on white
    InterchangeExporter(InterchangeExporter.Config(SIZE)).write(tmp_path, photo[None], CAMERAS[:1], trimesh.Trimesh())
    np.testing.assert_allclose(
        imageio.imread(tmp_path / "interchange/images/000.png")[0, 0], [128, 255, 0, 128], atol=1
    )
    assert lines_of(tmp_path / "interchange/sparse/0/points3D.txt") == []
    assert len(lines_of(tmp_path / "interchange/sparse/0/images.txt")) == 2
