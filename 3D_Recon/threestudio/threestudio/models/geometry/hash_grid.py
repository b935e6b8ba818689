"""A multiresolution hash grid with a small network behind it, for GPUs.

    python 3D_Recon/threestudio/launch.py … system.geometry.target=threestudio.models.geometry.hash_grid.HashGrid \
        system.field_rate=[200,0.01,0.002,760] system.density_variation_weight=0 system.color_variation_weight=0
"""

from dataclasses import dataclass, field
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sap3d.cameras.maths import SCENE_BOUND
from sap3d.field import grid as dense
from threestudio.config import Milestones

PRIMES = (1, 2_654_435_761, 805_459_861)  # of the spatial hash
CORNERS = torch.tensor([[x, y, z] for z in (0, 1) for y in (0, 1) for x in (0, 1)])


class HashGrid(nn.Module):
    """Instant-NGP's encoding (Müller et al. 2022, arXiv 2201.05989, §3) in plain torch.

    Coarse to fine: levels finer than `resolution`'s milestone are held at zero, as in Neuralangelo (arXiv 2306.03092,
    §3.3). With tiny-cuda-nn installed, its fused kernels take the place of torch's on CUDA.
    """

    @dataclass
    class Config:
        resolution: Milestones = field(default_factory=lambda: [[0, 32]])  # of the finest level that is used
        levels: int = 12
        base: int = 16  # nodes along a side of the coarsest level
        finest: int = 256
        log2_entries: int = 17  # of a level's table
        features: int = 2  # of an entry
        hidden: int = 32
        tiny_cuda_nn: bool = True  # where it can be imported

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        ratio = (config.finest / config.base) ** (1 / max(config.levels - 1, 1))
        self.sides = [round(config.base * ratio**level) for level in range(config.levels)]
        self.resolution = config.resolution[0][1]
        self.fused = fused_network(config, ratio) if config.tiny_cuda_nn else None
        if self.fused is None:
            self.tables = nn.ParameterList(
                nn.Parameter(1e-4 * (2 * torch.rand(min(side**3, 2**config.log2_entries), config.features) - 1))
                for side in self.sides
            )
            self.network = nn.Sequential(
                nn.Linear(config.levels * config.features, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 4)
            )

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def spacing(self) -> float:
        """Distance of neighbouring nodes of the finest level in use."""
        return 2 * SCENE_BOUND / (self.resolution - 1)

    @property
    def field(self) -> "HashGrid":
        """What rays are rendered of."""
        return self

    @property
    @torch.no_grad()
    def grid(self) -> Tensor:
        """Raw values at the nodes of a regular grid, [1, 4, R, R, R], indexed [·, channel, z, y, x]."""
        axis = torch.linspace(-SCENE_BOUND, SCENE_BOUND, self.resolution, device=self.device)
        planes = [torch.stack(torch.meshgrid(z[None], axis, axis, indexing="ij")[::-1], -1).view(-1, 3) for z in axis]
        raw = torch.stack([self.raw(plane) for plane in planes])
        return raw.view(*[self.resolution] * 3, 4).permute(3, 0, 1, 2)[None]

    def resize(self, resolution: int) -> None:
        """Use levels up to another resolution."""
        self.resolution = resolution

    def state(self) -> dict[str, Tensor]:
        """What `load` takes."""
        return self.state_dict() | {"resolution": torch.tensor(self.resolution)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take a saved field's values."""
        state = dict(state)
        self.resolution = int(state.pop("resolution"))
        self.load_state_dict(state)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density per unit of length, [P], and colour in [0, 1], [P, 3], at world points [P, 3]."""
        raw = self.raw(points)
        return dense.activate_density(raw[:, 0]), raw[:, 1:].sigmoid()

    def raw(self, points: Tensor) -> Tensor:
        """Raw density and colour at world points [P, 3], [P, 4]."""
        unit = (points / SCENE_BOUND + 1) / 2
        return self.fused(unit).float() if self.fused is not None else self.network(self.encode(unit))

    def encode(self, unit: Tensor) -> Tensor:
        """Features of all levels at points [P, 3] in the unit cube, [P, levels · features]; unused levels are zero."""
        used = [side <= max(self.resolution, self.config.base) for side in self.sides]
        features = [
            interpolate(table, side, unit) if use else unit.new_zeros(len(unit), table.shape[1])
            for table, side, use in zip(self.tables, self.sides, used)
        ]
        return torch.cat(features, -1)

    def roughness(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`DenseGrid.roughness` by differences of random neighbours a node apart."""
        points = SCENE_BOUND * (
            2 * torch.rand(4096, 1, 3, generator=generator, device=generator.device).to(self.device) - 1
        )
        axes, pairs = torch.eye(3), list(combinations(range(3), 2))
        steps = torch.cat([torch.zeros(1, 3), axes, -axes, torch.stack([axes[a] + axes[b] for a, b in pairs])])
        raw = self.raw((points + self.spacing * steps.to(self.device)).view(-1, 3)).view(-1, len(steps), 4)
        middle, ahead, behind, corner = raw.split([1, 3, 3, 3], 1)
        straight = (ahead - 2 * middle + behind)[..., 0]
        sides = torch.stack([ahead[:, a, 0] + ahead[:, b, 0] for a, b in pairs], 1)
        twisted = corner[..., 0] - sides + middle[..., 0]
        bending = straight.square() + 2 * twisted.square()
        return bending.sum(1).mean(), (ahead - middle)[..., 1:].square().sum((1, 2)).mean()


def interpolate(table: Tensor, side: int, unit: Tensor) -> Tensor:
    """Trilinear interpolation of one level at points [P, 3] in the unit cube, [P, features].

    Args:
        table: entries [T, features]; a level of at most T nodes is stored densely, x fastest, others are hashed.
        side: nodes along a side, on the cube's corners too.
    """
    nodes = unit.clamp(0, 1) * (side - 1)
    low = nodes.floor().clamp(max=side - 2)
    fraction = nodes - low
    corners = low.long()[:, None] + CORNERS.to(unit.device)  # [P, 8, 3]
    if side**3 <= len(table):
        index = corners[..., 0] + side * (corners[..., 1] + side * corners[..., 2])
    else:
        x, y, z = (corners[..., axis] * PRIMES[axis] for axis in range(3))
        index = (x ^ y ^ z) % len(table)
    weights = torch.where(CORNERS.to(unit.device) == 1, fraction[:, None], 1 - fraction[:, None]).prod(-1)
    return (weights[..., None] * F.embedding(index, table)).sum(1)


def fused_network(config: HashGrid.Config, ratio: float) -> nn.Module | None:
    """The same by tiny-cuda-nn, or None where it or CUDA is missing. All its levels are in use from the start."""
    if not torch.cuda.is_available():
        return None
    try:
        import tinycudann
    except ImportError:
        return None
    encoding = {
        "otype": "HashGrid",
        "n_levels": config.levels,
        "n_features_per_level": config.features,
        "log2_hashmap_size": config.log2_entries,
        "base_resolution": config.base,
        "per_level_scale": ratio,
    }
    network = {
        "otype": "FullyFusedMLP",
        "activation": "ReLU",
        "output_activation": "None",
        "n_neurons": config.hidden,
        "n_hidden_layers": 1,
    }
    return tinycudann.NetworkWithInputEncoding(3, 4, encoding, network)
