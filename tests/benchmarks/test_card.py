"""Both networks in training side by side, tiny, on the CPU."""

import csv
from functools import partial

import pytest
import torch
from omegaconf import OmegaConf

from benchmarks import card
from camerabooth.backbones.embedded.model import EmbeddedDiffusion
from dataset import training_views as tv
from relposepp.model import ModelConfig, RelativePose, load_model, save_model
from tests.camerabooth.test_pretrain import TINY
from tests.relposepp.test_model import TINY as TINY_POSES


@pytest.fixture
def toys_alone(monkeypatch):
    original = tv.training_object
    monkeypatch.setattr(tv, "training_object", lambda kind, *rest: original("toys", *rest))


def test_both_networks_learn_and_come_back(tmp_path, monkeypatch, toys_alone):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    monkeypatch.setattr(card.pretrain, "validate", partial(card.pretrain.validate, objects=4))
    torch.manual_seed(0)
    save_model(RelativePose(ModelConfig(**TINY_POSES)), tmp_path / "poses")
    config = OmegaConf.merge(
        card.DEFAULTS,
        {"device": "cpu", "seconds": 6.0, "share": 0.5, "workers": 1, "capacity": 6, "first": 2, "held_out": 2},
        {"prior": {"start": None, "objects": 2, "targets": 2, "rays": 64, "model": TINY}},
        {"poses": {"start": "poses", "objects": 2, "turned": 4, "model": TINY_POSES}},
    )
    card.train(config, tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out/curve.csv").open()))
    assert int(rows[-1]["step"]) > 0 and int(rows[-1]["pose_steps"]) > 0 and int(rows[-1]["rendered"]) > 2
    before, after = (load_model(tmp_path / folder, torch.device("cpu")) for folder in ("poses", "out/poses"))
    moved = [not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2  # one step may be less than half precision tells
    assert EmbeddedDiffusion.from_pretrained(tmp_path / "out/prior").network.config.resolution == TINY["resolution"]
    assert (tmp_path / "out/views.png").exists()
