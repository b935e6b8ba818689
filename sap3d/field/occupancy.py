"""Where a field may be dense: what lets rays skip empty space.

Trilinear interpolation does not exceed its corners, so a point whose nearest node and all nodes around that are below a
density is below it, too, and leaving it out changes a ray by next to nothing.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from sap3d.cameras import maths as cam
from sap3d.cameras.maths import SCENE_BOUND
from sap3d.field.grid import DENSITY_SCALE, DENSITY_SHIFT, ray_interval
from sap3d.field.samples import first_and_last


@dataclass(frozen=True)
class Occupancy:
    """Space in which there may be something; by default all that is inside the sphere of radius SCENE_BOUND."""

    nodes: Tensor | None = None  # of a grid around which there may be something, bool [R, R, R], indexed [z, y, x]
    floor: float = -math.inf  # height below which there is nothing

    @classmethod
    @torch.no_grad()
    def of(cls, density: Tensor, min_opacity: float, margin: int, floor: float = -math.inf) -> "Occupancy":
        """Where a grid is dense.

        Args:
            density: raw, [R, R, R].
            min_opacity: over one node's spacing, from which a node is occupied.
            margin: nodes by which what is occupied is widened.
        """
        spacing = 2 * SCENE_BOUND / (len(density) - 1)
        least = -math.log1p(-min_opacity) / spacing / DENSITY_SCALE
        threshold = math.log(math.expm1(least)) - DENSITY_SHIFT  # softplus, undone
        occupied, width = (density > threshold).float()[None, None], 2 * (1 + margin) + 1
        for axis in range(3):  # a box maximum is separable
            kernel = [1, 1, 1]
            kernel[axis] = width
            occupied = F.max_pool3d(occupied, kernel, 1, [size // 2 for size in kernel])
        return cls(occupied[0, 0] > 0, floor)

    def to(self, device: torch.device) -> "Occupancy":
        return replace(self, nodes=None if self.nodes is None else self.nodes.to(device))

    def without_floaters(self, smallest: float) -> "Occupancy":
        """The same without pieces of less than a share of the largest one's volume that touch nothing else."""
        occupied = self.nodes.cpu().numpy()
        kept = torch.from_numpy(occupied & ~floaters(occupied, smallest)).to(self.nodes.device)
        return replace(self, nodes=kept)

    def contains(self, points: Tensor) -> Tensor:
        """Whether there may be something at points [..., 3], [...]."""
        if self.nodes is None:
            return self.above_floor(points) & (points.square().sum(-1) <= SCENE_BOUND**2)
        side = len(self.nodes)
        node = ((points + SCENE_BOUND) * ((side - 1) / (2 * SCENE_BOUND)) + 0.5).int().clamp_(0, side - 1)
        x, y, z = node.unbind(-1)
        return self.above_floor(points) & self.nodes.view(-1)[x + side * (y + side * z)]

    def packed(self) -> tuple[np.ndarray, float]:
        """For samples.py: nodes, uint8 [R³], none where all is occupied; and the floor."""
        nodes = np.empty(0, np.uint8) if self.nodes is None else self.nodes.cpu().numpy().view(np.uint8).reshape(-1)
        return nodes, self.floor

    def above_floor(self, points: Tensor) -> Tensor:
        """Whether points [..., 3] are above the floor, [...]."""
        return points[..., 2] >= self.floor

    @torch.no_grad()
    def span(self, origins: Tensor, directions: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """Depths between which rays [P, 3] may meet something, as many samples tell, [P]; 0, 0 where nowhere."""
        near, far = ray_interval(origins, directions)
        if near.device.type == "cpu":
            first, last = first_and_last(origins, directions, near, far, samples, *self.packed())
        else:
            numbers = torch.arange(samples, device=near.device)
            depths = near[:, None] + (far - near)[:, None] * ((numbers + 0.5) / samples)
            hit = self.contains(origins[:, None] + depths[..., None] * directions[:, None])
            first, last = torch.where(hit, numbers, samples).amin(-1), torch.where(hit, numbers, -1).amax(-1)
        length, met = (far - near) / samples, last >= 0
        start, end = near + (first - 1).clamp(min=0) * length, near + (last + 2).clamp(max=samples) * length
        return torch.where(met, start, 0.0), torch.where(met, end, 0.0)

    def image_span(self, camera: Tensor, size: int, samples: int) -> tuple[Tensor, Tensor]:
        """The same for all pixels of an image of a camera [≥ 3], [size²].

        Found on an image of a quarter of the side; widened by its neighbours' so that no ray between is cut.
        """
        coarse = -(-size // 4)
        origins, directions = cam.rays(camera, cam.pixel_grid(coarse, camera.device))
        near, far = self.span(origins.expand_as(directions), directions, samples)
        met = far > near
        bounds = torch.stack([torch.where(met, -near, -torch.inf), torch.where(met, far, -torch.inf)])
        wide = F.max_pool2d(bounds.view(2, coarse, coarse), 3, 1, 1)
        first, last = wide.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, :size, :size].reshape(2, -1)
        return torch.where(last > -first, -first, 0.0), torch.where(last > -first, last, 0.0)


def floaters(solid: np.ndarray, smallest: float) -> np.ndarray:
    """Where a solid, bool [R, R, R], has connected pieces of less than a share of the largest one's volume."""
    labels, _ = ndimage.label(solid)
    volumes = np.bincount(labels.ravel())
    volumes[0] = 0
    return solid & (volumes < smallest * volumes.max())[labels]
