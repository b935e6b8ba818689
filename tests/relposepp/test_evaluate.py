"""Stage 1's evaluation: statistics of known rows, and the whole of it on a tiny scene."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from relposepp import evaluate
from relposepp.infer import CONFIG
from relposepp.model import ModelConfig, RelativePose, save_model
from sap3d.cameras.maths import camera_positions
from sap3d.errors import UserError
from sap3d.field import synthesis
from sap3d.scene import Scene
from sap3d.views import write_view
from tests.tiny import tiny_model

DIFFUSION = {"backbone": "embedded", "checkpoint": "diffusion", "model": {}}


def test_placed_counts_a_views_pairs():
    truth = torch.tensor([[0.2, 0.0, 1.8], [0.4, 1.0, 1.8], [0.3, 2.0, 1.8]])
    torch.testing.assert_close(evaluate.placed(truth + torch.tensor([0, 0.4, 0]), truth), torch.ones(3))
    for off in ([0.0, math.pi, 0.0], [0.5, 0.0, 0.0]):  # in azimuth, in elevation
        wrong = torch.stack([*truth[:2], truth[2] + torch.tensor(off)])
        torch.testing.assert_close(evaluate.placed(wrong, truth), torch.tensor([0.5, 0.5, 0.0]))


def test_summary_of_known_errors():
    rows = [
        {name + suffix: error for name in evaluate.METHODS for suffix in ("", " symmetric")} | {"seconds": 2.0}
        for error in (1.0, 10.0, 20.0, 50.0)
    ]
    table = evaluate.summarize(rows)
    assert table["answer symmetric"] == {"mean": 20.25, "median": 15.0, "acc15": 0.5, "acc30": 0.75}
    assert table["seconds"] == {"mean": 2.0}


def test_an_interrupted_evaluation_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    torch.manual_seed(0)
    save_model(RelativePose(ModelConfig()), tmp_path / "weights")
    tiny_model().save_pretrained(tmp_path / "diffusion")
    monkeypatch.setattr(synthesis, "HELD", replace(synthesis.HELD, steps=2))
    scene, rng = Scene("toy_demo", "noise", 2), np.random.default_rng(0)
    for index in range(4):
        rgba = rng.integers(0, 256, (16, 16, 4), np.uint8)
        write_view(scene.train, index, rgba, torch.tensor([0.3, index * 1.2, 1.8]))
    changes = {"verify": False, "descent": False, "symmetry": {"views": 0}}
    changes |= {"weights": str(tmp_path / "weights"), "diffusion": DIFFUSION}
    config = OmegaConf.merge(OmegaConf.load(CONFIG), changes)
    path = tmp_path / "results.json"
    first = evaluate.evaluate([scene], 1, config, "cpu", 0, 1, path)
    again = evaluate.evaluate([scene], 2, config, "cpu", 0, 1, path)
    assert again["toy_demo/noise"][0] == first["toy_demo/noise"][0] and len(again["toy_demo/noise"]) == 2
    assert len(json.loads(path.read_text())["objects"]["toy_demo/noise"]) == 2
    # Other settings start anew.
    assert evaluate.evaluate([scene], 1, config, "cpu", 1, 1, path)["toy_demo/noise"][0] != first["toy_demo/noise"][0]
    with pytest.raises(UserError, match="none of these objects"):
        evaluate.find_scenes(["toy_demo"], ["nothing"], 2)


def test_cameras_move_by_the_angle():
    cameras = torch.tensor([[0.3, 1.0, 1.8], [1.2, -2.0, 1.7], [-0.2, 3.0, 2.0]])
    off = evaluate.moved(cameras, math.radians(20), torch.Generator().manual_seed(0))
    cosines = torch.cosine_similarity(camera_positions(off), camera_positions(cameras), dim=-1)
    torch.testing.assert_close(cosines, torch.full((3,), math.cos(math.radians(20))))
    assert torch.equal(off[:, 2], cameras[:, 2])
