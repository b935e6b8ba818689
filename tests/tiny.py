"""The embedded model at a size that tests can afford, and views and cameras for any model."""

import torch
import torch.nn.functional as F

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


def smooth_images(count: int, size: int = 32) -> torch.Tensor:
    """Random views, always the same, [count, 4, size, size]."""
    generator = torch.Generator().manual_seed(1)
    return F.interpolate(torch.rand(count, 4, 4, 4, generator=generator), size=size, mode="bicubic").clamp(0, 1)


def some_cameras(count: int) -> torch.Tensor:
    """Cameras [count, 3] all round."""
    index = torch.arange(count)
    return torch.stack([0.2 + 0.1 * index, 0.9 * index, 1.6 + 0.1 * index], -1)
