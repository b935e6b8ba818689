"""What the published model computes, on tiny networks."""

import torch

from camerabooth.backbones.published.model import saliency
from camerabooth.judge import leave_one_out
from sap3d.cameras import maths as cam
from tests.camerabooth.backbones.published.tiny import TINY, predict, training_loss
from tests.tiny import smooth_images, some_cameras


def test_images_and_latents(model):
    images = smooth_images(3)[None]
    with torch.no_grad():
        latents = model.encode(images)
        assert latents.shape == (1, 3, 4, 16, 16)
        posterior = model.vae.encode(images[0, :, :3] * 2 - 1).latent_dist
        torch.testing.assert_close(latents[0], 0.18215 * posterior.mean)
        torch.testing.assert_close(model.encode(images[0, 0]), latents[0, 0])
        decoded = model.decode(latents)
    assert decoded.shape == images.shape and decoded.min() >= 0 and decoded.max() <= 1
    assert torch.equal(decoded[0, :, 3:], saliency(decoded[0, :, :3]))


def test_clip_sees_the_image_corner_to_corner_and_normalised(model, monkeypatch):
    seen = []
    encoder = model.image_encoder.forward
    monkeypatch.setattr(
        model.image_encoder, "forward", lambda pixel_values: seen.append(pixel_values) or encoder(pixel_values)
    )
    images = smooth_images(1)
    model.embed_sources(images, some_cameras(1))
    corners = slice(None, None, TINY.clip_image_size - 1), slice(None, None, model.image_size - 1)
    mean, std = torch.tensor([0.4815, 0.4578, 0.4082]), torch.tensor([0.2686, 0.2613, 0.2758])
    expected = (images[0, :3, corners[1], corners[1]] - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(seen[0][0, :, corners[0], corners[0]], expected, atol=2e-3, rtol=1e-3)


def test_context_is_made_of_the_embedding_and_the_relative_pose(model):
    images, cameras, target = smooth_images(1), some_cameras(1), torch.tensor([[0.5, 2.0, 1.9]])
    sources = model.embed_sources(images, cameras)
    condition = model.condition(sources, target)
    difference = torch.tensor(2.0 - 0.0)
    pose = torch.tensor([0.2 - 0.5, difference.sin(), difference.cos(), 1.9 - 1.6])
    expected = model.cc_projection.projection(torch.cat([sources.features[0, 0], pose]))
    torch.testing.assert_close(condition.token[0], expected)
    # The concatenated latent is not scaled.
    torch.testing.assert_close(condition.latent[0], model.encode(images)[0] / 0.18215)
    none = condition.dropped(torch.tensor([True]))
    assert not none.token.any() and not none.latent.any()


def test_each_target_gets_its_nearest_source(model):
    images, cameras = smooth_images(3), some_cameras(3)
    targets = cameras[[2, 0, 1, 1]] + 0.05
    joint = model.condition(model.embed_sources(images, cameras), targets)
    for row, view in enumerate([2, 0, 1, 1]):
        single = model.condition(
            model.embed_sources(images[view : view + 1], cameras[view : view + 1]), targets[row : row + 1]
        )
        torch.testing.assert_close(joint.token[row], single.token[0])
        torch.testing.assert_close(joint.latent[row], single.latent[0])


def test_gradients_reach_source_and_target_cameras(model):
    images = smooth_images(2)
    cameras = some_cameras(2).requires_grad_()
    timesteps, noise = torch.tensor([400]), torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))

    def loss(cameras):
        sources = model.embed_sources(images[:1], cameras[:1])
        return training_loss(model, sources, images[None, 1:], cameras[None, 1:], timesteps, noise)[0]

    (gradient,) = torch.autograd.grad(loss(cameras), cameras)
    assert gradient.abs().min() > 0
    # T knows nothing but differences.
    difference = cameras.detach()[1, 1] - cameras.detach()[0, 1]
    pose = cam.relative_pose(cameras[0], cameras[1])
    slope = torch.autograd.grad(pose.sum(), cameras)[0]
    expected = torch.stack([torch.tensor(-1.0), difference.cos() - difference.sin(), torch.tensor(1.0)])
    torch.testing.assert_close(slope, torch.stack([-expected, expected]))
    model = model.double()
    images, noise, step = images.double(), noise.double(), 1e-4
    for view, number in [(0, 0), (1, 1), (1, 2)]:
        shift = torch.zeros(2, 3, dtype=torch.double)
        shift[view, number] = step
        with torch.no_grad():
            numeric = (loss(cameras.double() + shift) - loss(cameras.double() - shift)) / (2 * step)
        torch.testing.assert_close(gradient[view, number].double(), numeric, atol=1e-5, rtol=0.02)


