import argparse
import copy
import math
from types import SimpleNamespace

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from dataset import training_views
from relposepp import decide, train, training_sets
from relposepp.decide import estimate
from relposepp.held import hold
from relposepp.infer import (
    CONFIG,
    add_flags,
    apply_own_flags,
    evidence_of,
    published_prediction,
)
from relposepp.model import OUTLIERS, ModelConfig, RelativePose, load_model, save_model
from relposepp.plot import write_plot
from relposepp.proposals import propose, uninformed
from sap3d.cameras import maths as cam
from sap3d.errors import UserError
from sap3d.images import to_tensor, turn

TINY = {"features": 4, "depth_bins": 4, "rings": 2, "levels": 4, "sectors": 12, "width": 8, "blocks": 1, "groups": 2,
        "group_channels": 2, "azimuth_bins": 24}  # fmt: skip


def photos_of(images: torch.Tensor) -> list[np.ndarray]:
    return list(images.permute(0, 2, 3, 1).mul(255).byte().numpy())


@pytest.fixture(scope="module")
def model() -> RelativePose:
    torch.manual_seed(0)
    model = RelativePose(ModelConfig(**TINY)).eval()
    torch.nn.init.normal_(model.pair_head.convolutions[-1].weight)
    return model.requires_grad_(False)


def test_predictions_are_distributions_in_both_orders(model):
    prediction = model.predict(torch.rand(3, 4, 128, 128))
    log_probabilities = prediction.azimuths
    assert prediction.elevation.shape == prediction.radius.shape == (3,) and log_probabilities.shape == (3, 3, 24)
    off_diagonal = ~torch.eye(3, dtype=torch.bool)
    torch.testing.assert_close(log_probabilities.exp().sum(-1)[off_diagonal], torch.ones(6))
    mirrored = log_probabilities.transpose(0, 1).flip(-1).roll(1, -1)
    torch.testing.assert_close(log_probabilities, mirrored, atol=1e-4, rtol=1e-4)


def test_no_pair_is_ever_ruled_out(model):
    sure = copy.deepcopy(model)
    for parameter in sure.pair_head.parameters():
        parameter.mul_(1e3)
    off_diagonal = sure.predict(torch.rand(3, 4, 128, 128)).azimuths[~torch.eye(3, dtype=torch.bool)]
    assert off_diagonal.exp().min() >= 0.999 * OUTLIERS / 24
    torch.testing.assert_close(off_diagonal.exp().sum(-1), torch.ones(6))


def test_weights_round_trip(model, tmp_path):
    save_model(model, tmp_path)
    loaded = load_model(tmp_path, torch.device("cpu"))
    images = torch.rand(2, 4, 128, 128)
    for before, after in zip(vars(model.predict(images)).values(), vars(loaded.predict(images)).values()):
        torch.testing.assert_close(before, after, atol=0.02, rtol=0.02)  # fp16


def test_elevation_evidence_is_the_pairs_energy_at_those_elevations(model):
    images = torch.rand(3, 4, 128, 128, generator=torch.Generator().manual_seed(1))
    views, _, radius_logits = model.encode(images)
    radius = model.expected_radius(radius_logits)
    evidence = model.elevation_evidence(views, radius, model.elevations)
    bins = torch.tensor([3, 0, 7])
    signature = model.signatures(views, model.elevations[bins], radius)
    expected = model.pair_logits(signature[:1], signature[2:]).logsumexp(-1)
    torch.testing.assert_close(evidence[0, 2, 3, 7], expected[0])
    torch.testing.assert_close(evidence, evidence.permute(1, 0, 3, 2))


def test_missing_and_broken_weights_are_one_line(tmp_path):
    with pytest.raises(UserError, match="train"):
        load_model(tmp_path, torch.device("cpu"))
    (tmp_path / "model.safetensors").write_bytes(b"no")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="not weights"):
        load_model(tmp_path, torch.device("cpu"))


def test_one_view_takes_the_heads_word(model):
    photos = photos_of(torch.rand(1, 4, 128, 128))
    poses = estimate(model, photos, OmegaConf.load(CONFIG), seed=0)
    prediction = model.predict(to_tensor(photos, 128))
    assert poses.cameras.tolist() == [[[prediction.elevation.item(), 0.0, prediction.radius.item()]]]
    assert "azimuth" not in evidence_of(poses)["deviations_deg"]


def test_the_network_alone_ranks_by_probability(model, tmp_path):
    images = torch.rand(3, 4, 128, 128, generator=torch.Generator().manual_seed(2))
    config = OmegaConf.merge(OmegaConf.load(CONFIG), {"verify": False, "hypotheses": 3})
    poses = estimate(model, photos_of(images), config, seed=0)
    assert poses.cameras.shape == (3, 3, 3) and poses.scores == sorted(poses.scores)
    assert torch.equal(poses.cameras[0], poses.network) and poses.fit is None
    assert ((0 <= poses.confidence) & (poses.confidence <= 1)).all()
    write_plot(tmp_path / "poses.png", images, poses.cameras[0], poses.confidence, poses.prediction.azimuths)
    assert imageio.imread(tmp_path / "poses.png").std() > 0


