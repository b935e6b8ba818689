"""Joint fits of voxels and cameras to a few views: how well can camera configurations explain the images?

Many hypotheses are fitted in one batch, each to its own dense grid; cameras may move with the fit. The loss that is
left is stage 1's and stage 2's synthesis score. Compare iFusion (arXiv 2312.17250) and SparseAGS (arXiv 2412.03570).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from sap3d.cameras import maths as cam
from sap3d.cameras.maths import SCENE_BOUND
from sap3d.field import grid as voxels

ELEVATION_RANGE = (math.radians(-25), math.radians(75))
RADIUS_RANGE = (1.2, 2.6)
GRID_RATE = 0.25  # Adam's learning rate of raw grid values
TOTAL_VARIATION = 2e-3
PRIOR = 1e-4  # weight of the squared distance of elevations and radii from their estimates, in these units
PRIOR_SIGMA = (math.radians(10), 0.15)
# Of principal points, where they are free, from the middle: the bounding boxes of training views deviate by 0.056 and
# 0.045 from the object's own middle. They may go three times as far.
MIDDLE_SIGMA = 0.06
# Object size and distance are nearly the same thing in an image: without an anchor, fits drift away by 0.1 and more.
MEAN_RADIUS_SIGMA = 0.022


@dataclass
class Level:
    """Resolution and length of a joint fit."""

    resolution: int  # voxels a side
    size: int  # pixels a side
    steps: int
    pixels: int  # random pixels of a view and step
    samples: int  # along a ray
    pose_rate: float = 0.02  # peak learning rate of angles (radians) and radii; 0 holds the cameras


# A descent of cameras that start 10° or 20° off.
DESCENT = (
    # From new voxels, that have not learned the images in the wrong places yet.
    Level(resolution=16, size=32, steps=150, pixels=128, samples=16, pose_rate=0.04),
    Level(resolution=32, size=64, steps=60, pixels=320, samples=32, pose_rate=0.03),
    Level(resolution=32, size=64, steps=240, pixels=320, samples=32, pose_rate=0.03),
)


@dataclass
class Fit:
    """State of K joint fits."""

    grid: Tensor  # raw values, [K, 4, R, R, R]
    cameras: Tensor  # in the grids' worlds, [K, N, 3], or [K, N, 5] with free principal points
    losses: Tensor  # [K]

    def __getitem__(self, index: Tensor | list[int]) -> "Fit":
        return Fit(self.grid[index], self.cameras[index], self.losses[index])


def carve(images: Tensor, cameras: Tensor, resolution: int, view_weights: Tensor) -> Tensor:
    """Start of a fit: the soft visual hull with the views' mean colour, as raw grids [K, 4, R, R, R].

    Args:
        images: white-composited RGB + mask, [N, 4, S, S].
        cameras: [K, N, 3].
        view_weights: [K, N]; views of weight 0 do not carve.
    """
    axis = torch.linspace(-SCENE_BOUND, SCENE_BOUND, resolution)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    points = torch.stack([x, y, z], -1).view(1, -1, 3)
    soft = F.avg_pool2d(images, 5, 1, 2, count_include_pad=False)
    mask, color = 1.0, 0.0
    for view, image in enumerate(soft):
        seen = cam.sample_images(image.expand(len(cameras), -1, -1, -1), cameras[:, view], points)
        weight = view_weights[:, view, None, None]
        mask = (seen[:, 3:] * weight + 1 - weight).minimum(torch.as_tensor(mask))
        color = color + seen[:, :3] * weight / view_weights.sum(1)[:, None, None]
    density = -voxels.DENSITY_SHIFT + 6 * (mask - 0.6)
    raw = torch.cat([density, color.clamp(0.05, 0.95).logit()], 1)
    return raw.view(len(cameras), 4, resolution, resolution, resolution)


def pixel_loss(rendering: voxels.Rendering, target: Tensor) -> Tensor:
    """Squared colour and mask errors, [..., P], against targets [..., P, 4]."""
    color = (rendering.color - target[..., :3]).square().mean(-1)
    return color + (rendering.opacity - target[..., 3]).square()


def constrain(cameras: Tensor, start: Tensor) -> Tensor:
    """Bounded elevations and radii; the mean azimuth stays (the gauge).

    Voxels hold all views where they are. Were view 0's azimuth the gauge, it would stay wrong where it is: all others
    would have to turn with the voxels.
    """
    elevation = cameras[..., 0].clamp(*ELEVATION_RANGE)
    azimuth = cameras[..., 1] - (cameras[..., 1] - start[..., 1]).mean(1, keepdim=True)
    middles = cameras[..., 3:].clamp(-3 * MIDDLE_SIGMA, 3 * MIDDLE_SIGMA)
    return torch.cat([torch.stack([elevation, azimuth, cameras[..., 2].clamp(*RADIUS_RANGE)], -1), middles], -1)


@torch.enable_grad()
def joint_fit(
    images: Tensor,
    hypotheses: Tensor,
    level: Level,
    seed: int = 0,
    start: Tensor | None = None,
    estimates: Tensor | None = None,
    view_weights: Tensor | None = None,
) -> Fit:
    """Fit a voxel grid and the cameras of each hypothesis together.

    The fits do not influence each other: all see the same random pixels, and Adam works element by element.

    Args:
        images: white-composited RGB + mask in [0, 1], [N, 4, S, S].
        hypotheses: (elevation, azimuth, radius) in radians, [K, N, 3]; or [K, N, 5], principal points move, too.
        seed: of the random pixels.
        start: grids to go on from, [K, 4, R, R, R]; by default the carved hull.
        estimates: [N, 3] or [N, 5], whose elevations, radii and principal points are a weak prior; by default the
            hypotheses' own.
        view_weights: [K, N]; 0 leaves a view out of the fit.

    Returns:
        Fit of the K hypotheses in their order; the losses are over all pixels of all views.
    """
    generator = torch.Generator().manual_seed(seed)
    target = F.interpolate(images, size=(level.size,) * 2, mode="area")
    # Pixels on and around the object are drawn more often.
    density = 0.15 + 0.85 * F.max_pool2d(target[:, 3], 5, 1, 2).flatten(1)
    target = target.flatten(2).transpose(1, 2)
    pixels = cam.pixel_grid(level.size)
    if view_weights is None:
        view_weights = torch.ones(hypotheses.shape[:2])
    raw = carve(images, hypotheses, level.resolution, view_weights) if start is None else start
    raw = voxels.resize(raw, level.resolution).requires_grad_()
    moving = hypotheses.clone().requires_grad_(level.pose_rate > 0)  # their gradients take as long as the voxels' own
    estimates = hypotheses if estimates is None else estimates.expand_as(hypotheses)
    optimizer = torch.optim.Adam([{"params": [raw]}, {"params": [moving]}], betas=(0.9, 0.95))
    for step in range(level.steps):
        progress = step / level.steps
        # The grid gets a head start; both end softly.
        optimizer.param_groups[0]["lr"] = GRID_RATE * (1 - 0.8 * progress)
        optimizer.param_groups[1]["lr"] = level.pose_rate * min(1.0, 5 * progress) * (1 - 0.9 * progress)
        chosen = torch.multinomial(density, level.pixels, replacement=True, generator=generator)
        cameras = constrain(moving, hypotheses)
        rendering = voxels.render(raw, cameras, pixels[chosen], level.samples, generator)
        error = pixel_loss(rendering, target.gather(1, chosen[..., None].expand(-1, -1, 4))).mean(-1)
        loss = (error * view_weights).sum(1) / view_weights.sum(1)
        loss = loss + PRIOR * prior_cost(cameras, estimates) + TOTAL_VARIATION * voxels.total_variation(raw)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    cameras = constrain(moving, hypotheses).detach()
    raw = raw.detach()
    losses = view_losses(raw, cameras, target, level).mean(1) + PRIOR * prior_cost(cameras, estimates)
    return Fit(raw, cameras, losses)


def coarse_to_fine(images: Tensor, cameras: Tensor, levels: tuple[Level, ...], seed: int = 0) -> Fit:
    """One joint fit to views [N, 4, S, S], from cameras [N, 3], through levels that go on from each other's voxels."""
    grid, moved, start = None, cameras[None].cpu(), cameras[None].cpu()
    for level in tqdm(levels, desc="fitting voxels", leave=False):
        fit = joint_fit(images.cpu(), moved, level, seed, start=grid, estimates=start)
        grid, moved = fit.grid, fit.cameras
    return fit


