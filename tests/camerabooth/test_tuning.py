"""Test-time training and pretraining on a tiny model."""

import copy

import pytest
import torch
from omegaconf import OmegaConf

from camerabooth import instance_field, judge, main, regularisation, tuning
from camerabooth.backbones.embedded.model import SETTINGS, EmbeddedDiffusion
from camerabooth.evaluate import psnr
from camerabooth.instance_field import InstanceField
from camerabooth.sampling import sample
from dataset.render import Renderer
from dataset.toys import make_toy
from dataset.training_views import white_composite
from sap3d.cameras.maths import wrap_angle
from sap3d.cameras.poses import PoseTable
from sap3d.field.synthesis import Level
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


@pytest.fixture
def field(scene, monkeypatch):
    """A coarse field of the scene."""
    for name in ("WHOLE", "PARTIAL"):
        monkeypatch.setattr(instance_field, name, (Level(16, 32, steps=60, pixels=128, samples=16, pose_rate=0.0),))
    images, cameras, _ = scene
    return InstanceField.fit(images, cameras, torch.tensor(0.02), seed=0)


def config(**changes):
    defaults = filled(OmegaConf.load(main.CONFIG).tuning, SETTINGS.tuning)
    return OmegaConf.merge(
        defaults,
        {"steps": 8, "batch": 4, "prior_batch": 2, "warmup_steps": 2, "prior_objects": 2, "synthesised": 2},
        changes,
    )


def test_tuning_lowers_the_energy_and_keeps_the_gauge(scene, tmp_path):
    images, cameras, model = scene
    before = judge.leave_one_out(model, images, cameras, [850, 999])
    settings = config(learning_rate=2e-2, synthesised=0)  # the model knows nothing yet: nor does its mean
    refined, trajectory = main.tune(model, images, cameras, [0, 1], None, settings, seed=0, folder=tmp_path)
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


def test_tuning_repeats_with_its_seed(scene, field, tmp_path):
    images, cameras, model = scene
    results = []
    for _ in range(2):
        same = copy.deepcopy(model)
        results.append(main.tune(same, images, cameras, [0, 1], field, config(steps=3), seed=1, folder=tmp_path)[0])
    assert torch.equal(*results)


@pytest.mark.parametrize("changes", [{}, {"poses_only": True}, {"ema": None}])
def test_a_killed_tuning_ends_as_if_it_had_not_been(scene, field, tmp_path, monkeypatch, changes):
    images, cameras, model = scene
    monkeypatch.setattr(training, "CHECKPOINT_STEPS", 2)
    settings = config(validate_every=4, **changes)
    untouched = copy.deepcopy(model)
    whole, trajectory = main.tune(model, images, cameras, [0, 1], field, settings, seed=1, folder=tmp_path / "whole")
    loss, steps = tuning.TestTimeTraining._instance_loss, []

    def killed(module):
        steps.append(module.global_step)
        if steps == [0, 1, 2, 3, 4]:
            raise KeyboardInterrupt
        return loss(module)

    monkeypatch.setattr(tuning.TestTimeTraining, "_instance_loss", killed)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        main.tune(
            copy.deepcopy(untouched), images, cameras, [0, 1], field, settings, seed=1, folder=tmp_path / "killed"
        )
    state = torch.load(tmp_path / "killed/checkpoint.ckpt", weights_only=True)["state_dict"]
    assert any(name.startswith("model.") for name in state) != settings.poses_only, "what is held is not saved again"
    resumed = copy.deepcopy(untouched)
    refined, resumed_trajectory = main.tune(
        resumed, images, cameras, [0, 1], field, settings, seed=1, folder=tmp_path / "killed"
    )
    assert steps == [0, 1, 2, 3, 4, 4, 5, 6, 7]
    assert torch.equal(refined, whole) and torch.equal(resumed_trajectory, trajectory)
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    steps[:] = [-1]
    main.tune(untouched, images, cameras, [0, 1], field, settings, seed=2, folder=tmp_path / "killed")
    assert steps[1] == 0, "another run starts at the beginning"


def test_poses_alone_leave_the_network(scene, tmp_path):
    images, cameras, model = scene
    before = copy.deepcopy(model.state_dict())
    refined, _ = main.tune(model, images, cameras, [0, 1], None, config(poses_only=True), seed=0, folder=tmp_path)
    torch.testing.assert_close(model.state_dict(), before)
    assert not torch.equal(refined, cameras)


