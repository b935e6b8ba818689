"""What a target view knows of its sources: features lifted into the target's frustum, and the sources warped into it.

Source features are unprojected into the frustum of the target camera and fused over any number of sources; a small
3-D convolution turns agreement between sources, and shape learned from data, into a distribution over depth. Its
softmax collapses the volume to an image of features, and its expectation warps the source images at full resolution.
Everything is differentiable in the cameras. After the multi-view conditioning of EscherNet (arXiv 2402.03908), with
geometry in the place of learned camera attention.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camerabooth.backbones.interface import Condition, Sources
from sap3d.cameras import maths as cam
from sap3d.cameras.maths import SCENE_BOUND

GEOMETRY = 4  # numbers that describe how a source sees a point, see `_look_up`
BORDER = 0.1  # width of the ramp at a source image's border, in normalised image coordinates
VARIANCES = 14  # feature channels whose variance over the sources enters the volume


@dataclass
class FrustumCondition(Condition):
    """What lies in the targets' frusta."""

    lifted: Tensor  # features of the collapsed frustum, [B · M, L, S/4, S/4]
    warped: Tensor  # fused source colour and alpha, their disagreement, and depth, [B · M, 6, S, S]


class SourceEncoder(nn.Module):
    """Images [B, 4, S, S] → features [B, channels, S/4, S/4]."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(4, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 4, stride=2, padding=1),
            nn.GroupNorm(8, 64),
            nn.SiLU(),
            nn.Conv2d(64, 96, 4, stride=2, padding=1),
            nn.GroupNorm(8, 96),
            nn.SiLU(),
            nn.Conv2d(96, 96, 3, padding=1),
            nn.GroupNorm(8, 96),
            nn.SiLU(),
            nn.Conv2d(96, channels, 3, padding=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class Lifting(nn.Module):
    """Sources and target cameras → FrustumCondition."""

    def __init__(self, channels: int, volume_channels: int, depths: int, collapsed_channels: int):
        super().__init__()
        self.depths = depths
        self.geometry = nn.Linear(GEOMETRY, channels)
        self.score = nn.Linear(channels, 1)
        fused = channels + VARIANCES + 2
        self.volume_in = nn.Conv3d(fused, volume_channels, 3, padding=1)
        self.volume_out = nn.Conv3d(volume_channels, volume_channels, 3, padding=1)
        self.depth_logits = nn.Conv3d(volume_channels, 1, 1)
        self.flatten = nn.Conv2d(volume_channels * depths, collapsed_channels, 1)
        # Sixteen depth corrections for each cell of the coarse grid sharpen the silhouettes of the warp.
        self.depth_detail = nn.Conv2d(volume_channels + collapsed_channels, 16, 3, padding=1)

    @property
    def out_channels(self) -> int:
        return self.volume_out.out_channels + self.flatten.out_channels

    def forward(self, sources: Sources, targets: Tensor) -> FrustumCondition:
        """`targets` are cameras [B, M, ≥ 3]."""
        batch, count = targets.shape[:2]
        size, views = sources.features.shape[-1], sources.cameras.shape[1]
        depths = self._plane_depths(targets)  # [B, M, D]
        points = _unproject(targets, cam.pixel_grid(size).to(targets), depths)  # [B, M, D·s², 3]
        features, geometry = _look_up(sources.features, sources.cameras, targets, points)  # [B, M, N, P, C | 4]
        shift = self.geometry(geometry)
        hidden = F.silu(features.to(shift.dtype) + shift)  # the largest tensor here: bf16 under autocast
        # A point outside a source's image is unlikely to be its business.
        scores = self.score(hidden)[..., 0].to(points.dtype) + (geometry[..., 2] - 1) * 4
        fused = self._fuse(hidden, scores, points, sources.instance)
        shape = (batch * count, self.depths, size, size)
        volume = F.silu(self.volume_in(fused.reshape(*shape, -1).permute(0, 4, 1, 2, 3)))
        volume = volume + F.silu(self.volume_out(volume))
        occupancy = self.depth_logits(volume)[:, 0].to(points.dtype).softmax(1)  # [B·M, D, s, s]
        collapsed = (volume * occupancy[:, None]).sum(2)
        lifted = torch.cat([collapsed, self.flatten(volume.flatten(1, 2))], 1)
        depth = (occupancy * depths.reshape(-1, self.depths, 1, 1)).sum(1, keepdim=True)
        scores = scores.reshape(batch * count, views, self.depths, size, size)
        pixel_scores = (scores * occupancy[:, None]).sum(2)
        warped = self._warp(sources, targets, depth, lifted, pixel_scores)
        return FrustumCondition(targets.flatten(0, 1), lifted, warped)

    def _plane_depths(self, targets: Tensor) -> Tensor:
        """Depths of the planes on which the target frustum is sampled, across the object's bounds, [B, M, D]."""
        steps = (torch.arange(self.depths).to(targets) + 0.5) / self.depths * 2 - 1
        return targets[..., 2:3] + steps * SCENE_BOUND

    def _fuse(self, hidden: Tensor, scores: Tensor, points: Tensor, instance: Tensor | None) -> Tensor:
        """Score-weighted mean and variance over the sources, with each point's height and distance to the axis.

        The mean has what the instance volume holds at the points added to it.
        """
        weights = scores.softmax(2)[..., None].to(hidden.dtype)  # over N
        mean = (weights * hidden).sum(2)
        deviation = hidden[..., :VARIANCES] - mean[:, :, None, ..., :VARIANCES]
        variance = (weights * deviation.square()).sum(2)
        if instance is not None:
            mean = mean + _sample_volume(instance, points).to(mean.dtype)
        place = torch.stack([points[..., 2], points[..., :2].square().sum(-1).add(1e-6).sqrt()], -1) / SCENE_BOUND
        return torch.cat([mean, variance, place.to(mean.dtype)], -1)

    def _warp(self, sources: Sources, targets: Tensor, depth: Tensor, lifted: Tensor, scores: Tensor) -> Tensor:
        """Sources seen from the targets through the expected depth, [B·M, 6, S, S]."""
        batch, count = targets.shape[:2]
        size, views = sources.images.shape[-1], sources.cameras.shape[1]
        detail = F.pixel_shuffle(self.depth_detail(lifted).to(depth.dtype).tanh(), 4) * (2 * SCENE_BOUND / self.depths)
        depth = F.interpolate(depth, size=(size, size), mode="bilinear", align_corners=False) + detail
        points = _unproject(targets, cam.pixel_grid(size).to(targets), depth.reshape(batch, count, 1, -1))
        colors, _ = _look_up(sources.images, sources.cameras, targets, points)  # [B, M, N, S², 4]
        weights = F.interpolate(scores, size=(size, size), mode="bilinear", align_corners=False).softmax(1)
        weights = weights.reshape(batch, count, views, -1, 1)
        mean = (weights * colors).sum(2)
        disagreement = (weights * (colors - mean[:, :, None]).square()).sum(2).mean(-1, keepdim=True)
        relative_depth = (depth.reshape(batch, count, -1, 1) - targets[..., None, 2:3]) / SCENE_BOUND
        warped = torch.cat([mean, disagreement, relative_depth], -1)
        return warped.reshape(batch * count, size, size, -1).permute(0, 3, 1, 2)


