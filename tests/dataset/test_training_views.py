"""Training views: cameras within their bounds, shards read back as rendered, batches of the right split and half."""

import math

import numpy as np
import pytest
import torch

from dataset import training_views as tv
from dataset.photo_errors import photo_errors
from sap3d.cameras import maths as cam
from sap3d.errors import UserError


def test_cameras_keep_the_objects_size_and_their_bounds():
    cameras = torch.from_numpy(np.concatenate([tv.random_cameras(np.random.default_rng(s)) for s in range(200)]))
    size = 1 / (cameras[:, 2] * cam.half_fov_tangents(cameras)[:, 0])
    low, high = (1 / (radius * cam.TAN_HALF_FOV) for radius in tv.RADIUS[::-1])
    assert low - 1e-4 < size.min() and size.max() < high + 1e-4
    view = cameras[:, 6].rad2deg()
    assert 25 <= view.min() < 30 and 60 < view.max() <= 65.01
    photos = cameras.unflatten(0, (200, tv.VIEWS))[:, : tv.VIEWS // 2]
    assert photos[..., 0].min() >= math.radians(-20.1) and photos[..., 0].max() <= math.radians(85.1)
    assert 5 < photos[..., 5].abs().max().rad2deg() <= 12.01
    still = (photos[..., 3:6] == 0).all(-1).all(-1).float().mean()
    assert 0.15 < still < 0.35, "a quarter of the objects is photographed without roll and in the middle"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Shards 0 to 2 of two toys each."""
    monkeypatch.setattr(tv, "OBJECTS_PER_SHARD", 2)
    for shard in range(3):
        tv.render_shard(tmp_path / "toys", "toys", shard)
    return tmp_path


def test_shards_are_read_back_as_rendered(folder):
    data = tv.TrainingViews(folder, "val")
    batch = data.batch(np.random.default_rng(0), objects=1, views=3, targets=4)
    assert batch.images.shape == (1, 7, 4, 128, 128) and batch.depths.shape == (1, 4, 64, 64)
    index = np.load(folder / "toys/00000_index.npz")
    place = np.argwhere(index["cameras"][..., 1] == batch.cameras[0, 0, 1].item())[0]
    rng = np.random.default_rng([int(place[0]), 1])
    assert (tv.random_cameras(rng) == index["cameras"][place[0]]).all()
    renderer = tv.Renderer(tv.training_object("toys", 0, rng, int(place[0])))
    expected = renderer.render(batch.cameras[0], tv.SIZE, lighting=tv.random_lighting(rng))
    # WebP's colours are near the truth, its alpha is exact.
    truth = tv.white_composite(torch.from_numpy(expected))
    assert torch.equal(batch.images[0, :, 3], truth[:, 3])
    assert (batch.images[0] - truth).square().mean() < 3e-4
    depth = torch.from_numpy(renderer.depth(batch.cameras[0, 3:], tv.DEPTH_SIZE))
    known = batch.depths[0] < 1.5
    assert torch.equal(known, depth.isfinite()) and known.any()
    relative = (depth - batch.cameras[0, 3:, 2, None, None]) / tv.SCENE_BOUND
    assert (batch.depths[0] - relative)[known].abs().max() <= 0.5 / 127 + 1e-4


def test_depth_levels_round_trip():
    depth = torch.tensor([1.2, 1.8, 2.4, 3.0, math.inf])
    levels = tv.quantised_depth(depth[None, None], torch.tensor([1.8]))[0, 0]
    assert levels.tolist()[1] == 128 and levels.tolist()[3:] == [0, 0]
    back = tv.dequantised_depth(levels)
    assert (back[:3] - (depth[:3] - 1.8) / tv.SCENE_BOUND).abs().max() <= 0.5 / 127
    assert back[3:].tolist() == [2, 2]


def test_batches_come_from_their_split_and_half(folder):
    train = tv.TrainingViews(folder, "train")
    batch = train.batch(np.random.default_rng(0), objects=6, views=3, targets=4)
    stored = np.concatenate([np.load(folder / f"toys/0000{shard}_index.npz")["cameras"] for shard in (1, 2)])
    for views in batch.cameras.numpy():
        objects, slots = np.concatenate([np.argwhere(stored[..., 1] == azimuth) for azimuth in views[:, 1]]).T
        assert len(set(objects)) == 1 and len(set(slots)) == 7
        assert (slots[:3] < 8).all()


def test_later_shards_are_picked_up_and_missing_ones_named(folder):
    train = tv.TrainingViews(folder, "train")
    tv.render_shard(folder / "toys", "toys", 3)
    train.refresh()
    assert len(train.shards["toys"]) == 3
    with pytest.raises(UserError, match="no train shards"):
        tv.TrainingViews(folder / "nowhere", "train")


def test_photo_errors_change_half_of_the_objects_and_keep_the_ground_white():
    images = torch.zeros(64, 2, 4, 16, 16)
    images[..., 4:12, 4:12] = 1
    images[:, :, :3] = 0.5 * images[:, :, 3:] + 1 - images[:, :, 3:]
    changed = photo_errors(images, torch.Generator().manual_seed(0))
    assert changed.min() >= 0 and changed.max() <= 1
    same = (changed - images).abs().amax((1, 2, 3, 4)) < 1e-6
    assert 0.3 < same.float().mean() < 0.7
    alpha = changed[:, :, 3].sum((-1, -2))
    assert set(alpha.flatten().int().tolist()) == {36, 64, 100}  # 6 × 6, as it was, 10 × 10 pixels
    empty = changed[:, :, 3:] == 0
    assert (changed[:, :, :3][empty.expand(-1, -1, 3, -1, -1)] == 1).all()


def test_white_composite():
    rgba = torch.tensor([[[[255, 0, 0, 255], [255, 0, 0, 0]]]], dtype=torch.uint8)
    image = tv.white_composite(rgba)[0]
    assert image[:, 0, 0].tolist() == [1, 0, 0, 1]
    assert image[:, 0, 1].tolist() == [1, 1, 1, 0]