def test_two_renders_are_the_networks_alone_but_not_two_own_photos(model, monkeypatch):
    images = torch.rand(2, 4, 128, 128, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr(decide, "verify", lambda *_: pytest.fail("verified"))
    poses = estimate(model, photos_of(images), OmegaConf.load(CONFIG), seed=0)
    assert torch.equal(poses.cameras[0], poses.network) and "synthesis_loss" not in poses.evidence
    with pytest.raises(pytest.fail.Exception, match="verified"):
        held = hold(model, photos_of(images), torch.full((2,), 0.7), known=True)
        estimate(model, photos_of(images), OmegaConf.load(CONFIG), seed=0, held=held)


def test_without_a_network_nothing_is_preferred():
    prediction = uninformed(3)
    off_diagonal = prediction.azimuths[~torch.eye(3, dtype=torch.bool)]
    torch.testing.assert_close(off_diagonal.exp().sum(-1), torch.ones(6))
    assert propose(prediction, 96, torch.Generator().manual_seed(0)).shape == (96, 3, 3)


def test_the_published_backbone_says_where_its_weights_go(tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    config = OmegaConf.load(CONFIG)
    with pytest.raises(UserError, match="put ckpt_000105000.pth there"):
        published_prediction([], uninformed(2), config, torch.device("cpu"), seed=0)


def test_flags_override_the_config():
    parser = argparse.ArgumentParser()
    add_flags(parser)
    config = OmegaConf.load(CONFIG)
    apply_own_flags(config, parser.parse_args(["--no-verify", "--hypotheses", "3"]))
    assert (config.verify, config.hypotheses) == (False, 3)
    apply_own_flags(config, parser.parse_args([]))
    assert (config.verify, config.hypotheses) == (False, 3)
    with pytest.raises(UserError, match="at least 1"):
        apply_own_flags(config, parser.parse_args(["--hypotheses", "0"]))


@pytest.mark.parametrize("fov", [0, 200, -60, "wide", True])
def test_fields_of_view_that_no_lens_has_are_refused(fov):
    parser = argparse.ArgumentParser()
    add_flags(parser)
    config = OmegaConf.merge(OmegaConf.load(CONFIG), {"fov": fov})
    with pytest.raises(UserError, match="--fov must be from 5 to 130 degrees"):
        apply_own_flags(config, parser.parse_args([]))


def test_training_runs_resumes_and_exports(tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    monkeypatch.setattr(training_views, "OBJECTS_PER_SHARD", 2)
    for shard in range(2):
        training_views.render_shard(tmp_path / "views/toys", "toys", shard)
    settings = {"data": "views", "run": "run", "weights": "weights", "objects": 2, "views": 3, "max_steps": 2,
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
    trained = load_model(tmp_path / "weights", torch.device("cpu"))
    assert trained.elevations[[0, -1]].rad2deg().tolist() == pytest.approx([-20, 85])


def test_radii_are_those_of_the_usual_field_of_view(monkeypatch):
    cameras = torch.tensor([[[0.1, 0.2, 1.8, 0, 0, 0.1, cam.FIELD_OF_VIEW], [0.1, 0.2, 3.6, 0, 0, 0, 0.0]]])
    cameras[0, 1, 6] = 2 * math.atan(cam.TAN_HALF_FOV / 2)  # twice as far at half the opening
    batch = training_views.Batch(torch.rand(1, 2, 4, 128, 128), cameras, torch.empty(1, 0, 64, 64))
    data = SimpleNamespace(batch=lambda *_: batch)
    images, known, rolls = training_sets.view_sets(data, None, OmegaConf.load(train.CONFIG))
    assert images.shape == (1, 2, 4, 128, 128)
    torch.testing.assert_close(known[..., 2], torch.tensor([[1.8, 1.8]]))
    torch.testing.assert_close(rolls, torch.tensor([[0.1, 0.0]]))


def test_turned_views_stand_upright_again_when_they_are_turned_back():
    generator = torch.Generator().manual_seed(0)
    mark = torch.ones(1, 4, 64, 64)
    mark[:, 3] = 0
    mark[:, :, 8:32, 28:36] = torch.tensor([0.1, 0.2, 0.3, 1.0])[:, None, None]  # upwards from the middle
    views = mark.repeat(12, 1, 1, 1)
    turned, elevation, roll = training_sets.turned_views(views, torch.arange(12.0), torch.zeros(12), 8, generator)
    assert len(turned) == 8 and len(elevation.unique()) == 8 and roll.abs().max() > 0.3
    assert (turn(turned, -roll) - mark).abs().mean() < 0.3 * (turned - mark).abs().mean()


def test_a_wrong_elevation_is_trained_against(model):
    """The loss that makes elevations comparable falls as the wrong elevation's energies fall."""
    config = OmegaConf.load(train.CONFIG)
    generator = torch.Generator().manual_seed(0)
    cameras = torch.tensor([[[0.3, 0.0, 1.8], [0.2, 1.0, 1.7], [0.5, -2.0, 1.9]]])
    outputs = train.sets_forward(model, torch.rand(1, 3, 4, 128, 128, generator=generator), cameras, config, generator)
    assert outputs.pairs.shape == (1, 3, 24) and outputs.astray.shape == (1, 2, 24)
    high = train.losses(model, outputs, cameras, config)
    outputs.astray = outputs.astray - 5
    low = train.losses(model, outputs, cameras, config)
    outputs.astray = None
    none = train.losses(model, outputs, cameras, config)
    assert none < low < high


def test_augmentation_keeps_masks_and_white(model):
    config = OmegaConf.load(train.CONFIG).augment
    images = torch.ones(4, 4, 128, 128)
    images[:, 3] = 0
    images[:, :, 20:44, 20:44] = torch.tensor([0.2, 0.5, 0.3, 1.0])[:, None, None]
    moved = training_sets.augment(images, config, torch.Generator().manual_seed(0))
    assert moved.min() >= 0 and moved.max() <= 1
    background = moved[:, 3] == 0
    assert (moved[:, :3].permute(0, 2, 3, 1)[background] == 1).all()
    assert (moved[:, 3].mean((1, 2)) / images[:, 3].mean((1, 2)) - 1).abs().max() < 0.15
    assert not torch.equal(moved[0], moved[1])
