"""The embedded model's denoising UNet: works on 2 × 2 pixel patches, attention only at 8 × 8."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camerabooth.conditioning import FrustumCondition

EMBEDDING = 128


class ResidualBlock(nn.Module):
    """Two convolutions with group norm; scale and shift (FiLM) from the embedding of time and target camera."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.norm_in, self.conv_in = nn.GroupNorm(8, channels_in), nn.Conv2d(channels_in, channels, 3, padding=1)
        self.norm_out, self.conv_out = nn.GroupNorm(8, channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(EMBEDDING, 2 * channels)
        self.skip = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.conv_in(F.silu(self.norm_in(x)))
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, 1)
        hidden = self.conv_out(F.silu(self.norm_out(hidden) * (1 + scale) + shift))
        return self.skip(x) + hidden


class Attention(nn.Module):
    """Self-attention over all positions, four heads."""

    def __init__(self, channels: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm, self.qkv = nn.GroupNorm(8, channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, 3, self.heads, channels // self.heads, -1).transpose(-1, -2)
        attended = F.scaled_dot_product_attention(qkv[:, 0], qkv[:, 1], qkv[:, 2])
        return x + self.out(attended.transpose(-1, -2).reshape(batch, channels, height, width))


class DenoisingUNet(nn.Module):
    """Noisy target, noise level and FrustumCondition → prediction of the same shape as the target.

    Args:
        channels: widths at half, quarter and eighth resolution.
        lifted_channels: channels of FrustumCondition.lifted, which joins at quarter resolution.
    """

    def __init__(self, channels: tuple[int, int, int], lifted_channels: int):
        super().__init__()
        fine, middle, coarse = channels
        self.embed = nn.Sequential(nn.Linear(64 + 3, EMBEDDING), nn.SiLU(), nn.Linear(EMBEDDING, EMBEDDING), nn.SiLU())
        self.stem = nn.Conv2d((4 + 6) * 4, fine, 3, padding=1)
        self.fine_down = ResidualBlock(fine, fine)
        self.to_middle = nn.Conv2d(fine, middle, 3, stride=2, padding=1)
        self.middle_down = nn.ModuleList(
            [ResidualBlock(middle + lifted_channels, middle), ResidualBlock(middle, middle)]
        )
        self.to_coarse = nn.Conv2d(middle, coarse, 3, stride=2, padding=1)
        self.coarse_in, self.attention = ResidualBlock(coarse, coarse), Attention(coarse)
        self.coarse_out = ResidualBlock(coarse, coarse)
        self.from_coarse = nn.Conv2d(coarse, middle, 1)
        self.middle_up = nn.ModuleList([ResidualBlock(2 * middle, middle), ResidualBlock(middle, middle)])
        self.from_middle = nn.Conv2d(middle, fine, 1)
        self.fine_up = ResidualBlock(2 * fine, fine)
        self.out = nn.Sequential(nn.GroupNorm(8, fine), nn.SiLU(), nn.Conv2d(fine, 4 * (4 + 1), 3, padding=1))

    def forward(self, noisy: Tensor, time: Tensor, condition: FrustumCondition) -> Tensor:
        """`noisy` is [B, 4, S, S], `time` [B] in [0, 1] (1 is pure noise)."""
        embedding = self.embed(torch.cat([_sinusoids(time), _camera_features(condition.cameras)], -1))
        x = self.stem(F.pixel_unshuffle(torch.cat([noisy, condition.warped], 1), 2))
        fine = self.fine_down(x, embedding)
        x = torch.cat([self.to_middle(fine), condition.lifted.to(fine.dtype)], 1)
        for block in self.middle_down:
            x = block(x, embedding)
        middle = x
        x = self.coarse_out(self.attention(self.coarse_in(self.to_coarse(x), embedding)), embedding)
        x = torch.cat([F.interpolate(self.from_coarse(x), scale_factor=2), middle], 1)
        for block in self.middle_up:
            x = block(x, embedding)
        x = torch.cat([F.interpolate(self.from_middle(x), scale_factor=2), fine], 1)
        # Four channels are predicted outright; the fifth says how much of the warped sources to add.
        prediction, gate = F.pixel_shuffle(self.out(self.fine_up(x, embedding)), 2).to(noisy.dtype).split([4, 1], 1)
        return prediction + gate * condition.warped[:, :4]


def _sinusoids(time: Tensor) -> Tensor:
    """[B] in [0, 1] → [B, 64]."""
    frequencies = torch.exp(torch.linspace(0, math.log(1000), 32, device=time.device))
    phases = time[:, None] * frequencies
    return torch.cat([phases.sin(), phases.cos()], -1)


def _camera_features(cameras: Tensor) -> Tensor:
    """What the target's own camera tells: elevation and radius. Its azimuth is a matter of gauge and is left out."""
    elevation, radius = cameras[:, 0], cameras[:, 2]
    return torch.stack([elevation.sin(), elevation.cos(), radius - 1.8], -1)
