"""Training of the embedded model: losses against hand-made cases, resumption, and that it learns."""

import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from omegaconf import OmegaConf

from camerabooth import pretrain
from camerabooth.backbones.embedded.model import EmbeddedDiffusion
from dataset import training_views as tv

TINY = {
    "encoder_widths": [8, 8, 16],
    "source_channels": 16,
    "volume_widths": [8, 8, 8],
    "resolution": 12,
    "field_features": 2,
    "denoiser_widths": [8, 8, 16],
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
    resumed = pretrain.Trainer(config)
    resumed.load()
    states = zip(second.optimizer.state.values(), resumed.optimizer.state.values(), strict=True)
    assert all(torch.equal(a["exp_avg"], b["exp_avg"]) for a, b in states)


def train_together(rank, config, meeting, root):
    os.environ["ROOT_DIR"] = root
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    trainer = pretrain.train(config, rank)
    weights = torch.cat([value.flatten() for value in trainer.model.state_dict().values()])
    both = [torch.empty_like(weights) for _ in range(2)]
    dist.all_gather(both, weights)
    assert torch.equal(*both) and trainer.objects == 8
    for parameter in trainer.model.parameters():
        parameter.grad = torch.full_like(parameter, 1.0 + rank)
    trainer.minutes = 5.0 + rank
    trainer.average_gradients()
    assert all(torch.equal(p.grad, torch.full_like(p, 1.5)) for p in trainer.model.parameters())
    assert trainer.minutes == 5.0
    dist.destroy_process_group()


def test_two_processes_average_their_gradients_and_stay_alike(root, tmp_path):
    config = settings(output=str(tmp_path / "out"), processes=2, max_steps=2)
    mp.spawn(train_together, args=(config, str(tmp_path / "meeting"), str(root)), nprocs=2)
    assert torch.load(tmp_path / "out/checkpoint.pt", weights_only=True)["objects"] == 8


def test_exported_weights_are_where_another_run_begins(root, tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(root))
    trainer = pretrain.Trainer(settings(output=str(tmp_path)))
    EmbeddedDiffusion(trainer.averaged_model()).save_pretrained(tmp_path / "exported")
    other = pretrain.Trainer(settings(output=str(tmp_path / "other"), start=str(tmp_path / "exported"), seed=1))
    before = next(iter(other.model.state_dict().values())).clone()
    other.load()
    for (name, value), average in zip(other.model.state_dict().items(), other.average.values(), strict=True):
        torch.testing.assert_close(value, trainer.average[name], atol=1e-3, rtol=1e-3)
        assert torch.equal(value, average)
    assert not torch.equal(before, next(iter(other.model.state_dict().values())))


def test_the_loss_falls_on_one_batch(root, tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(root))
    trainer = pretrain.Trainer(settings(output=str(tmp_path), warmup_steps=1, learning_rate=3e-3))
    batch = tv.TrainingViews(root / "views", "train").batch(np.random.default_rng(0), 2, 2, 2)
    losses = [trainer.train_step(batch, torch.Generator().manual_seed(0)) for _ in range(30)]
    for name in ("colour", "mask"):  # the depth error grows with opacity first
        assert losses[-1][name] < 0.7 * losses[0][name]


def test_the_denoiser_learns_on_one_batch(root, tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(root))
    trainer = pretrain.Trainer(settings(output=str(tmp_path), warmup_steps=1, learning_rate=3e-3, denoise_every=1))
    batch = tv.TrainingViews(root / "views", "train").batch(np.random.default_rng(0), 2, 2, 2)
    losses = [trainer.train_step(batch, torch.Generator().manual_seed(0))["denoising"] for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0]


def test_every_other_step_trains_the_denoiser(root, tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(root))
    trainer = pretrain.Trainer(settings(output=str(tmp_path), denoise_every=2))
    batch = tv.TrainingViews(root / "views", "train").batch(np.random.default_rng(0), 2, 1, 2)
    losses = [trainer.train_step(batch, torch.Generator().manual_seed(0)) for _ in range(4)]
    assert ["denoising" in loss for loss in losses] == [True, False, True, False]


def test_the_learning_rate_warms_up_and_falls_to_zero_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    trainer = pretrain.Trainer(settings(learning_rate=1.0, warmup_steps=10, max_minutes=100, decay=0.2))
    rates = []
    for trainer.step, trainer.minutes in ((0, 0), (9, 1), (500, 79), (500, 90), (500, 100)):
        rates.append(trainer.learning_rate())
    assert rates == pytest.approx([0.1, 1, 1, 0.5, 0])


def test_workers_draw_different_batches(root):
    batches = pretrain.Batches(root / "views", settings(), step=0)
    here = next(iter(batches)).cameras
    assert torch.equal(here, next(iter(batches)).cameras)
    loader = iter(torch.utils.data.DataLoader(batches, batch_size=None, num_workers=2))
    first, second = next(loader).cameras, next(loader).cameras
    assert first.shape[0] == 2 and (first.shape != second.shape or not torch.equal(first, second))


def test_validation_scores_each_kind_and_number_of_sources(root, tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(root))
    trainer = pretrain.Trainer(settings(output=str(tmp_path)))
    scores = pretrain.validate(trainer.model, tv.TrainingViews(root / "views", "val"), trainer.device, 4)
    assert set(scores) == {"toys_1", "toys_2", "toys_3", "toys_5"} and all(5 < value < 40 for value in scores.values())
