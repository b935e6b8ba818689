"""One colour behind the object."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


class Solid(nn.Module):
    """A constant colour; the photos are composited on white."""

    @dataclass
    class Config:
        color: list[float] = field(default_factory=lambda: [1.0, 1.0, 1.0])

    def __init__(self, config: Config):
        super().__init__()
        self.register_buffer("color", torch.tensor(config.color))

    def forward(self, directions: Tensor) -> Tensor:
        """RGB along rays [..., 3], [..., 3]."""
        return self.color.expand_as(directions)