def test_training_loss_is_the_noise_error_of_each_target(model):
    images, cameras = smooth_images(3), some_cameras(3)
    timesteps, noise = torch.tensor([100, 900]), torch.randn(2, 4, 16, 16)
    drop = torch.tensor([False, True])
    with torch.no_grad():
        sources = model.embed_sources(images[:1], cameras[:1])
        losses = training_loss(model, sources, images[None, 1:], cameras[None, 1:], timesteps, noise, drop)
        latents, condition = model.encode(images[1:]), model.condition(sources, cameras[1:]).dropped(drop)
        for row, timestep in enumerate([100, 900]):
            alpha = model.scheduler.alphas_cumprod[timestep]
            noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
            prediction = model.predict(noisy, torch.full((2,), timestep), condition)
            torch.testing.assert_close(losses[row], (prediction[row] - noise[row]).square().mean())
            clean = model.clean_estimate(noisy, torch.full((2,), timestep), noise)
            torch.testing.assert_close(clean, latents, atol=1e-4, rtol=1e-3)


def test_guidance_extrapolates_from_the_unconditional_prediction(model):
    images, cameras = smooth_images(2), some_cameras(2)
    conditional, guided = predict(model, images, cameras), predict(model, images, cameras, 3.0)
    assert not torch.allclose(conditional, guided)
    none = predict(model, images, cameras, 0.0)
    torch.testing.assert_close(guided, none + 3 * (conditional - none), atol=1e-4, rtol=1e-4)


def test_sds_gradient_is_its_definition(model):
    images, cameras = smooth_images(3), some_cameras(3)
    sources, rendered, level = model.embed_sources(images[:1], cameras[:1]), images[1:], torch.tensor([0.3, 1.0])
    model.requires_grad_(False)
    gradient = model.sds_gradient(rendered, cameras[1:], sources, level, 2.0, torch.Generator().manual_seed(5))
    assert gradient.shape == rendered.shape and not gradient.requires_grad and not gradient[:, 3].any()

    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    timesteps = torch.tensor([300, 999])
    alpha = model.scheduler.alphas_cumprod[timesteps][:, None, None, None]
    leaf = rendered.clone().requires_grad_()
    latents = model.encode(leaf)
    noisy = (alpha.sqrt() * latents + (1 - alpha).sqrt() * noise).detach()
    prediction = model.predict(noisy, timesteps, model.condition(sources, cameras[1:]), 2.0)
    # An average over the image of gradient · image must weigh what this average over latents does.
    ((1 - alpha) * (prediction - noise) * latents).mean().backward()
    torch.testing.assert_close(gradient / gradient.numel(), leaf.grad)


def test_energies_of_poses_can_be_had(model):
    errors = leave_one_out(model, smooth_images(3), some_cameras(3), [500, 999], draws=2)
    assert errors.shape == (4, 3) and errors.isfinite().all()
    assert errors.max() < 3 * errors.min()  # no time step decides alone
    assert leave_one_out(model, smooth_images(3), some_cameras(3)).shape == (3, 3)


def test_energies_do_not_let_the_last_step_decide(model):
    """Of a prediction that is wrong by the same everywhere, the energy of ε is the same at all time steps."""
    model.denoise = lambda noisy, timesteps, condition: model.wanted + 0.1
    latents, noise = torch.randn(1, 4, 16, 16), torch.randn(1, 4, 16, 16)
    model.wanted = noise
    energies = [model.energy(latents, None, torch.tensor([step]), noise) for step in (50, 500, 999)]
    torch.testing.assert_close(torch.cat(energies), torch.full((3,), 0.01), atol=1e-5, rtol=1e-3)


def test_a_white_mug_survives():
    """Its rim and handle shade into grey, its middle is as white as the background; so does its handle's hole."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    body = (x.abs() < 0.4) & (y.abs() < 0.5)
    color = torch.ones(1, 3, 64, 64)
    rim = body & ((x.abs() > 0.3) | (y.abs() > 0.4))
    color[:, :, rim] = 0.9
    alpha = saliency(color)[0, 0]
    assert alpha[body & ~rim].min() == 1, "its white middle is the object's"
    assert alpha[~body].max() == 0
    shrunk = (x.abs() < 0.35) & (y.abs() < 0.45)
    assert alpha[shrunk].min() == 1
    assert not saliency(torch.ones(1, 3, 8, 8)).any()
