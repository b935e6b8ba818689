"""The embedded model at a size that tests can afford."""

import torch

from camerabooth.backbones.embedded.model import EmbeddedDiffusion
from camerabooth.backbones.embedded.network import EmbeddedConfig, Reconstructor


def tiny_config(image_size: int = 64) -> EmbeddedConfig:
    """Some ten thousand parameters."""
    return EmbeddedConfig(
        image_size=image_size,
        encoder_widths=(8, 8, 16),
        source_channels=16,
        volume_widths=(8, 8, 8),
        resolution=12,
        field_features=2,
        samples=16,
        denoiser_widths=(8, 16, 16),
    )


def tiny_model(image_size: int = 64) -> EmbeddedDiffusion:
    """With random weights, always the same; none is zero only because training begins so."""
    torch.manual_seed(0)
    model = EmbeddedDiffusion(Reconstructor(tiny_config(image_size))).eval()
    for parameter in model.parameters():
        if parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.1)
    model.network.volume.head.bias.data[:8] += 5  # density: half-transparent fog, where untrained there is nothing
    return model
