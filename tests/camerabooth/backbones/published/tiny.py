"""Tiny networks of the published backbone, and what the tests show them."""

import torch

from camerabooth.backbones.published.model import PublishedDiffusion, PublishedSettings
from camerabooth.backbones.published.networks import Architecture, build_networks, write_networks

TINY = Architecture(
    unet_channels=(32, 64),
    vae_channels=(32, 32),
    context=16,
    clip_width=64,
    clip_layers=2,
    clip_heads=1,
    clip_patch=8,
    clip_image_size=24,
)
# Without levels in the autoencoder, latents are as large as images, as callers' embedded model has it.
FLAT = Architecture(**{**vars(TINY), "vae_channels": (32,)})


def make_model(architecture=TINY, **settings):
    torch.manual_seed(0)
    settings = PublishedSettings(**{"dtype": "float32", "image_size": 32, "gradient_checkpointing": False} | settings)
    return PublishedDiffusion(build_networks(architecture), settings).eval()


def trainable(model):
    model.prepare_tuning()
    return model


def write_folder(folder, networks, states):
    folder.mkdir()
    write_networks(folder, networks, states)


def predict(model, images, cameras, guidance_scale=1.0):
    generator = torch.Generator().manual_seed(2)
    noisy = torch.randn(1, 4, model.latent_size, model.latent_size, generator=generator)
    with torch.no_grad():
        condition = model.condition(model.embed_sources(images[1:], cameras[1:]), cameras[:1])
        return model.predict(noisy, torch.tensor([700]), condition, guidance_scale)


def training_loss(model, sources, images, cameras, timesteps, noise, drop=None):
    """The error of each target [B, M, 4, S, S] at cameras [B, M, 3], without conditions where `drop` says so."""
    condition = model.condition(sources, cameras)
    condition = condition if drop is None else condition.dropped(drop)
    return model.denoising_error(model.encode(images).flatten(0, 1).detach(), condition, timesteps, noise)
