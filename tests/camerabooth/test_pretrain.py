"""Training of the embedded model: losses against hand-made cases, resumption, and that it learns."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from camerabooth import pretrain
from camerabooth.backbones.embedded.volume import View
from dataset import training_views as tv
from sap3d.cameras import maths as cam
from sap3d.cameras.maths import SCENE_BOUND

TINY = {
    "encoder_widths": [8, 8, 16],
    "source_channels": 16,
    "volume_widths": [8, 8, 8],
    "resolution": 12,
    "field_features": 2,
    "samples": 12,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two shards of two toys."""
    folder = tmp_path_factory.mktemp("root")
    patch = pytest.MonkeyPatch()
    patch.setattr(tv, "OBJECTS_PER_SHARD", 2)
    for shard in range(2):
        tv.render_shard(folder / "views/toys", "toys", shard)
    patch.undo()
    return folder


def settings(**changes):
    tiny = {"data": "views", "objects": 2, "targets": 2, "rays": 64, "model": TINY, "validate_steps": 1000}
    return OmegaConf.merge(pretrain.DEFAULTS, tiny | changes)


def test_a_killed_run_goes_on_from_its_checkpoint(root, tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(root))
    config = settings(output=str(tmp_path), max_steps=2)
    first = pretrain.train(config)
    second = pretrain.train(OmegaConf.merge(config, {"max_steps": 3}))
    assert (first.step, second.step, second.objects) == (2, 3, 6)
    assert second.minutes > first.minutes
    assert any(not torch.equal(second.average[name], value) for name, value in first.average.items())
    assert {int(moments["step"]) for moments in second.optimizer.state.values()} == {3}


def test_the_loss_falls_on_one_batch(root, tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(root))
    trainer = pretrain.Trainer(settings(output=str(tmp_path), warmup_steps=1, learning_rate=3e-3))
    batch = tv.TrainingViews(root / "views", "train").batch(np.random.default_rng(0), 2, 2, 2)
    losses = [trainer.train_step(batch, torch.Generator().manual_seed(0)) for _ in range(30)]
    for name in ("colour", "mask"):  # the depth error grows with opacity first
        assert losses[-1][name] < 0.7 * losses[0][name]


def test_the_learning_rate_warms_up_and_falls_to_zero_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    trainer = pretrain.Trainer(settings(learning_rate=1.0, warmup_steps=10, max_minutes=100, decay=0.2))
    rates = []
    for trainer.step, trainer.minutes in ((0, 0), (9, 1), (500, 79), (500, 90), (500, 100)):
        rates.append(trainer.learning_rate())
    assert rates == pytest.approx([0.1, 1, 1, 0.5, 0])


def test_rays_are_chosen_where_an_object_can_be():
    cameras = torch.tensor([[0.2, 0.3, 1.8, 0.2, -0.1, 0.1, 0.7], [0.0, 1.0, 2.2, 0, 0, 0, 0.9]])[None]
    choice = pretrain.object_rays(cameras, 500, torch.Generator().manual_seed(0))
    assert choice.shape == (1, 2, 500) and all(len(set(row.tolist())) == 500 for row in choice[0])
    pixels = cam.pixel_grid(tv.DEPTH_SIZE)[choice]
    near, far = pretrain.ray_interval(*cam.rays(cameras, pixels))
    assert ((far - near) > 0.01 * SCENE_BOUND).float().mean() > 0.95


def test_depth_error_is_the_weighted_distance_where_depth_is_known():
    weights = torch.tensor([[0.5, 0.25, 0.0], [1.0, 0.0, 0.0]])[None, None]
    depths = torch.tensor([[-0.5, 0.0, 0.5], [0.3, 0.4, 0.5]])[None, None]
    view = View(torch.empty(0), torch.empty(0), torch.empty(0), weights, depths)
    error = pretrain.depth_error(view, torch.tensor([[[-0.25, 2.0]]]))
    assert error.item() == pytest.approx((0.5 * 0.25 + 0.25 * 0.25) / 2)


def test_validation_scores_each_kind_and_number_of_sources(root, tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(root))
    trainer = pretrain.Trainer(settings(output=str(tmp_path)))
    scores = pretrain.validate(trainer.model, tv.TrainingViews(root / "views", "val"), trainer.device, 4)
    assert set(scores) == {"toys_1", "toys_2", "toys_3", "toys_5"} and all(5 < value < 40 for value in scores.values())