def _unproject(cameras: Tensor, pixels: Tensor, depths: Tensor) -> Tensor:
    """World points of pixels [P, 2] at depths.

    Args:
        cameras: [B, M, 3].
        depths: [B, M, D] (the same for all pixels) or [B, M, 1, P].

    Returns:
        [B, M, D · P, 3].
    """
    origins, directions = cam.rays(cameras, pixels.expand(*cameras.shape[:2], -1, -1))
    depths = depths[..., None] if depths.dim() == 3 else depths
    return (origins[:, :, None] + depths[..., None] * directions[:, :, None]).flatten(2, 3)


def _sample_volume(volume: Tensor, points: Tensor) -> Tensor:
    """Trilinear values [..., C] at points [..., 3] of a volume [C, R, R, R] (z, y, x) over the object's bounds.

    Outside, they are zero.
    """
    grid = (points / SCENE_BOUND).reshape(1, 1, 1, -1, 3)
    values = F.grid_sample(volume[None], grid, align_corners=False)
    return values[0, :, 0, 0].T.reshape(*points.shape[:-1], -1)


def _look_up(maps: Tensor, cameras: Tensor, targets: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Sample every source's map where it sees the points of every target.

    Args:
        maps: [B, N, C, s, s]; cameras: [B, N, 3]; targets: [B, M, 3]; points: [B, M, P, 3].

    Returns:
        Values [B, M, N, P, C] and view geometry [B, M, N, P, 4]: depth in the source relative to its radius, cosine
        of the angle between the two lines of sight, whether the source's image contains the point, and the depth in
        the target relative to its radius.
    """
    batch, views, channels = maps.shape[:3]
    count = points.shape[1]
    # All targets' points at once for each source: [B, N, M·P, 3].
    flat = points.flatten(1, 2)[:, None].expand(-1, views, -1, -1)
    pixels, depth = cam.project(cameras, flat)
    grid = torch.stack([pixels[..., 0], -pixels[..., 1]], -1).reshape(batch * views, count, -1, 2)
    values = F.grid_sample(maps.flatten(0, 1), grid, align_corners=False, padding_mode="border")
    values = values.reshape(batch, views, channels, count, -1).permute(0, 3, 1, 4, 2)

    def sight(positions: Tensor) -> Tensor:  # unit vectors from the points [B, M, ?, P, 3] to cameras
        return F.normalize(positions - points[:, :, None], dim=-1)

    source_position = cam.camera_positions(cameras)[:, None, :, None]
    target_position = cam.camera_positions(targets)[:, :, None, None]
    cosine = (sight(source_position) * sight(target_position)).sum(-1)
    # A ramp, not a step: a point that leaves the image must not make the loss jump.
    inside = ((1 - pixels.abs().amax(-1)) / BORDER).clamp(0, 1).reshape(batch, views, count, -1).transpose(1, 2)
    source_depth = ((depth - cameras[..., 2:3]) / SCENE_BOUND).reshape(batch, views, count, -1).transpose(1, 2)
    _, target_depth = cam.project(targets, points)
    target_depth = ((target_depth - targets[..., 2:3]) / SCENE_BOUND)[:, :, None].expand_as(cosine)
    return values, torch.stack([source_depth, cosine, inside, target_depth], -1)
