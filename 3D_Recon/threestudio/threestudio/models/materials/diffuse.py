"""The surface's colour, the same from all sides."""

from dataclasses import dataclass

from torch import Tensor, nn


class Diffuse(nn.Module):
    """RGB in [0, 1] by a sigmoid; light and shade are part of the colour."""

    @dataclass
    class Config:
        pass

    def __init__(self, config: Config):
        super().__init__()

    def forward(self, features: Tensor) -> Tensor:
        """Raw colour of the geometry [..., 3] → RGB [..., 3]."""
        return features.sigmoid()
