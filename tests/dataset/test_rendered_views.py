"""Views that are rendered while training runs: those of the shards, kept apart by kind and by split."""

import numpy as np
import pytest
import torch

from dataset import rendered_views
from dataset import training_views as tv
from dataset.rendered_views import RenderedViews


@pytest.fixture(autouse=True)
def toys_alone(monkeypatch):
    """Modelled objects need packages: toys take their place."""
    original = tv.training_object
    monkeypatch.setattr(tv, "training_object", lambda kind, *rest: original("toys", *rest))


def test_objects_are_those_of_the_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(tv, "OBJECTS_PER_SHARD", 2)
    monkeypatch.setattr(rendered_views, "OBJECTS_PER_SHARD", 2)
    tv.render_shard(tmp_path / "toys", "toys", 1)
    index = np.load(tmp_path / "toys/00001_index.npz")
    shard = np.load(tmp_path / "toys/00001_pictures.npy"), index["cameras"], index["ends"]
    views = RenderedViews(torch.device("cpu"), capacity=4, workers=2)
    views.fill(10)
    assert views.count == 4, "there is room for four"
    for place in range(2):  # toys lie at even places
        images, cameras, depths = tv._read(shard[0], shard[1][place], shard[2], place, np.arange(tv.VIEWS), 0)
        assert torch.equal(views.cameras[2 * place], cameras)
        assert (tv.white_composite(views.images[2 * place]) - images).square().mean() < 3e-4
        assert ((views.depths[2 * place] > 0) == (depths < 1.5)).float().mean() > 0.999
        known = (views.depths[2 * place] > 0) & (depths < 1.5)
        assert (tv.dequantised_depth(views.depths[2 * place]) - depths)[known].abs().max() < 1.1 / 127


def test_batches_are_of_one_kind_and_the_photos_come_first():
    views = RenderedViews(torch.device("cpu"), capacity=4, workers=0)
    views.fill(4)
    batch = views.of_kind("models").batch(np.random.default_rng(0), objects=6, views=3, targets=4)
    assert batch.images.shape == (6, 7, 4, 128, 128) and batch.depths.shape == (6, 4, 64, 64)
    for cameras in batch.cameras:
        places, slots = _where(views.cameras, cameras)
        assert set(places) <= {1, 3} and len(set(places)) == 1
        assert len(set(slots)) == 7 and max(slots[:3]) < tv.VIEWS // 2
    assert views.batch(np.random.default_rng(0), objects=1, views=2).images.shape[1] == 2


def _where(stored: torch.Tensor, cameras: torch.Tensor) -> tuple[list[int], list[int]]:
    """Objects and views of stored cameras [O, V, 7] that are `cameras` [N, 7]."""
    found = [(stored == camera).all(-1).nonzero()[0].tolist() for camera in cameras]
    return [place for place, _ in found], [slot for _, slot in found]


def test_held_out_objects_are_others():
    held_out, others = (RenderedViews(torch.device("cpu"), 2, workers=0, held_out=each) for each in (True, False))
    held_out.fill(2)
    others.fill(2)
    wanted = tv.random_cameras(np.random.default_rng([0, 1]))
    assert (held_out.cameras[0].numpy() == wanted).all() and not (others.cameras[0].numpy() == wanted).all()


def test_filling_stops_when_it_is_told():
    views = RenderedViews(torch.device("cpu"), 4, workers=0)
    views.stop()
    views.fill(4)
    assert views.count == 0
