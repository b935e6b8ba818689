"""Volume rendering that evaluates the field only where there may be something.

The occupancy holds, for every node of the grid, whether a node around it is denser than a threshold. Trilinear
interpolation does not exceed its corners, so a sample whose nearest node is unoccupied has a density below the
threshold, and leaving it out changes a ray by next to nothing. Samples are drawn as dense rows [P, S]; the occupied
ones alone are packed and evaluated.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from sap3d.cameras import maths as cam
from sap3d.cameras.maths import SCENE_BOUND
from sap3d.field.grid import DENSITY_SCALE, DENSITY_SHIFT, composite, ray_interval


@dataclass
class Rendering:
    """Rays [P], or images [H, W] of them."""

    color: Tensor  # on the background, [..., 3]
    opacity: Tensor  # [...]
    depth: Tensor  # expected depth, premultiplied by the opacity, [...]
    distortion: Tensor | None = None  # Mip-NeRF 360's distortion of each ray's weights, [P]


class CulledRenderer(nn.Module):
    """Renders a geometry with a material before a background."""

    @dataclass
    class Config:
        samples: int = 48  # a ray in training, between the first and the last occupied place, and at most
        samples_per_node: float = 1.5  # as many for each node along the grid's side
        image_samples: int = 64  # samples a ray of an image, between the first and the last occupied place
        min_opacity: float = 1e-2  # opacity over one node's spacing from which a node counts as occupied
        margin: int = 2  # nodes by which occupied space is widened in training, so that surfaces may move
        smallest: float = 0.02  # pieces below this share of the largest one's volume are floaters

    def __init__(self, config: Config, geometry: nn.Module, material: nn.Module, background: nn.Module):
        super().__init__()
        self.config, self.geometry, self.material, self.background = config, geometry, material, background
        self.occupancy: Tensor | None = None  # [R, R, R] bool; None: everywhere
        self.floor = -math.inf  # height below which there is nothing

    @torch.no_grad()
    def update_occupancy(self, margin: int | None = None) -> None:
        """Take the occupancy from the geometry as it is now; `margin` defaults to the one for training."""
        width = 2 * (1 + (self.config.margin if margin is None else margin)) + 1
        density = -torch.log1p(torch.tensor(-self.config.min_opacity)) / self.geometry.spacing / DENSITY_SCALE
        threshold = density.expm1().log() - DENSITY_SHIFT  # softplus, undone
        occupied = (self.geometry.grid[:, :1] > threshold).float()
        for axis in range(3):  # a box maximum is separable
            kernel = [1, 1, 1]
            kernel[axis] = width
            occupied = F.max_pool3d(occupied, kernel, 1, [size // 2 for size in kernel])
        self.occupancy = occupied[0, 0] > 0

    def drop_floaters(self) -> None:
        """Leave small pieces of matter that touch nothing else out of the occupancy, so that no image shows them."""
        occupied = self.occupancy.cpu().numpy()
        self.occupancy = torch.from_numpy(occupied & ~floaters(occupied, self.config.smallest)).to(self.occupancy)

    def occupied(self, points: Tensor) -> Tensor:
        """Whether the field may be dense at points [..., 3], [...]."""
        if self.occupancy is None:
            return self.above_floor(points) & (points.square().sum(-1) <= SCENE_BOUND**2)
        side = len(self.occupancy)
        node = ((points + SCENE_BOUND) * ((side - 1) / (2 * SCENE_BOUND)) + 0.5).int().clamp_(0, side - 1)
        x, y, z = node.unbind(-1)
        return self.above_floor(points) & self.occupancy.view(-1)[x + side * (y + side * z)]

    def above_floor(self, points: Tensor) -> Tensor:
        """Whether points [..., 3] are where there may be something, [...]."""
        return points[..., 2] >= self.floor

    def forward(
        self, origins: Tensor, directions: Tensor, generator: torch.Generator | None = None, samples: int | None = None
    ) -> Rendering:
        """Render rays, differentiably.

        Args:
            origins, directions: [P, 3] as of `sap3d.cameras.maths.rays`.
            generator: jitters the samples within their bins; None takes the bins' centres.
            samples: samples a ray; None: as the config says.
        """
        near, far = ray_interval(origins, directions)
        start, end = self._occupied_part(origins, directions, near, far, self.geometry.resolution // 2)
        near, far = near + start * (far - near), near + end * (far - near)
        active = (end > start).nonzero()[:, 0]
        everywhere = round(self.config.samples_per_node * self.geometry.resolution)
        samples = samples or min(everywhere, self.config.samples)
        optical, color, depths = self._march(
            origins[active], directions[active], near[active], far[active], samples, generator
        )
        weights, opacity = composite(optical)
        spread = distortion(weights, depths / (2 * SCENE_BOUND), (far - near)[active] / (2 * SCENE_BOUND * samples))
        packed = torch.cat([color(weights), torch.stack([opacity, (weights * depths).sum(-1), spread], -1)], -1)
        whole = torch.zeros(len(near), 6, device=near.device).index_copy(0, active, packed)
        color, opacity, depth, spread = whole.split([3, 1, 1, 1], -1)
        return Rendering(color + self.background(directions) * (1 - opacity), opacity[:, 0], depth[:, 0], spread[:, 0])

    @torch.no_grad()
    def _occupied_part(
        self, origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, samples: int
    ) -> tuple[Tensor, Tensor]:
        """Where each ray first and last is in an occupied place, as fractions of near … far, [P]; 0, 0 if nowhere."""
        fractions = (torch.arange(samples, device=near.device) + 0.5) / samples
        depths = near[:, None] + (far - near)[:, None] * fractions
        hit = self.occupied(origins[:, None] + depths[..., None] * directions[:, None])
        first = torch.where(hit, fractions, 2.0).amin(-1) - 1.5 / samples
        last = torch.where(hit, fractions, -1.0).amax(-1) + 1.5 / samples
        met = last > first
        return torch.where(met, first.clamp(min=0), 0.0), torch.where(met, last.clamp(max=1), 0.0)

    def _march(self, origins, directions, near, far, samples, generator=None):
        """Evaluate the occupied ones of evenly spaced samples.

        Returns:
            Optical depths [P, S], a function from weights [P, S] to summed colours [P, 3], and depths [P, S].
        """
        rays = len(near)
        if generator is None:
            offsets = near.new_full((samples,), 0.5)
        else:
            offsets = torch.rand(rays, samples, generator=generator, device=generator.device).to(near.device)
        bins = torch.arange(samples, device=near.device) + offsets
        depths = near[:, None] + bins * ((far - near) / samples)[:, None]
        with torch.no_grad():
            points = origins[:, None] + depths[..., None] * directions[:, None]
            flat = self.occupied(points).view(-1).nonzero()[:, 0]
        ray = flat // samples
        points = origins[ray] + depths.view(-1)[flat, None] * directions[ray]
        density, features = self.geometry(points)
        length = ((far - near) * directions.norm(dim=-1) / samples)[ray]
        optical = torch.zeros(rays * samples, device=near.device).index_put((flat,), density * length)
        rgb = self.material(features)

        def color(weights: Tensor) -> Tensor:
            packed = weights.reshape(-1)[flat, None] * rgb
            return torch.zeros(rays, 3, device=near.device).index_add(0, ray, packed)

        return optical.view(rays, samples), color, depths

    @torch.no_grad()
    def image(self, camera: Tensor, size: int) -> Rendering:
        """Render a whole image of a camera [3] without gradients.

        Rays that meet no occupied place are skipped; the others are marched in blocks between the first and the last
        such place and dropped once nothing behind them shows.
        """
        pixels = cam.pixel_grid(size, camera.device)
        origins, directions = cam.rays(camera, pixels)
        origins = origins.expand_as(directions)
        near, far = self._bounds(camera, size)
        active = (far > near).nonzero()[:, 0]
        color, opacity, depth = torch.zeros_like(directions), torch.zeros_like(near), torch.zeros_like(near)
        blocks = 4
        length = (far - near) / blocks
        for block in range(blocks):
            start = near[active] + block * length[active]
            optical, sum_color, depths = self._march(
                origins[active], directions[active], start, start + length[active], self.config.image_samples // blocks
            )
            weights, block_opacity = composite(optical)
            visible = 1 - opacity[active]
            color[active] += visible[:, None] * sum_color(weights)
            depth[active] += visible * (weights * depths).sum(-1)
            opacity[active] += visible * block_opacity
            active = active[opacity[active] < 0.999]
        color += (1 - opacity)[:, None] * self.background(directions)
        return Rendering(color.view(size, size, 3), opacity.view(size, size), depth.view(size, size))

    def _bounds(self, camera: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Depths between which each pixel's ray may meet something, [size²]; equal where it does not.

        Found on an image of a quarter of the side; widened by its neighbours' so that no ray between is cut.
        """
        coarse = -(-size // 4)
        origins, directions = cam.rays(camera, cam.pixel_grid(coarse, camera.device))
        near, far = ray_interval(origins, directions)
        start, end = self._occupied_part(origins.expand_as(directions), directions, near, far, self.geometry.resolution)
        first = torch.where(end > start, near + start * (far - near), torch.inf)
        last = torch.where(end > start, near + end * (far - near), -torch.inf)
        bounds = torch.stack([-first, last]).view(2, coarse, coarse)
        first, last = F.max_pool2d(bounds, 3, 1, 1).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, :size, :size]
        first, last = -first.reshape(-1), last.reshape(-1)
        return torch.where(last > first, first, 0.0), torch.where(last > first, last, 0.0)


def floaters(solid: np.ndarray, smallest: float) -> np.ndarray:
    """Where a solid, bool [R, R, R], has connected pieces of less than a share of the largest one's volume."""
    labels, _ = ndimage.label(solid)
    volumes = np.bincount(labels.ravel())
    volumes[0] = 0
    return solid & (volumes < smallest * volumes.max())[labels]


def distortion(weights: Tensor, middles: Tensor, extent: float | Tensor) -> Tensor:
    """Mip-NeRF 360's distortion loss (arXiv 2111.12077, eq. 15): small when a ray's weight lies in one place.

    Args:
        weights: [P, S].
        middles: where the samples lie, ascending, in units of the scene, [P, S].
        extent: width of a ray's samples in the same units, [P] or one for all.
    """
    # Σij wi wj |si − sj| by prefix sums, in O(S) memory.
    before = weights.cumsum(-1) - weights
    moment = (weights * middles).cumsum(-1) - weights * middles
    pairs = 2 * (weights * (middles * before - moment)).sum(-1)
    return pairs + weights.square().sum(-1) * extent / 3
