"""EfficientNet-Lite0 as a frozen feature extractor: what a network has learned from ImageNet's photos.

Architecture: EfficientNet (arXiv 1905.11946) in its Lite form, which has neither squeeze and excitation nor swish:
inverted residuals (MobileNetV2, arXiv 1801.04381) with ReLU6. Batch normalisation is folded into the convolutions.
dataset/imagenet_weights.py makes the weights (Apache-2.0). Networks that use the features do not save them as theirs.
"""

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("efficientnet_lite0.safetensors")
# Kernel size, stride, expansion, output channels, repetitions.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM = 32  # channels
TAPPED = (2, 4, 6)  # stages whose outputs are features, at strides 8, 16 and 32
CHANNELS = tuple(STAGES[stage][3] for stage in TAPPED)


class SamePadded(nn.Conv2d):
    """A convolution padded as TensorFlow does, where the weights were trained: of an odd pad the larger part last."""

    def forward(self, x: Tensor) -> Tensor:
        size, stride = self.kernel_size[0], self.stride[0]
        pads = []
        for length in (x.shape[-1], x.shape[-2]):
            needed = max((-(-length // stride) - 1) * stride + size - length, 0)
            pads += [needed // 2, needed - needed // 2]
        return super().forward(F.pad(x, pads))


class InvertedResidual(nn.Module):
    """Expand by 1×1, filter each channel, project by 1×1; the input is added where it has the output's shape."""

    def __init__(self, channels: int, kernel: int, stride: int, expansion: int, out: int):
        super().__init__()
        hidden = channels * expansion
        self.expand = nn.Conv2d(channels, hidden, 1) if expansion > 1 else None
        self.filter = SamePadded(hidden, hidden, kernel, stride, groups=hidden)
        self.project = nn.Conv2d(hidden, out, 1)
        self.adds = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.filter(y)))
        return x + y if self.adds else y


class ImageNetFeatures(nn.Module):
    """RGB in [0, 1] [V, 3, S, S] → features at strides 8, 16 and 32: [V, 40 | 112 | 320, S / stride, S / stride]."""

    def __init__(self):
        super().__init__()
        self.stem = SamePadded(3, STEM, 3, 2)
        self.stages, channels = nn.ModuleList(), STEM
        for kernel, stride, expansion, out, count in STAGES:
            blocks = [InvertedResidual(channels, kernel, stride, expansion, out)]
            blocks += [InvertedResidual(out, kernel, 1, expansion, out) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(*blocks))
            channels = out
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        x = F.relu6(self.stem((images * 255 - 127) / 128))
        found = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in TAPPED:
                found.append(x)
        return found


@cache
def _pretrained(device: torch.device) -> ImageNetFeatures:
    model = ImageNetFeatures()
    model.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return model.to(device, memory_format=torch.channels_last)


def imagenet_features(images: Tensor) -> list[Tensor]:
    """`ImageNetFeatures` of RGB in [0, 1], on the images' device; no gradient flows through them."""
    return _pretrained(images.device)(images.contiguous(memory_format=torch.channels_last))