@torch.no_grad()
def render_views(raw: Tensor, cameras: Tensor, size: int, samples: int) -> Tensor:
    """Views of one grid [4, R, R, R] at cameras [M, 3]: colour on white and opacity, [M, 4, size, size]."""
    pixels, views = cam.pixel_grid(size), []
    for camera in cameras:
        view = voxels.render(raw[None], camera[None, None], pixels, samples)
        views.append(torch.cat([view.color, view.opacity[..., None]], -1).reshape(size, size, 4).permute(2, 0, 1))
    return torch.stack(views)


def prior_cost(cameras: Tensor, estimates: Tensor) -> Tensor:
    """Squared distance of elevations, radii, the mean radius and principal points from their estimates, [K].

    In standard deviations.
    """
    difference = cameras - estimates
    single = (difference[..., [0, 2]] / torch.tensor(PRIOR_SIGMA)).square().mean((1, 2))
    if cameras.shape[-1] == 5:
        single = single + (difference[..., 3:] / MIDDLE_SIGMA).square().mean((1, 2))
    return single + (difference[..., 2].mean(1) / MEAN_RADIUS_SIGMA).square()


@torch.no_grad()
def view_losses(raw: Tensor, cameras: Tensor, target: Tensor, level: Level) -> Tensor:
    """Loss over all pixels of each view of each fit, [K, N].

    Args:
        raw: [K, 4, R, R, R].
        cameras: [K, N, 3].
        target: [N, S², 4], or [1, S², 4] for one image seen by all cameras.
    """
    pixels = cam.pixel_grid(level.size)
    losses = [
        pixel_loss(voxels.render(grid[None], camera[None], pixels, level.samples), target).mean(-1)
        for grid, camera in zip(raw, cameras)
    ]
    return torch.cat(losses)