def test_tuning_stops_when_held_out_noise_levels_gain_nothing(scene, tmp_path):
    images, cameras, model = scene
    # A rate at which training destroys what the model knows.
    settings = config(steps=40, learning_rate=0.3, validate_every=2, patience=1, ema=None)
    _, trajectory = main.tune(model, images, cameras, [0, 1], None, settings, seed=0, folder=tmp_path)
    assert torch.equal(trajectory[30], trajectory[-1])


def test_what_a_field_leaves_out_it_leaves_out_from_all_sides(scene, monkeypatch):
    fits, joint_fit = [], instance_field.joint_fit
    monkeypatch.setattr(instance_field, "joint_fit", lambda *a, **k: (fits.append((a, k)), joint_fit(*a, **k))[1])
    monkeypatch.setattr(instance_field, "PARTIAL", (Level(8, 16, steps=1, pixels=8, samples=8, pose_rate=0.0),))
    images, cameras, _ = scene
    found = InstanceField.fit(images[:2], cameras[:2], torch.tensor(0.02), seed=0, order=2)
    (views, hypotheses, _, _), options = fits[-1]
    assert len(views) == 4 and hypotheses.shape == (2, 4, 3) and len(found.partial) == 2
    assert options["view_weights"].tolist() == [[0, 1, 0, 1], [1, 0, 1, 0]]


def test_synthesised_views_are_half_the_object_and_half_the_models_own(scene, field, monkeypatch):
    monkeypatch.setattr(tuning, "sample", lambda *_, **__: torch.full((6, 4, 64, 64), 0.25))
    images, cameras, model = scene
    views, targets = tuning.synthesised_views(model, images, cameras, field, 6, seed=0)
    assert views.shape == (6, 4, 64, 64) and targets[:, 2] == pytest.approx(cameras[:, 2].mean().item())
    low, high = tuning.SYNTHESISED_ELEVATIONS
    assert (low <= targets[:, 0]).all() and (targets[:, 0] <= high).all() and targets[:, 1].std() > 0.5
    truth = Renderer(make_toy(regularisation.pool_seed(0)))
    turned = targets.clone()
    turned[:, 1] += regularisation.regularisation_views([0])[1][0, 0, 1]  # the scene's view 0 is at azimuth 0
    seen = white_composite(torch.from_numpy(truth.render(turned, 64)))
    wrong = white_composite(torch.from_numpy(truth.render(turned.flip(0), 64)))
    rendered = 2 * views - 0.25
    assert psnr(rendered, seen).mean() > psnr(rendered, wrong).mean() + 3


def test_the_instance_volume_learns_the_object_and_no_other(scene, field, tmp_path):
    images, cameras, model = scene
    main.tune(model, images, cameras, [0, 1], field, config(learning_rate=0.0), seed=0, folder=tmp_path)
    assert model.instance.shape == (8, 24, 24, 24) and model.instance.abs().max() > 0
    before = judge.leave_one_out(model, images, cameras, [999])
    prior = regularisation.regularisation_views([0])
    module = tuning.TestTimeTraining(
        model, PoseTable(cameras), images, prior, (images[:0], cameras[:0]), config(), seed=0
    )
    model.zero_grad()
    module._prior_loss().backward()
    assert model.instance.grad is None
    with torch.no_grad():
        model.instance.zero_()
    after = judge.leave_one_out(model, images, cameras, [999])
    assert before.mean() < after.mean(), "it explains the views that it was tuned on"


@pytest.mark.parametrize("views, resolution", [(1, 0), (2, 0), (3, 24)])
def test_few_photos_have_no_volume(scene, tmp_path, views, resolution):
    images, cameras, model = scene
    main.tune(model, images[:views], cameras[:views], [0, 1], None, config(steps=1), seed=0, folder=tmp_path)
    assert (0 if model.instance is None else model.instance.shape[-1]) == resolution


def test_the_field_counts_where_fits_without_one_view_agree(field):
    cameras = torch.tensor([[0.3, 0.4, 1.8], [0.2, -2.0, 1.9]])
    blank, render = torch.zeros(2, 4, 64, 64), field.render(cameras, 64)
    share = field.combine(blank, cameras) / render.clamp(min=1e-3)  # the field's weight, where it shows something
    assert 0.1 < share[:, 3][render[:, 3] > 0.5].mean() < 0.9
    corner = share[:, 0, :4, :4]  # white, whatever is left out
    torch.testing.assert_close(corner, torch.ones_like(corner), atol=0.02, rtol=0)
    field.error.fill_(1e-6)
    doubted = field.combine(blank, cameras)
    assert doubted[:, 3].mean() < 0.1 * render[:, 3].mean(), "a network without errors is believed"
    field.partial[:] = field.partial[:1]
    torch.testing.assert_close(field.combine(blank, cameras), render)


