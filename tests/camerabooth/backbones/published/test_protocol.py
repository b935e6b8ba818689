"""How the published model is tuned and sampled: as the original is."""

import pytest
import torch
from omegaconf import OmegaConf

from camerabooth import main, regularisation
from camerabooth.backbones.published.lora import LoRA
from camerabooth.main import CONFIG
from camerabooth.sampling import sample, sample_in_turn
from camerabooth.tuning import TestTimeTraining
from sap3d.cameras import maths as cam
from sap3d.cameras.poses import PoseTable
from sap3d.runs import training
from sap3d.runs.options import filled
from tests.camerabooth.backbones.published.tiny import FLAT, TINY, make_model
from tests.tiny import smooth_images, some_cameras


@pytest.mark.parametrize("conditioning", ["joint", "stochastic"])
def test_sampling_runs(flat_model, conditioning):
    sources = flat_model.embed_sources(smooth_images(2, 16), some_cameras(2))
    views = [
        sample(flat_model, sources, some_cameras(3), torch.Generator().manual_seed(0), 3, 2.0, 1.0, conditioning)
        for _ in range(2)
    ]
    assert views[0].shape == (3, 4, 16, 16) and views[0].isfinite().all()
    assert torch.equal(*views)


def test_test_time_training_reaches_the_poses_and_the_network(flat_model, monkeypatch):
    """From encodings that are made once, before the first step."""
    images, cameras = smooth_images(3, 16), some_cameras(3)
    cameras[0, 1] = 0
    poses = PoseTable(cameras)
    prior = images[None], cameras[None]
    flat_model.prepare_tuning()
    config = filled(OmegaConf.load(CONFIG), "tuning", flat_model.settings.tuning).tuning
    tuning = TestTimeTraining(flat_model, poses, images, prior, config, seed=0)
    for encoder in ("_posterior_mean", "_clip_embedding"):
        monkeypatch.setattr(flat_model, encoder, lambda *_: pytest.fail("encoded again"))
    (tuning._instance_loss() + tuning._prior_loss()).backward()
    moved = [parameter for parameter in flat_model.parameters() if parameter.grad is not None]
    assert len(moved) == sum(parameter.requires_grad for parameter in flat_model.parameters())
    assert all(parameter.grad.any() for parameter in poses.parameters())


def test_training_drops_what_the_originals_does(model):
    """Below 10 % the embedding, before the projection and with T left; from 5 to 15 % the latent."""
    images, cameras = smooth_images(1), some_cameras(1)
    targets = some_cameras(4)[None] + 0.3
    sources = model.embed_sources(images, cameras)
    with torch.no_grad():
        whole = model.condition(sources, targets)
        told = model.training_condition(sources, targets[0], torch.arange(4), torch.tensor([0.02, 0.07, 0.12, 0.5]))
        pose = cam.relative_pose(cameras.expand(4, 3), targets[0])
        null = model.cc_projection(torch.cat([torch.zeros(4, TINY.context), pose], -1))
    torch.testing.assert_close(told.token, torch.cat([null[:2], whole.token[2:]]))
    kept = torch.tensor([1.0, 0.0, 0.0, 1.0])[:, None, None, None]
    torch.testing.assert_close(told.latent, whole.latent * kept)


def test_tuning_draws_dropped_conditions(flat_model, monkeypatch):
    images, cameras = smooth_images(3, 16), some_cameras(3)
    flat_model.prepare_tuning()
    config = filled(OmegaConf.load(CONFIG), "tuning", flat_model.tuning).tuning
    draws = []
    monkeypatch.setattr(
        flat_model,
        "training_condition",
        lambda s, t, rows, draw: draws.append(draw) or flat_model.condition(s, t).rows(rows),
    )
    module = TestTimeTraining(flat_model, PoseTable(cameras), images, (images[None], cameras[None]), config, 0)
    module._instance_loss()
    assert draws[0].shape == (config.batch,) and 0 <= draws[0].min() and draws[0].max() < 1


def test_sampling_begins_where_the_original_does(flat_model, monkeypatch):
    """Its loop leaves out the first of 50 time steps: 49 evaluations, from 961 on."""
    seen = []

    def predict(noisy, timesteps, condition, guidance_scale):
        seen.append(timesteps[0].item())
        return torch.zeros_like(noisy)

    monkeypatch.setattr(flat_model, "predict", predict)
    sources = flat_model.embed_sources(smooth_images(1, 16), some_cameras(1))
    sample(flat_model, sources, some_cameras(1), torch.Generator().manual_seed(0), **flat_model.sampling)
    assert len(seen) == 49 and seen[0] == 961 and seen[-1] == 1
    sample(flat_model, sources, some_cameras(1), torch.Generator(), **flat_model.sampling | {"skipped": 0})
    assert len(seen) == 99 and seen[49] == 981


def test_views_made_in_turn_see_those_made_before(flat_model):
    sources = flat_model.embed_sources(smooth_images(1, 16), some_cameras(1))
    targets = some_cameras(4).flip(0)
    options = {"steps": 2, "conditioning": "stochastic"}
    known, embed = [], flat_model.embed_sources
    flat_model.embed_sources = lambda images, cameras: known.append(cameras) or embed(images, cameras)
    views = sample_in_turn(flat_model, sources, targets, torch.Generator().manual_seed(0), at_once=2, **options)
    assert views.shape == (4, 4, 16, 16) and views.isfinite().all() and views.amax((1, 2, 3)).min() > 0
    # Nearest to the source first, and each part becomes a source of the next.
    torch.testing.assert_close(known[0], targets[[3, 2]])
    torch.testing.assert_close(known[1], targets[[1, 0]])


def test_half_floats_are_tuned_with_scaled_gradients(flat_model, tmp_path, monkeypatch):
    """A gradient of 1e-8 is zero in float16; scaled, it moves what is tuned."""
    model = make_model(FLAT, image_size=16, dtype="float16")
    tuned, fitted = [], training.fit
    monkeypatch.setattr(training, "fit", lambda *a, **options: (tuned.append(options), fitted(*a, **options)))
    images, cameras = smooth_images(3, 16), some_cameras(3)
    monkeypatch.setattr(regularisation, "regularisation_views", lambda *_, **__: (images[None], cameras[None]))
    config = filled(OmegaConf.load(CONFIG), "tuning", model.tuning).tuning
    config = OmegaConf.merge(config, {"steps": 2, "batch": 2, "prior_batch": 1, "warmup_steps": 1})
    main.tune(model, images, cameras, [0], config, 0, tmp_path)
    assert tuned[0]["scaled"]
    up = [module.lora_up.weight for module in model.modules() if isinstance(module, LoRA)]
    assert all(weight.isfinite().all() for weight in up) and any(weight.any() for weight in up)


def test_the_whole_unet_is_tuned_at_the_originals_rate():
    assert make_model().tuning["learning_rate"] == 1e-4
    assert make_model(trainable="full").tuning["learning_rate"] == 1e-5
