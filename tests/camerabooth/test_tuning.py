"""Test-time training and pretraining on a tiny model."""

import copy

import pytest
import torch
from omegaconf import OmegaConf

from camerabooth import judge, main, regularisation, tuning
from camerabooth.backbones.embedded.model import SETTINGS
from sap3d.cameras.maths import wrap_angle
from sap3d.cameras.poses import PoseTable
from sap3d.runs import training
from sap3d.runs.devices import seed_everything
from sap3d.runs.options import filled
from tests.tiny import tiny_model


@pytest.fixture
def scene():
    """Five views of a toy, their cameras with view 0's azimuth 0, and a tiny model."""
    seed_everything(0)  # as the stage does: without deterministic kernels, two threads differ in the last bits
    images, cameras = regularisation.regularisation_views([0])
    cameras = cameras[0, :5].clone()
    cameras[:, 1] -= cameras[0, 1].item()
    return images[0, :5], cameras, tiny_model()


def config(**changes):
    defaults = filled(OmegaConf.load(main.CONFIG), "tuning", SETTINGS.tuning).tuning
    return OmegaConf.merge(
        defaults,
        {"steps": 8, "batch": 4, "prior_batch": 2, "warmup_steps": 2, "prior_objects": 2},
        changes,
    )


def test_tuning_lowers_the_energy_and_keeps_the_gauge(scene, tmp_path):
    images, cameras, model = scene
    before = judge.leave_one_out(model, images, cameras, [850, 999])
    settings = config(learning_rate=2e-2)  # the model knows nothing yet: nor does its mean
    refined, trajectory = main.tune(model, images, cameras, [0, 1], settings, seed=0, folder=tmp_path)
    after = judge.leave_one_out(model, images, refined, [850, 999])
    estimates = judge.seen_from_others(model, images, refined)
    assert after.mean() < 0.95 * before.mean()
    assert refined[0, 1] == 0
    moved = (refined - cameras).abs()
    moved[:, 1] = wrap_angle(refined[:, 1] - cameras[:, 1]).abs()
    assert 0 < moved.max() < 8 * 2 * 1e-3  # no step of Adam is much longer than its learning rate
    assert estimates.shape == images.shape
    torch.testing.assert_close(wrap_angle(trajectory[0]), wrap_angle(cameras))
    assert trajectory.shape == (9, 5, 3) and (trajectory[1:] != trajectory[:-1]).any(2).any(1).all()
    assert {path.suffix for path in (tmp_path / "log/from_step_0").iterdir()} >= {".csv"}
    assert list((tmp_path / "log/from_step_0").glob("events*")) and not list(tmp_path.glob("*.ckpt"))


def test_tuning_repeats_with_its_seed(scene, tmp_path):
    images, cameras, model = scene
    results = []
    for _ in range(2):
        same = copy.deepcopy(model)
        results.append(main.tune(same, images, cameras, [0, 1], config(steps=3), seed=1, folder=tmp_path)[0])
    assert torch.equal(*results)


@pytest.mark.parametrize("changes", [{}, {"poses_only": True, "ema": None}])
def test_a_killed_tuning_ends_as_if_it_had_not_been(scene, tmp_path, monkeypatch, changes):
    images, cameras, model = scene
    monkeypatch.setattr(training, "CHECKPOINT_STEPS", 2)
    settings = config(validate_every=4, **changes)
    untouched = copy.deepcopy(model)
    whole, trajectory = main.tune(model, images, cameras, [0, 1], settings, seed=1, folder=tmp_path / "whole")
    loss, steps = tuning.TestTimeTraining._instance_loss, []

    def killed(module):
        steps.append(module.global_step)
        if steps == [0, 1, 2, 3, 4]:
            raise KeyboardInterrupt
        return loss(module)

    monkeypatch.setattr(tuning.TestTimeTraining, "_instance_loss", killed)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        main.tune(copy.deepcopy(untouched), images, cameras, [0, 1], settings, seed=1, folder=tmp_path / "killed")
    state = torch.load(tmp_path / "killed/checkpoint.ckpt", weights_only=True)["state_dict"]
    assert any(name.startswith("model.") for name in state) != settings.poses_only, "what is held is not saved again"
    resumed = copy.deepcopy(untouched)
    refined, resumed_trajectory = main.tune(
        resumed, images, cameras, [0, 1], settings, seed=1, folder=tmp_path / "killed"
    )
    assert steps == [0, 1, 2, 3, 4, 4, 5, 6, 7]
    assert torch.equal(refined, whole) and torch.equal(resumed_trajectory, trajectory)
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    steps[:] = [-1]
    main.tune(untouched, images, cameras, [0, 1], settings, seed=2, folder=tmp_path / "killed")
    assert steps[1] == 0, "another run starts at the beginning"


