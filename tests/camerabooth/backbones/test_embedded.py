"""The embedded model behind the interface: schedule, guidance, sampling, instance volume, files."""

import contextlib
import math
from functools import partial

import pytest
import torch
from diffusers import DDIMScheduler

from camerabooth.backbones.embedded import network, volume
from camerabooth.backbones.embedded.model import EmbeddedDiffusion
from camerabooth.sampling import sample, source_probabilities
from sap3d.cameras import maths as cam
from sap3d.errors import UserError
from tests import tiny
from tests.tiny import some_cameras, tiny_model


@pytest.fixture
def model(monkeypatch):
    """A tiny model in plain fp32."""
    for module in (network, volume):
        monkeypatch.setattr(module, "autocast", lambda device: contextlib.nullcontext())
    return tiny_model(16)


smooth_images = partial(tiny.smooth_images, size=16)


def predict(model, images, cameras, targets):
    generator = torch.Generator().manual_seed(2)
    noisy = torch.randn(len(targets), 4, 16, 16, generator=generator).to(targets.dtype)
    condition = model.condition(model.embed_sources(images, cameras), targets)
    return model.predict(noisy, torch.full((len(targets),), 700), condition)


def test_prediction_depends_on_relative_azimuth_only(model):
    images, cameras, targets = smooth_images(3), some_cameras(3), some_cameras(2) + torch.tensor([0.1, 2.0, 0.0])
    turn = torch.tensor([0.0, 1.3, 0.0])
    torch.testing.assert_close(
        predict(model, images, cameras, targets),
        predict(model, images, cameras + turn, targets + turn),
        atol=1e-4,
        rtol=1e-3,
    )


def test_order_of_further_sources_does_not_matter_and_their_number_is_free(model):
    images, cameras, targets = smooth_images(5), some_cameras(5), some_cameras(2)
    order = torch.tensor([0, 3, 4, 1, 2])  # the first one's azimuth is the grid's
    torch.testing.assert_close(
        predict(model, images, cameras, targets), predict(model, images[order], cameras[order], targets),
        atol=1e-4, rtol=1e-3,
    )  # fmt: skip
    one, five = (predict(model, images[:n], cameras[:n], targets) for n in (1, 5))
    assert one.shape == five.shape == (2, 4, 16, 16)
    assert (one - five).abs().max() > 1e-3


def test_schedule_ends_in_pure_noise_and_inverts(model):
    images = smooth_images(2)
    latents = model.encode(images)
    torch.testing.assert_close(model.decode(latents), images)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    last = torch.full((2,), 999)
    torch.testing.assert_close(model.add_noise(latents, noise, last), noise)
    for timestep in (100, 600, 999):
        steps = torch.full((2,), timestep)
        noisy = model.add_noise(latents, noise, steps)
        velocity = model.scheduler.get_velocity(latents, noise, steps)
        torch.testing.assert_close(model.clean_estimate(noisy, steps, velocity), latents, atol=1e-5, rtol=0)


def test_guidance_extrapolates_from_the_unconditional_prediction(model):
    images, cameras, targets = smooth_images(1), some_cameras(1), some_cameras(2)
    condition = model.condition(model.embed_sources(images, cameras), targets)
    noisy, steps = torch.randn(2, 4, 16, 16), torch.full((2,), 500)
    with torch.no_grad():
        none, one, three = (model.predict(noisy, steps, condition, scale) for scale in (0.0, 1.0, 3.0))
    torch.testing.assert_close(three, none + 3 * (one - none), atol=1e-4, rtol=1e-4)
    assert (one - none).abs().max() > 1e-3


def oracle(model, monkeypatch, clean):
    """Make `predict` return the velocity towards the known latents `clean`."""

    def velocity(noisy, timesteps, condition, guidance_scale=1.0):
        signal, level = model.noise_coefficients(timesteps)
        noise = (noisy - signal * clean) / level
        return signal * noise - level * clean

    monkeypatch.setattr(model, "predict", velocity)


