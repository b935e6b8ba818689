"""The embedded model's networks together."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from camerabooth.backbones.embedded.denoiser import Denoiser, Guide
from camerabooth.backbones.embedded.volume import Field, SourceEncoder, Volume
from camerabooth.backbones.interface import TRAIN_TIMESTEPS
from sap3d.runs.devices import autocast

if TYPE_CHECKING:
    from diffusers import DDIMScheduler


@dataclass(frozen=True)
class EmbeddedConfig:
    """The embedded model's size."""

    image_size: int = 128
    encoder_widths: tuple[int, int, int] = (48, 96, 192)
    source_channels: int = 48
    volume_widths: tuple[int, ...] = (48, 96, 192, 256)
    resolution: int = 24  # of the coarse grid; the field has twice as many nodes a side
    field_features: int = 8
    samples: int = 48  # of a ray
    denoiser_widths: tuple[int, int, int] = (64, 128, 256)


def noise_schedule() -> "DDIMScheduler":
    """v-prediction (arXiv 2202.00512) on a schedule whose last step is pure noise (arXiv 2305.08891)."""
    from diffusers import DDIMScheduler  # takes seconds, and conditional means need none of it

    return DDIMScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=True,
    )


class Reconstructor(nn.Module):
    """Sources → Field, by encoder and volume; Guide and noisy targets → v-prediction, by the denoiser."""

    def __init__(self, config: EmbeddedConfig = EmbeddedConfig()):
        super().__init__()
        self.config = config
        self.encoder = SourceEncoder(config.source_channels, tuple(config.encoder_widths))
        self.volume = Volume(
            config.source_channels, tuple(config.volume_widths), config.resolution, config.field_features
        )
        self.denoiser = Denoiser(tuple(config.denoiser_widths), config.field_features)
        # Channels-last weights keep oneDNN from reordering activations at every layer.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)
            elif isinstance(module, nn.Conv3d):
                module.to(memory_format=torch.channels_last_3d)

    def forward(self, images: Tensor, cameras: Tensor, with_features: bool = True) -> Field:
        """Images in [0, 1], colour on white and alpha, [B, N, 4, S, S]; cameras [B, N, ≥ 3]."""
        latents = images * 2 - 1
        return self.volume(latents, cameras, self.encode(latents), with_features)

    def encode(self, latents: Tensor) -> Tensor:
        """Features [B, N, C, S/4, S/4] of images in [−1, 1], [B, N, 4, S, S]."""
        with autocast(latents.device):
            features = self.encoder(latents.flatten(0, 1))
        return features.to(latents.dtype).unflatten(0, latents.shape[:2])

    def denoise(self, noisy: Tensor, timesteps: Tensor, guide: Guide) -> Tensor:
        """The v-prediction from noisy targets [T, 4, S, S] in [−1, 1] at timesteps [T]."""
        with autocast(noisy.device):
            return self.denoiser(noisy, (timesteps / (TRAIN_TIMESTEPS - 1)).to(noisy.dtype), guide)
