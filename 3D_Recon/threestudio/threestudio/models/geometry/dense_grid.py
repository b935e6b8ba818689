"""A dense grid of raw density and raw colour, grown coarse to fine."""

from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import Tensor, nn

from sap3d.field import grid as dense
from sap3d.field.smoothness import Roughness
from threestudio.config import Milestones


class DenseGrid(nn.Module):
    """`sap3d.field.grid`'s field: raw values on corner-aligned nodes over the scene's cube (DVGO, arXiv 2111.11215)."""

    @dataclass
    class Config:
        resolution: Milestones = field(default_factory=lambda: [[0, 32]])

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        resolution = config.resolution[0][1]
        # Channels last: a node's four values are read together.
        self.values = nn.Parameter(torch.zeros(resolution, resolution, resolution, 4))

    @property
    def resolution(self) -> int:
        return self.values.shape[0]

    @property
    def spacing(self) -> float:
        """Distance of neighbouring nodes."""
        return 2 * dense.SCENE_BOUND / (self.resolution - 1)

    @property
    def grid(self) -> Tensor:
        """[1, 4, R, R, R], indexed [·, channel, z, y, x]."""
        return self.values.permute(3, 0, 1, 2)[None]

    @property
    def field(self) -> dense.Grids:
        """What rays are rendered of."""
        return dense.Grids(self.grid)

    @property
    def device(self) -> torch.device:
        return self.values.device

    def resize(self, resolution: int) -> None:
        """Resample to another resolution; the parameter is a new one."""
        self.load({"grid": dense.resize(self.grid.detach(), resolution)[0]})

    def state(self) -> dict[str, Tensor]:
        """What `load` takes: a grid [4, R, R, R]."""
        return {"grid": self.grid[0].detach().contiguous()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Replace the values by those of a grid of any resolution."""
        self.values = nn.Parameter(state["grid"].detach().permute(1, 2, 3, 0).contiguous())

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density per unit of length, [P], and colour in [0, 1], [P, 3], at world points [P, 3]."""
        return self.field(points)

    def roughness(self, _: torch.Generator) -> tuple[Tensor, Tensor]:
        """Bending energy of the raw density, and total variation of the raw colour.

        Mean squared second differences of neighbouring nodes, summed over pairs of axes (the thin plate's energy,
        Duchon 1977), and first ones, summed over axes and channels.
        """
        if self.device.type == "cpu":
            return Roughness.apply(self.values).unbind()
        density, color = self.values[..., 0].contiguous(), self.grid[:, 1:]
        straight = sum(density.diff(n=2, dim=axis).square().mean() for axis in range(3))
        twisted = sum(density.diff(dim=a).diff(dim=b).square().mean() for a, b in combinations(range(3), 2))
        return straight + 2 * twisted, color.shape[1] * dense.total_variation(color)[0]
