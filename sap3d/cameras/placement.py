"""From the world in which a field was fitted to the one of its results: size and turn, which photos leave open."""

from dataclasses import dataclass

import torch
import trimesh
from torch import Tensor

from sap3d.cameras.maths import wrap_angle


@dataclass(frozen=True)
class Placement:
    """The results' world is `scale` times as large, and turned by `turn` radians about z."""

    scale: float = 1.0
    turn: float = 0.0

    def cameras(self, cameras: Tensor) -> Tensor:
        """Cameras (elevation, azimuth, radius, …) of the results' world, [N, ≥ 3]."""
        azimuth, radius = wrap_angle(cameras[:, 1:2] + self.turn), cameras[:, 2:3] * self.scale
        return torch.cat([cameras[:, :1], azimuth, radius, cameras[:, 3:]], 1)

    def mesh(self, mesh: trimesh.Trimesh) -> trimesh.Trimesh:
        """The mesh, moved in place into the results' world."""
        turn = trimesh.transformations.rotation_matrix(self.turn, (0, 0, 1))
        return mesh.apply_scale(self.scale).apply_transform(turn)

    def inverse(self) -> "Placement":
        """From the results' world back."""
        return Placement(1 / self.scale, -self.turn)
