"""Layers of two and three dimensions that the embedded model's networks are made of."""

import torch.nn.functional as F
from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels [B, C, ...] of each position; no copy where channels lie last in memory."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Residual(nn.Module):
    """Two convolutions of side 3, each after a norm, in 2 or 3 dimensions; the second begins at zero."""

    def __init__(self, dimensions: int, channels_in: int, channels: int):
        super().__init__()
        convolution = nn.Conv2d if dimensions == 2 else nn.Conv3d
        self.norm_in, self.conv_in = ChannelNorm(channels_in), convolution(channels_in, channels, 3, padding=1)
        self.norm_out, self.conv_out = ChannelNorm(channels), convolution(channels, channels, 3, padding=1)
        self.skip = convolution(channels_in, channels, 1) if channels_in != channels else nn.Identity()
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv_in(F.silu(self.norm_in(x)))
        return self.skip(x) + self.conv_out(F.silu(self.norm_out(hidden)))


class Attention(nn.Module):
    """Self-attention over all positions of an image."""

    def __init__(self, channels: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm, self.qkv = ChannelNorm(channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, 3, self.heads, channels // self.heads, -1).transpose(-1, -2)
        attended = F.scaled_dot_product_attention(qkv[:, 0], qkv[:, 1], qkv[:, 2])
        return x + self.out(attended.transpose(-1, -2).reshape(batch, channels, height, width))