@pytest.mark.parametrize("size", [8, 32])
def test_an_objects_error_does_not_depend_on_how_large_the_image_is(size):
    def square(grey: float) -> torch.Tensor:
        image = torch.tensor([1.0, 1.0, 1.0, 0.0])[:, None, None].repeat(1, size, size)
        image[:, 2:4, 2:4] = torch.tensor([grey, grey, grey, 1.0])[:, None, None]
        return image[None]

    error = judge.errors_on_object(square(0.4), square(0.2)).mean()
    torch.testing.assert_close(error, torch.tensor(3 * 0.2**2 / 4))  # alpha is right


@pytest.mark.parametrize("count", [2, 5])
def test_a_fields_variance_is_the_jackknifes(monkeypatch, count):
    """Whose variance of a mean is exactly that of the single values, over their number."""
    values = torch.linspace(0.1, 0.7, count)
    means = iter((values.sum() - values) / (count - 1))
    monkeypatch.setattr(
        instance_field, "render_views", lambda grid, cameras, size, samples: next(means).expand(1, 4, size, size)
    )
    field = InstanceField(2, count, 2)
    field.error.fill_(0.01)
    trust = field.trust(torch.zeros(1, 3), 8)
    torch.testing.assert_close(trust, (0.01 / (0.01 + values.var() / count)).expand_as(trust))


def test_a_model_with_a_field_sees_the_object(scene, field, tmp_path):
    images, cameras, model = scene
    model.add_field(field)
    model.save_pretrained(tmp_path / "model")
    model = EmbeddedDiffusion.from_pretrained(tmp_path / "model")
    assert torch.equal(model.field.whole, field.whole.half().float())
    targets = cameras + torch.tensor([0.1, 0.3, 0.0])
    turned = targets + torch.tensor([0.0, 1.0, 0.0]) * regularisation.regularisation_views([0])[1][0, 0, 1]
    seen = white_composite(torch.from_numpy(Renderer(make_toy(regularisation.pool_seed(0))).render(turned, 64)))
    with torch.no_grad():
        sources = model.embed_sources(images, cameras)
    for steps in (0, 2):
        views = sample(model, sources, targets, torch.Generator().manual_seed(0), steps=steps)
        field, model.field = model.field, None
        without = sample(model, sources, targets, torch.Generator().manual_seed(0), steps=steps)
        model.field = field
        assert psnr(views, seen).mean() > psnr(without, seen).mean() + 1
    mean = sample(model, sources, targets, torch.Generator(), steps=0, batch=2)
    model.field = None
    with torch.no_grad():
        alone = model.conditional_mean(sources, targets, torch.Generator())
    torch.testing.assert_close(mean, field.combine(alone, targets).clamp(0, 1), atol=1e-4, rtol=0)


def test_one_view_is_its_own_source(scene):
    images, cameras, model = scene
    prior = regularisation.regularisation_views([0])
    synthesised = tuning.synthesised_views(model, images[:1], cameras[:1], None, 4, seed=0)
    assert len(synthesised[0]) == len(synthesised[1]) == 0
    module = tuning.TestTimeTraining(model, PoseTable(cameras[:1]), images[:1], prior, synthesised, config(), seed=0)
    module._instance_loss().backward()
    assert module.poses.offsets.grad[0, 1] == 0
    energy = judge.leave_one_out(model, images[:1], cameras[:1], [999])
    assert energy.shape == (1, 1) and torch.isfinite(energy).all()


def test_only_a_clear_drop_counts():
    noise = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
    errors = 1 + 0.1 * noise
    assert not judge.clearly_lower(errors, than=errors)
    # Two standard errors of 80 differences of deviation 0.1 are 0.022.
    assert not judge.clearly_lower(errors - 0.01, than=torch.ones_like(errors) + noise.mean() * 0.1)
    assert judge.clearly_lower(errors - 0.04, than=torch.ones_like(errors) + noise.mean() * 0.1)
    assert not judge.clearly_lower(errors + 0.04, than=torch.ones_like(errors) + noise.mean() * 0.1)


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