def test_poses_alone_leave_the_network(scene, tmp_path):
    images, cameras, model = scene
    before = copy.deepcopy(model.state_dict())
    refined, _ = main.tune(model, images, cameras, [0, 1], config(poses_only=True), seed=0, folder=tmp_path)
    torch.testing.assert_close(model.state_dict(), before)
    assert not torch.equal(refined, cameras)


def test_tuning_stops_when_held_out_noise_levels_gain_nothing(scene, tmp_path):
    images, cameras, model = scene
    # A rate at which training destroys what the model knows.
    settings = config(steps=40, learning_rate=0.3, validate_every=2, patience=1, ema=None)
    _, trajectory = main.tune(model, images, cameras, [0, 1], settings, seed=0, folder=tmp_path)
    assert torch.equal(trajectory[30], trajectory[-1])


@pytest.mark.parametrize("views, order, fits", [(1, 1, 0), (1, 2, 1), (2, 1, 1)])
def test_an_object_is_fitted_from_two_views_on(scene, views, order, fits):
    images, cameras, model = scene
    options = OmegaConf.merge(config().instance, {"steps": 1})
    way = main.fit_object(model, images[:views], cameras[:views], order, options, seed=0, held=True)
    torch.testing.assert_close(way, cameras[:views].expand(1 + fits, -1, -1))
    assert (model.instance is not None) == fits


@pytest.mark.parametrize("size", [8, 32])
def test_an_objects_error_does_not_depend_on_how_large_the_image_is(size):
    def square(grey: float) -> torch.Tensor:
        image = torch.tensor([1.0, 1.0, 1.0, 0.0])[:, None, None].repeat(1, size, size)
        image[:, 2:4, 2:4] = torch.tensor([grey, grey, grey, 1.0])[:, None, None]
        return image[None]

    error = judge.errors_on_object(square(0.4), square(0.2)).mean()
    torch.testing.assert_close(error, torch.tensor(3 * 0.2**2 / 4))  # alpha is right


def test_one_view_is_its_own_source(scene):
    images, cameras, model = scene
    prior = regularisation.regularisation_views([0])
    module = tuning.TestTimeTraining(model, PoseTable(cameras[:1]), images[:1], prior, config(), seed=0)
    module._instance_loss().backward()
    assert module.poses.offsets.grad[0, 1] == 0
    energy = judge.leave_one_out(model, images[:1], cameras[:1], [999])
    assert energy.shape == (1, 1) and torch.isfinite(energy).all()


def test_the_nearest_objects_of_the_pool_are_found_and_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(regularisation, "POOL", 6)
    model = tiny_model()
    images, _ = regularisation.render_object(regularisation.pool_seed(4), 64, regularisation.DESCRIBED)
    order = regularisation.nearest_objects(model, tmp_path, images, 3)
    assert order[0] == 4 and len(set(order)) == 3
    monkeypatch.setattr(regularisation, "make_toy", None)
    assert regularisation.nearest_objects(model, tmp_path, images, 3) == order, "the second time nothing is rendered"


def test_renders_of_the_pool_are_kept(tmp_path, monkeypatch):
    first = regularisation.regularisation_views([0, 3], 16, tmp_path)
    monkeypatch.setattr(regularisation, "render_object", None)
    again = regularisation.regularisation_views([3, 0], 16, tmp_path)
    assert all(torch.equal(one, other.flip(0)) for one, other in zip(first, again))