def test_sds_gradient_points_from_the_clean_estimate_to_the_rendering(model, monkeypatch):
    rendered, wanted = smooth_images(2), smooth_images(2).flip(-1)
    oracle(model, monkeypatch, model.encode(wanted))
    sources = model.embed_sources(smooth_images(1), some_cameras(1))
    gradient = model.sds_gradient(rendered, some_cameras(2), sources, torch.tensor([0.3, 1.0]))
    torch.testing.assert_close(gradient, rendered - wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("conditioning_name", ["joint", "stochastic"])
def test_sampling_reaches_what_the_network_predicts(model, monkeypatch, conditioning_name):
    wanted = smooth_images(3)
    sources = model.embed_sources(smooth_images(2), some_cameras(2))
    oracle(model, monkeypatch, model.encode(wanted))
    generator = torch.Generator().manual_seed(0)
    views = sample(model, sources, some_cameras(3), generator, steps=4, eta=0.5, conditioning=conditioning_name)
    torch.testing.assert_close(views, wanted, atol=1e-3, rtol=0)


def test_the_nearest_source_alone(model):
    images, cameras = smooth_images(3), some_cameras(3)
    nearest, generator = cameras[1] + torch.tensor([0.05, 0.05, 0.0]), torch.Generator()
    everything, one = model.embed_sources(images, cameras), model.embed_sources(images[1:2], cameras[1:2])
    views = sample(model, everything, nearest[None], generator.manual_seed(0), steps=2, conditioning="nearest")
    expected = sample(model, one, nearest[None], generator.manual_seed(0), steps=2)
    torch.testing.assert_close(views, expected)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_sampling_is_ddim_and_repeats_with_its_seed(model, temperature):
    sources = model.embed_sources(smooth_images(1), some_cameras(1))
    targets = some_cameras(2)

    def draw():
        return sample(model, sources, targets, torch.Generator().manual_seed(5), steps=3, temperature=temperature)

    reference = DDIMScheduler.from_config(model.scheduler.config)
    reference.set_timesteps(3)
    latents = temperature * torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        condition = model.condition(sources, targets)
        for timestep in reference.timesteps:
            prediction = model.predict(latents, timestep.expand(2), condition)
            latents = reference.step(prediction, timestep, latents).prev_sample
    torch.testing.assert_close(draw(), model.decode(latents))
    assert torch.equal(draw(), draw())


@pytest.mark.parametrize("conditioning_name", ["joint", "stochastic"])
def test_targets_in_small_batches_are_sampled_alike(model, conditioning_name):
    sources, targets = model.embed_sources(smooth_images(2), some_cameras(2)), some_cameras(5)

    def draw(batch):
        generator = torch.Generator().manual_seed(5)
        return sample(model, sources, targets, generator, steps=3, eta=0.5, conditioning=conditioning_name, batch=batch)

    torch.testing.assert_close(draw(2), draw(None))


def test_nearer_sources_are_likelier():
    sources = torch.tensor([[0.3, 0.0, 1.8], [0.3, 1.5, 1.8], [0.3, math.pi, 1.8]])
    probabilities = source_probabilities(sources, sources + torch.tensor([0.0, 0.2, 0.3]))
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(3))
    assert probabilities.argmax(-1).tolist() == [0, 1, 2]
    assert probabilities[0, 1] > probabilities[0, 2]


def test_the_instance_volume_lies_in_the_worlds_frame(model):
    """Values that are linear in the point's place are the same places' in a grid that is turned about z."""
    side, azimuth = 24, torch.tensor([0.0, 0.9])
    points = volume.grid_points(side, azimuth)
    instance = points.T.reshape(3, side, side, side)
    values = model.network.volume._in_grid_frame(instance, azimuth)
    points = volume.grid_points(model.network.config.resolution, azimuth)
    inside = points.norm(dim=-1) < cam.SCENE_BOUND * 0.9
    cameras = torch.stack([torch.zeros(2), azimuth, torch.ones(2)], -1)
    backward, right = cam.camera_axes(cameras)[..., 2], cam.camera_axes(cameras)[..., 0]
    for row in range(2):  # the grid's x axis points to the first source, y to its right
        expected = points[:, :1] * backward[row] + points[:, 1:2] * right[row] + points[:, 2:] * torch.tensor([0, 0, 1])
        torch.testing.assert_close(values[row].flatten(1).T[inside], expected[inside], atol=1e-5, rtol=0)


def test_an_instance_volume_of_zeros_changes_nothing(model):
    images, cameras, targets = smooth_images(2), some_cameras(2), some_cameras(4)[2:]
    before = predict(model, images, cameras, targets)
    model.instance = torch.nn.Parameter(torch.zeros(8, 4, 4, 4))
    torch.testing.assert_close(predict(model, images, cameras, targets), before)
    with torch.no_grad():
        model.instance += 1
    assert not torch.allclose(predict(model, images, cameras, targets), before)


@pytest.mark.parametrize("tuned", [False, True])
def test_save_and_load(model, tmp_path, tuned):
    if tuned:
        model.instance = torch.nn.Parameter(torch.randn(8, 4, 4, 4))
    model.save_pretrained(tmp_path / "model")
    loaded = EmbeddedDiffusion.from_pretrained(tmp_path / "model")
    assert loaded.image_size == 16
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value.half().float())


def test_loading_says_what_is_missing_or_broken(model, tmp_path):
    with pytest.raises(UserError, match="missing weights"):
        EmbeddedDiffusion.from_pretrained(tmp_path / "nothing")
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model/model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="not a model of ours"):
        EmbeddedDiffusion.from_pretrained(tmp_path / "model")


def test_renders_take_their_colours_from_larger_photos(model):
    """Stripes as wide as a pixel of a large photo are grey for the network; its renders show them."""
    stripes = torch.arange(64).remainder(2).float().expand(1, 4, 64, 64).clone()
    stripes[:, 3] = 1
    cameras, generator = some_cameras(1), torch.Generator()
    small = torch.nn.functional.interpolate(stripes, size=16, mode="area")
    sharp, blurred = model.embed_sources(stripes, cameras), model.embed_sources(small, cameras)
    assert torch.equal(sharp.images, blurred.images) and torch.equal(sharp.features, blurred.features)
    assert torch.equal(sharp.select(torch.tensor([0])).sharp, sharp.sharp)
    variation = []
    for sources in (sharp, blurred):
        image = model.conditional_mean(sources, cameras, generator, size=64)
        assert image.shape == (1, 4, 64, 64)
        variation.append(image[:, :3].diff(dim=-1).abs().mean())
    assert variation[0] > 5 * variation[1]
