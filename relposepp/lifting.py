"""From images to cylinders: a CNN lifts a view to a frustum of features, which is resampled around the vertical axis.

A cylinder lives in the view's own azimuth frame: its camera stands at azimuth 0. Turning the camera about the object
by an angle therefore shifts the cylinder's content by that angle, which is what correlation.py looks for. A view's
features hang on its elevation and radius through projective geometry alone, so a small network need not learn it
(compare DVMNet, arXiv 2403.13683).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sap3d.cameras import maths as cam
from sap3d.cameras.maths import SCENE_BOUND
from sap3d.imagenet import CHANNELS, imagenet_features

CYLINDER_EXTENT = 0.6  # radius and half height: objects lie inside the unit cube and a sphere of this radius


def cylinder_points(rings: int, levels: int, sectors: int) -> Tensor:
    """Cell centres of a cylinder about the z axis, [rings, levels, sectors, 3]; sector k is at azimuth 2πk/sectors."""
    distance = (torch.arange(rings) + 0.5) / rings * CYLINDER_EXTENT
    height = ((torch.arange(levels) + 0.5) / levels * 2 - 1) * CYLINDER_EXTENT
    azimuth = torch.arange(sectors) * (2 * math.pi / sectors)
    rho, z, phi = torch.meshgrid(distance, height, azimuth, indexing="ij")
    return torch.stack([rho * phi.cos(), rho * phi.sin(), z], -1)


def facing(elevation: Tensor, radius: Tensor, fields_of_view: Tensor | None = None) -> Tensor:
    """Cameras at azimuth 0 from elevations [V] and the radii [V] of `plain` cameras, [V, 3]; with fields of view, [V,
    7]."""
    zero = torch.zeros_like(elevation)
    if fields_of_view is None:
        return torch.stack([elevation, zero, radius], -1)
    radius = radius * cam.TAN_HALF_FOV / (fields_of_view / 2).tan()
    return torch.stack([elevation, zero, radius, zero, zero, zero, fields_of_view], -1)


def resample_frustum(frustum: Tensor, cameras: Tensor, points: Tensor) -> Tensor:
    """Trilinear samples of frustum features at world points, seen from cameras at azimuth 0; zero outside.

    Args:
        frustum: [V, C, D, H, W]: D depth bins of equal size that span radius ± SCENE_BOUND, rows from the image's top.
        cameras: of `facing`, [V, ≥ 3].
        points: [..., 3].

    Returns:
        [V, C, ...].
    """
    pixels, depth = cam.project(cameras, points.reshape(1, -1, 3))
    relative_depth = (depth - cameras[:, 2:3]) / SCENE_BOUND
    coordinates = torch.stack([pixels[..., 0], -pixels[..., 1], relative_depth], -1)
    samples = F.grid_sample(frustum, coordinates[:, :, None, None], align_corners=False)
    return samples.reshape(*frustum.shape[:2], *points.shape[:-1])


class Residual(nn.Module):
    """Pre-activation residual block; with `circular` the columns close to a ring."""

    def __init__(self, channels: int, circular: bool = False):
        super().__init__()
        self.circular = circular
        self.norm = nn.GroupNorm(8, channels)
        padding = (1, 0) if circular else 1
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=padding)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=padding)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        wrap = wrap_columns if self.circular else nn.Identity()
        y = self.conv1(wrap(F.relu(self.norm(x))))
        return x + self.conv2(wrap(F.relu(y)))


def wrap_columns(x: Tensor, width: int = 1) -> Tensor:
    """Pad the last axis on both sides, circularly."""
    return torch.cat([x[..., -width:], x, x[..., :width]], -1)


@dataclass
class Seen:
    """What `ImageEncoder` makes of V views."""

    fine: Tensor  # [V, 64, 16, 16]
    coarse: Tensor  # [V, 128, 8, 8]
    known: Tensor  # the last of ImageNet's features, [V, 320, 4, 4]
    summary: Tensor  # [V, 128]


class ImageEncoder(nn.Module):
    """128×128 RGB + mask → what is `Seen`, and frustum features at 16×16.

    What is learned here sees the image at 64×64; ImageNet's features (imagenet.py) see all of it and are added on the
    way.
    """

    def __init__(self, features: int, depth_bins: int):
        super().__init__()
        self.features = features
        self.known = nn.ModuleList(
            [nn.Sequential(nn.GroupNorm(8, of), nn.Conv2d(of, to, 1)) for of, to in zip(CHANNELS, (64, 128, 128))]
        )
        for _, layer in self.known:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.stem = nn.Sequential(
            nn.Conv2d(4, 32, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1)
        )
        self.fine = nn.Sequential(Residual(64), Residual(64))
        self.down = nn.Conv2d(64, 128, 3, stride=2, padding=1)
        self.coarse = nn.Sequential(Residual(128), Residual(128))
        self.summary = nn.Sequential(nn.Linear(2 * 128, 128), nn.ReLU())
        self.context = nn.Linear(128, 64)
        self.up = nn.Conv2d(128, 64, 1)
        self.merge = Residual(64)
        self.lift = nn.Conv2d(64, features * depth_bins, 1)

    def forward(self, images: Tensor) -> Seen:
        images = images.contiguous(memory_format=torch.channels_last)
        pretrained = imagenet_features(images[:, :3])
        known = [add(found) for add, found in zip(self.known, pretrained)]
        fine = self.fine(self.stem(F.avg_pool2d(images, 2) * 2 - 1) + known[0])
        coarse = self.coarse(self.down(fine) + known[1])
        pooled = torch.cat([coarse.mean((2, 3)), coarse.amax((2, 3))], -1)
        return Seen(fine, coarse, pretrained[2], self.summary(pooled) + known[2].mean((2, 3)))

    def lifted(self, seen: Seen) -> Tensor:
        """Frustum features, [V, features, depth bins, 16, 16]."""
        fine, coarse, summary = seen.fine, seen.coarse, seen.summary
        up = F.interpolate(self.up(coarse), scale_factor=2, mode="nearest")
        merged = self.merge(fine + up + self.context(summary)[..., None, None])
        return self.lift(F.relu(merged)).unflatten(1, (self.features, -1))


class CylinderNetwork(nn.Module):
    """Frustum → features on a cylinder; convolutions over height and azimuth, circular in azimuth.

    Rings are channels: what lies at a distance from the axis has no translation symmetry in that distance.
    """

    def __init__(self, features: int, rings: int, levels: int, sectors: int, width: int, blocks: int, out: int):
        super().__init__()
        points = cylinder_points(rings, levels, sectors)
        self.register_buffer("points", points, persistent=False)
        # Where a cell lies relative to the viewer says how far to trust it.
        direction = torch.stack([points[-1, ..., 0], points[-1, ..., 1], points[-1, ..., 2]]) / CYLINDER_EXTENT
        self.register_buffer("position", direction, persistent=False)
        self.enter = nn.Conv2d(features * rings + 4, width, 3, padding=(1, 0))
        self.blocks = nn.Sequential(*[Residual(width, circular=True) for _ in range(blocks)])
        self.norm = nn.GroupNorm(8, width)
        self.leave = nn.Conv2d(width, out, 1)

    def forward(self, frustum: Tensor, cameras: Tensor) -> Tensor:
        """frustum [V, C, D, H, W] and cameras of `facing` [V, ≥ 3] → [V, out, levels, sectors]."""
        with torch.autocast(frustum.device.type, enabled=False):
            cells = resample_frustum(frustum.float().contiguous(), cameras, self.points).flatten(1, 2)
        position = self.position.expand(len(cells), -1, -1, -1)
        height = cameras[:, 0].sin()[:, None, None, None].expand(-1, 1, *cells.shape[2:])
        x = torch.cat([cells, position, height], 1).contiguous(memory_format=torch.channels_last)
        x = self.blocks(self.enter(wrap_columns(x)))
        return self.leave(F.relu(self.norm(x)))
