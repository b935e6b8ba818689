"""The embedded model's denoising UNet: a noisy target and what the field shows of it → a prediction of the same shape.

It works on patches of 2 × 2 pixels; attention is at an eighth of the resolution alone.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camerabooth.backbones.embedded.layers import Attention, ChannelNorm, Residual
from camerabooth.backbones.interface import Condition

EMBEDDING = 128
PATCH = 2


@dataclass
class Guide(Condition):
    """What the denoiser is told about T targets of side S."""

    rendered: Tensor  # the field's colour and opacity in [−1, 1], relative depth and features, [T, 5 + C, S/2, S/2]
    warped: Tensor  # the sources' colour and alpha in [−1, 1] at the field's depth, and their variance, [T, 5, S, S]


class TimedResidual(Residual):
    """A residual block whose second norm is scaled and shifted by an embedding (FiLM)."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__(2, channels_in, channels)
        self.film = nn.Linear(EMBEDDING, 2 * channels)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, 1)
        hidden = self.norm_out(self.conv_in(F.silu(self.norm_in(x)))) * (1 + scale) + shift
        return self.skip(x) + self.conv_out(F.silu(hidden))


class Denoiser(nn.Module):
    """Noisy target, noise level and Guide → prediction of the same shape as the target.

    Args:
        widths: channels at half, quarter and eighth resolution.
        features: channels of the field beside density and colour.
    """

    def __init__(self, widths: tuple[int, int, int], features: int):
        super().__init__()
        fine, middle, coarse = widths
        self.embed = nn.Sequential(nn.Linear(64, EMBEDDING), nn.SiLU(), nn.Linear(EMBEDDING, EMBEDDING), nn.SiLU())
        self.stem = nn.Conv2d((4 + 5) * PATCH**2 + 5 + features, fine, 3, padding=1)
        self.fine_down = TimedResidual(fine, fine)
        self.to_middle = nn.Conv2d(fine, middle, 2, stride=2)
        self.middle_down = nn.ModuleList([TimedResidual(middle, middle), TimedResidual(middle, middle)])
        self.to_coarse = nn.Conv2d(middle, coarse, 2, stride=2)
        self.coarse_in, self.attention = TimedResidual(coarse, coarse), Attention(coarse)
        self.coarse_out = TimedResidual(coarse, coarse)
        self.from_coarse = nn.Conv2d(coarse, middle, 1)
        self.middle_up = nn.ModuleList([TimedResidual(2 * middle, middle), TimedResidual(middle, middle)])
        self.from_middle = nn.Conv2d(middle, fine, 1)
        self.fine_up = TimedResidual(2 * fine, fine)
        self.out_norm, self.out = ChannelNorm(fine), nn.Conv2d(fine, (4 + 2) * PATCH**2, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, noisy: Tensor, time: Tensor, guide: Guide) -> Tensor:
        """`noisy` is [T, 4, S, S], `time` [T] in [0, 1] (1 is pure noise)."""
        embedding = self.embed(_sinusoids(time))
        patches = F.pixel_unshuffle(torch.cat([noisy, guide.warped], 1), PATCH)
        x = torch.cat([patches, guide.rendered], 1).contiguous(memory_format=torch.channels_last)
        fine = self.fine_down(self.stem(x), embedding)
        x = self.to_middle(fine)
        for block in self.middle_down:
            x = block(x, embedding)
        middle = x
        x = self.coarse_out(self.attention(self.coarse_in(self.to_coarse(x), embedding)), embedding)
        x = torch.cat([F.interpolate(self.from_coarse(x), scale_factor=2), middle], 1)
        for block in self.middle_up:
            x = block(x, embedding)
        x = torch.cat([F.interpolate(self.from_middle(x), scale_factor=2), fine], 1)
        raw = F.pixel_shuffle(self.out(F.silu(self.out_norm(self.fine_up(x, embedding)))), PATCH)
        # Four channels are predicted outright; the others say how much of the render and of the warped sources to add.
        prediction, gates = raw.to(noisy.dtype).split([4, 2], 1)
        rendered = F.interpolate(guide.rendered[:, :4], scale_factor=2, mode="bilinear", align_corners=False)
        return prediction + gates[:, :1] * rendered + gates[:, 1:] * guide.warped[:, :4]


def _sinusoids(time: Tensor) -> Tensor:
    """[T] in [0, 1] → [T, 64]."""
    frequencies = torch.exp(torch.linspace(0, math.log(1000), 32, device=time.device))
    phases = time[:, None] * frequencies
    return torch.cat([phases.sin(), phases.cos()], -1)
