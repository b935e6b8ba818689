"""What the embedded model's training minimises: errors of rendered rays and views, and of the denoiser."""

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor

from camerabooth.backbones.embedded.guide import guide
from camerabooth.backbones.embedded.network import Reconstructor, noise_schedule
from camerabooth.backbones.embedded.rendering import View, render
from camerabooth.backbones.interface import TRAIN_TIMESTEPS
from dataset.photo_errors import photo_errors
from dataset.training_views import DEPTH_SIZE, Batch
from sap3d.cameras import maths as cam
from sap3d.cameras.maths import SCENE_BOUND
from sap3d.field.grid import ray_interval

TYPICAL = 0.03  # error of an object's views
FLOOR = 0.002  # error below which all are alike


def volume_losses(
    model: Reconstructor, batch: Batch, config: DictConfig, generator: torch.Generator
) -> dict[str, Tensor]:
    """Of rendered rays: squared errors of colour and opacity, and how far from the true depth the samples weigh.

    Each is the mean over an object's rays, [B].
    """
    sources = batch.images.shape[1] - config.targets
    images = photo_errors(batch.images[:, :sources], generator)
    field = model(images, batch.cameras[:, :sources], with_features=False)
    cameras = batch.cameras[:, sources:]
    choice = object_rays(cameras, config.rays, generator)
    pixels = cam.pixel_grid(DEPTH_SIZE, cameras.device)[choice]
    view = render(field, cameras, pixels, model.config.samples, generator)
    return view_losses(view, batch.images[:, sources:], batch.depths, choice)


def denoising_losses(
    model: Reconstructor, batch: Batch, config: DictConfig, generator: torch.Generator
) -> dict[str, Tensor]:
    """The same of whole views, and the error of the denoiser's v-prediction of them at random noise levels."""
    sources = batch.images.shape[1] - config.targets
    chosen = slice(sources, sources + config.denoised)
    images, cameras = photo_errors(batch.images[:, :sources], generator), batch.cameras[:, :sources]
    field = model(images, cameras)
    told, view = guide(field, batch.cameras[:, chosen], model.config.samples)
    losses = view_losses(view, batch.images[:, chosen], batch.depths[:, : config.denoised])
    latents = batch.images[:, chosen].flatten(0, 1) * 2 - 1
    count, device = len(latents), latents.device
    on = {"generator": generator, "device": generator.device}
    timesteps = torch.randint(TRAIN_TIMESTEPS, (count,), **on)
    timesteps[torch.rand(count, **on) < config.pure_noise] = TRAIN_TIMESTEPS - 1
    drop = (torch.rand(count, **on) < config.drop).to(device)
    noise, timesteps = torch.randn(latents.shape, **on).to(device), timesteps.to(device)
    schedule = noise_schedule()
    prediction = model.denoise(schedule.add_noise(latents, noise, timesteps), timesteps, told.dropped(drop))
    losses["denoising"] = F.mse_loss(prediction, schedule.get_velocity(latents, noise, timesteps))
    return losses


def total_loss(losses: dict[str, Tensor], config: DictConfig) -> Tensor:
    """What a step minimises: an object's error in views counts relative to itself, as in PSNR.

    Else objects that are seen once, or are hard, would drown the others. `TYPICAL` keeps the logarithm's gradient about
    as large as the error's.
    """
    error = losses["colour"] + config.mask_weight * losses["mask"] + config.depth_weight * losses["depth"]
    return TYPICAL * (error + FLOOR).log().mean() + config.denoising_weight * losses.get("denoising", 0)


def view_losses(view: View, images: Tensor, depths: Tensor, choice: Tensor | None = None) -> dict[str, Tensor]:
    """Each object's errors [B] in views of 64×64 pixels, or in those of `choice` [B, M, P], against [B, M, 4, S, S]."""
    truth = F.interpolate(images.flatten(0, 1), size=(DEPTH_SIZE,) * 2, mode="area")
    truth, depths = truth.flatten(2).transpose(1, 2).unflatten(0, images.shape[:2]), depths.flatten(2)
    if choice is not None:
        truth, depths = truth.gather(2, choice[..., None].expand(-1, -1, -1, 4)), depths.gather(2, choice)
    errors = (view.image - truth).square()
    colour, mask = errors[..., :3].mean((1, 2, 3)), errors[..., 3].mean((1, 2))
    return {"colour": colour, "mask": mask, "depth": depth_error(view, depths)}


def depth_error(view: View, depth: Tensor) -> Tensor:
    """Distance of the samples from the true relative depth [B, M, P], weighted as they are composited, [B]."""
    known = depth < 1.5
    distance = (view.sample_depths - depth[..., None]).abs()
    return ((view.weights * distance).sum(-1) * known).mean((1, 2))


def object_rays(cameras: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random pixels of a 64×64 image whose rays pass where an object can be, [B, M, count].

    What lies in the image does not decide: a choice that knew the truth would bias what is uncertain.
    """
    near, far = ray_interval(*cam.rays(cameras, cam.pixel_grid(DEPTH_SIZE, cameras.device)))
    possible = far - near > 0.01 * SCENE_BOUND
    scores = torch.rand(possible.shape, generator=generator, device=generator.device).to(cameras.device) * possible
    return scores.topk(count, -1).indices
