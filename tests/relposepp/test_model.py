import math

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from relposepp import train
from relposepp.infer import CONFIG, estimate_poses
from relposepp.model import ModelConfig, RelativePose, load_model, save_model
from sap3d.errors import UserError

TINY = {"features": 4, "depth_bins": 4, "rings": 2, "levels": 4, "sectors": 12, "width": 8, "blocks": 1, "groups": 2,
        "group_channels": 2, "azimuth_bins": 24}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> RelativePose:
    torch.manual_seed(0)
    model = RelativePose(ModelConfig(**TINY)).eval()
    torch.nn.init.normal_(model.pair_head.conv2.weight)
    return model.requires_grad_(False)


def test_predictions_are_distributions_in_both_orders(model):
    elevation, radius, log_probabilities = model.predict(torch.rand(3, 4, 64, 64))
    assert elevation.shape == radius.shape == (3,) and log_probabilities.shape == (3, 3, 24)
    off_diagonal = ~torch.eye(3, dtype=torch.bool)
    torch.testing.assert_close(log_probabilities.exp().sum(-1)[off_diagonal], torch.ones(6))
    mirrored = log_probabilities.transpose(0, 1).flip(-1).roll(1, -1)
    torch.testing.assert_close(log_probabilities, mirrored, atol=1e-4, rtol=1e-4)


def test_weights_round_trip(model, tmp_path):
    save_model(model, tmp_path)
    loaded = load_model(tmp_path, torch.device("cpu"))
    images = torch.rand(2, 4, 64, 64)
    for before, after in zip(model.predict(images), loaded.predict(images)):
        torch.testing.assert_close(before, after, atol=0.02, rtol=0.02)  # fp16


def test_missing_and_broken_weights_are_one_line(tmp_path):
    with pytest.raises(UserError, match="train"):
        load_model(tmp_path, torch.device("cpu"))
    (tmp_path / "model.safetensors").write_bytes(b"no")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="not weights"):
        load_model(tmp_path, torch.device("cpu"))


def test_one_view_takes_the_heads_word(model):
    images = torch.rand(1, 4, 64, 64)
    poses = estimate_poses(model, images, OmegaConf.load(CONFIG), seed=0)
    elevation, radius, _ = model.predict(images)
    assert poses.cameras.tolist() == [[[elevation.item(), 0.0, radius.item()]]]


def test_training_runs_resumes_and_exports(tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    rng = np.random.default_rng(0)
    for shard in range(2):
        cameras = np.stack(
            [rng.uniform(0, 0.8, (4, 16)), rng.uniform(-3, 3, (4, 16)), rng.uniform(1.5, 2, (4, 16))], -1
        )
        (tmp_path / "toys").mkdir(exist_ok=True)
        np.save(tmp_path / f"toys/{shard:05d}_cameras.npy", cameras.astype(np.float32))
        np.save(tmp_path / f"toys/{shard:05d}_images.npy", rng.integers(0, 256, (4, 16, 64, 64, 4), dtype=np.uint8))
    settings = {"data": "toys", "run": "run", "weights": "weights", "objects": 2, "views": 3, "max_steps": 2,
                "validation_objects": 2, "model": TINY}  # fmt: skip
    config = OmegaConf.merge(OmegaConf.load(train.CONFIG), settings)
    train.train(config)
    config.max_steps = 3
    train.train(config)
    state = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    assert state["step"] == 3
    curve = (tmp_path / "run/curve.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in curve] == ["step", "2", "3"]
    assert all(math.isfinite(float(value)) for value in curve[-1].split(","))
    load_model(tmp_path / "weights", torch.device("cpu"))


def test_augmentation_keeps_masks_and_white(model):
    config = OmegaConf.load(train.CONFIG).augment
    images = torch.ones(4, 4, 64, 64)
    images[:, 3] = 0
    images[:, :, 20:44, 20:44] = torch.tensor([0.2, 0.5, 0.3, 1.0])[:, None, None]
    moved = train.augment(images, config, torch.Generator().manual_seed(0))
    assert moved.min() >= 0 and moved.max() <= 1
    background = moved[:, 3] == 0
    assert (moved[:, :3].permute(0, 2, 3, 1)[background] == 1).all()
    assert (moved[:, 3].mean((1, 2)) / images[:, 3].mean((1, 2)) - 1).abs().max() < 0.15
    assert not torch.equal(moved[0], moved[1])
