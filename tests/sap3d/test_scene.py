"""The scene folder."""

import numpy as np
import pytest
import torch
from PIL import Image

from sap3d import scene, views
from sap3d.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    return scene.Scene("DEMO", "my_mug", 2)


def view(value: int, side: int = 16) -> np.ndarray:
    return np.full((side, side, 4), [value, 0, 0, 255], np.uint8)


def test_views_and_poses_are_read_as_written(folder):
    cameras = torch.tensor([[0.2, 1.0, 1.8], [0.6, -2.0, 1.6], [0.0, 3.0, 2.0]])
    for index, camera in enumerate(cameras):
        views.write_view(folder.train, index, view(index), camera)
    assert [image[0, 0, 0] for image in views.read_images(folder)] == [0, 1]
    assert torch.allclose(views.read_poses(folder.train), cameras, atol=1e-5)
    assert len(views.read_poses(folder.train, 2)) == 2


def test_photos_with_masks_are_framed(folder):
    (folder.train / "images").mkdir(parents=True)
    (folder.train / "masks").mkdir()
    mask = np.zeros((40, 80), np.uint8)
    mask[10:30, 50:70] = 255
    for name in ("000", "001"):
        Image.fromarray(np.full((40, 80, 3), 90, np.uint8)).save(folder.train / "images" / f"{name}.jpg")
        Image.fromarray(mask).save(folder.train / "masks" / f"{name}.png")
    first = views.read_images(folder)[0]
    assert first.shape[0] == first.shape[1] < 40
    assert (first[..., 3] == 255).sum() == 400


def test_too_few_images(folder):
    with pytest.raises(UserError, match="no images in"):
        views.read_images(folder)
    views.write_view(folder.train, 0, view(0), torch.tensor([0.0, 0.0, 1.8]))
    with pytest.raises(UserError, match="1 images, but VIEWS is 2"):
        views.read_images(folder)


def test_bad_poses(folder):
    with pytest.raises(UserError, match="0 poses"):
        views.read_poses(folder.train)
    (folder.train / "poses").mkdir(parents=True)
    np.save(folder.train / "poses/000.npy", np.full((3, 4), np.nan))
    with pytest.raises(UserError, match="not a finite 3×4 matrix"):
        views.read_poses(folder.train)


@pytest.mark.parametrize("bad", ["0", "-1", "x", "1.5", "", 0])
def test_bad_views(bad):
    with pytest.raises(UserError, match="VIEWS must be"):
        scene.check_views(bad)


def test_outputs_of_different_view_counts_are_apart(folder):
    other = scene.Scene("DEMO", "my_mug", 3)
    for name in ("initial_poses", "diffusion", "reconstruction", "results"):
        assert getattr(folder, name) != getattr(other, name)
    assert folder.train == other.train
