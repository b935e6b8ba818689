"""The embedded model's networks together."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from camerabooth.backbones.embedded.volume import Field, SourceEncoder, Volume
from sap3d.runs.devices import autocast


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


class Reconstructor(nn.Module):
    """Sources → Field: encoder and volume."""

    def __init__(self, config: EmbeddedConfig = EmbeddedConfig()):
        super().__init__()
        self.config = config
        self.encoder = SourceEncoder(config.source_channels, tuple(config.encoder_widths))
        self.volume = Volume(
            config.source_channels, tuple(config.volume_widths), config.resolution, config.field_features
        )
        # Channels-last weights keep oneDNN from reordering activations at every layer.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)
            elif isinstance(module, nn.Conv3d):
                module.to(memory_format=torch.channels_last_3d)

    def forward(self, images: Tensor, cameras: Tensor, with_features: bool = True) -> Field:
        """Images in [0, 1], colour on white and alpha, [B, N, 4, S, S]; cameras [B, N, ≥ 3]."""
        latents = images * 2 - 1
        with autocast(images.device):
            features = self.encoder(latents.flatten(0, 1))
        return self.volume(latents, cameras, features.float().unflatten(0, images.shape[:2]), with_features)
