"""Joint fits of voxels and cameras to a few views: how well can camera configurations explain the images?

Many hypotheses are fitted in one batch, each to its own dense grid; cameras may move with the fit. The loss that is
left is stage 1's and stage 2's synthesis score. Compare iFusion (arXiv 2312.17250) and SparseAGS (arXiv 2412.03570).
Fits are computed where the images are; hypotheses and what else a fit starts from must be there, too.
"""

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from sap3d.cameras import maths as cam
from sap3d.cameras.maths import SCENE_BOUND
from sap3d.cameras.poses import MAX_ROLL
from sap3d.field import grid as voxels
from sap3d.field.rendering import Rendering, render

ELEVATION_RANGE = (math.radians(-25), math.radians(88))
RADIUS_RANGE = (1.2, 2.6)  # of `plain` cameras
GRID_RATE = 0.25  # Adam's learning rate of raw grid values
TOTAL_VARIATION = 2e-3
PRIOR = 1e-4  # weight of the squared distance of elevations and radii from their estimates, in these units
PRIOR_SIGMA = (math.radians(10), 0.15)
# Of principal points, where they are free, from the middle: the bounding boxes of training views deviate by 0.056 and
# 0.045 from the object's own middle. They may go three times as far.
MIDDLE_SIGMA = 0.06
ROLL_SIGMA = math.radians(10)  # from their estimates, where rolls are free
VIEW_SIGMA = 0.25  # of the logarithm of the common focal length, where it is
VIEW_RANGE = 0.8  # so far it may go
# Object size and distance are nearly the same thing in an image: without an anchor, fits drift away by 0.1 and more.
MEAN_RADIUS_SIGMA = 0.022
BATCH = 16  # hypotheses, at most, that a thread fits at a time on the CPU


@dataclass
class Level:
    """Resolution and length of a joint fit."""

    resolution: int  # voxels a side
    size: int  # pixels a side
    steps: int
    pixels: int  # random pixels of a view and step
    samples: int  # along a ray
    pose_rate: float = 0.02  # peak learning rate of angles (radians) and radii; 0 holds the cameras
    free_view: bool = False  # whether the fields of view of cameras [..., 7] move, all by one factor of focal lengths


# Voxels are fitted to the views at held cameras: what is left of the loss judges the cameras.
HELD = Level(resolution=32, size=64, steps=120, pixels=320, samples=32, pose_rate=0.0)
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
    cameras: Tensor  # in the grids' worlds, [K, N, C]; see `joint_fit`
    losses: Tensor  # [K]

    def __getitem__(self, index: Tensor | list[int]) -> "Fit":
        return Fit(self.grid[index], self.cameras[index], self.losses[index])

    def cpu(self) -> "Fit":
        return Fit(self.grid.cpu(), self.cameras.cpu(), self.losses.cpu())


def carve(images: Tensor, cameras: Tensor, resolution: int, view_weights: Tensor) -> Tensor:
    """Start of a fit: the soft visual hull with the views' mean colour, as raw grids [K, 4, R, R, R].

    Args:
        images: white-composited RGB + mask, [N, 4, S, S].
        cameras: [K, N, ≥ 3].
        view_weights: [K, N]; views of weight 0 do not carve.
    """
    axis = torch.linspace(-SCENE_BOUND, SCENE_BOUND, resolution, device=images.device)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    points = torch.stack([x, y, z], -1).view(1, -1, 3)
    soft = F.avg_pool2d(images, 5, 1, 2, count_include_pad=False)
    mask, color = images.new_ones(()), images.new_zeros(())
    for view, image in enumerate(soft):
        seen = cam.sample_images(image.expand(len(cameras), -1, -1, -1), cameras[:, view], points)
        weight = view_weights[:, view, None, None]
        mask = (seen[:, 3:] * weight + 1 - weight).minimum(mask)
        color = color + seen[:, :3] * weight / view_weights.sum(1)[:, None, None]
    density = -voxels.DENSITY_SHIFT + 6 * (mask - 0.6)
    raw = torch.cat([density, color.clamp(0.05, 0.95).logit()], 1)
    return raw.view(len(cameras), 4, resolution, resolution, resolution)


def pixel_loss(rendering: Rendering, target: Tensor) -> Tensor:
    """Squared colour and mask errors, [..., P], against targets [..., P, 4]."""
    color = (rendering.color - target[..., :3]).square().mean(-1)
    return color + (rendering.opacity - target[..., 3]).square()


def constrain(cameras: Tensor, start: Tensor, free_view: bool = False) -> Tensor:
    """Bounded elevations, radii, principal points and rolls; the mean azimuth stays (the gauge).

    Fields of view stay, or move by one factor of all focal lengths; then the radii go with it, so that the object's
    size in the images does not change by that.

    Voxels hold all views where they are. Were view 0's azimuth the gauge, it would stay wrong where it is: all others
    would have to turn with the voxels.
    """
    elevation = cameras[..., 0].clamp(*ELEVATION_RANGE)
    azimuth = cameras[..., 1] - (cameras[..., 1] - start[..., 1]).mean(1, keepdim=True)
    middles = cameras[..., 3:5].clamp(-3 * MIDDLE_SIGMA, 3 * MIDDLE_SIGMA)
    if cameras.shape[-1] < 7:
        return torch.cat([torch.stack([elevation, azimuth, cameras[..., 2].clamp(*RADIUS_RANGE)], -1), middles], -1)
    before = start[..., 6] / 2
    shown = (cameras[..., 2] * before.tan() / cam.TAN_HALF_FOV).clamp(*RADIUS_RANGE)
    tangent = before.tan()
    if free_view:
        change = focal_change(cameras, start).clamp(-VIEW_RANGE, VIEW_RANGE)
        tangent = tangent * (-change).exp()[..., None]
    pose = torch.stack([elevation, azimuth, shown * cam.TAN_HALF_FOV / tangent], -1)
    rolls = cameras[..., 5].clamp(-MAX_ROLL, MAX_ROLL)
    return torch.cat([pose, middles, torch.stack([rolls, 2 * tangent.atan()], -1)], -1)


def focal_change(cameras: Tensor, start: Tensor) -> Tensor:
    """Mean logarithm of the focal lengths of cameras [..., N, 7] over those at the start, [...]."""
    return ((start[..., 6] / 2).tan() / (cameras[..., 6] / 2).tan()).log().mean(-1)


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
        hypotheses: (elevation, azimuth, radius) in radians, [K, N, 3]; or [K, N, 5] or [K, N, 7], whose principal
            points and rolls move, too; fields of view as the level says.
        seed: of the random pixels.
        start: grids to go on from, [K, 4, R, R, R]; by default the carved hull.
        estimates: [N, C] as the hypotheses, which are a weak prior on all but azimuths; by default the hypotheses' own.
        view_weights: [K, N]; 0 leaves a view out of the fit.

    Returns:
        Fit of the K hypotheses in their order; the losses are over all pixels of all views.
    """
    generator = torch.Generator(images.device).manual_seed(seed)
    target = F.interpolate(images, size=(level.size,) * 2, mode="area")
    # Pixels on and around the object are drawn more often.
    density = 0.15 + 0.85 * F.max_pool2d(target[:, 3], 5, 1, 2).flatten(1)
    target = target.flatten(2).transpose(1, 2)
    pixels = cam.pixel_grid(level.size, images.device)
    if view_weights is None:
        view_weights = images.new_ones(hypotheses.shape[:2])
    raw = carve(images, hypotheses, level.resolution, view_weights) if start is None else start
    raw = voxels.resize(raw, level.resolution).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    moving = hypotheses.clone().requires_grad_(level.pose_rate > 0)  # their gradients take as long as the voxels' own
    estimates = hypotheses if estimates is None else estimates.expand_as(hypotheses)
    groups, fused = [{"params": [raw]}, {"params": [moving]}], images.device.type == "cpu"
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95), fused=fused)
    for step in range(level.steps):
        progress = step / level.steps
        # The grid gets a head start; both end softly.
        optimizer.param_groups[0]["lr"] = GRID_RATE * (1 - 0.8 * progress)
        optimizer.param_groups[1]["lr"] = level.pose_rate * min(1.0, 5 * progress) * (1 - 0.9 * progress)
        chosen = torch.multinomial(density, level.pixels, replacement=True, generator=generator)
        cameras = constrain(moving, hypotheses, level.free_view)
        rendering = render(raw, cameras, pixels[chosen], level.samples, generator)
        error = pixel_loss(rendering, target.gather(1, chosen[..., None].expand(-1, -1, 4))).mean(-1)
        loss = (error * view_weights).sum(1) / view_weights.sum(1)
        loss = loss + PRIOR * prior_cost(cameras, estimates) + TOTAL_VARIATION * voxels.total_variation(raw)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    cameras = constrain(moving, hypotheses, level.free_view).detach()
    raw = raw.detach().contiguous()
    losses = view_losses(raw, cameras, target, level).mean(1) + PRIOR * prior_cost(cameras, estimates)
    return Fit(raw, cameras, losses)


def fit_all(
    images: Tensor,
    hypotheses: Tensor,
    level: Level,
    progress: tqdm,
    estimates: Tensor | None = None,
    start: Tensor | None = None,
    view_weights: Tensor | None = None,
) -> Fit:
    """`joint_fit` of many hypotheses: on the CPU in batches, one thread a batch, elsewhere all at once.

    Small tensors keep torch's own threads idle most of the time. A fit does not depend on what is in its batch.
    """

    def one_batch(rows: slice) -> Fit:
        grids, weights = (None if each is None else each[rows] for each in (start, view_weights))
        fit = joint_fit(images, hypotheses[rows], level, start=grids, estimates=estimates, view_weights=weights)
        progress.update(len(fit.losses) * level.steps)
        return fit

    if images.device.type != "cpu":
        return one_batch(slice(None))
    count, threads = len(hypotheses), torch.get_num_threads()
    size = math.ceil(count / (threads * math.ceil(count / (threads * BATCH))))
    return join(in_threads(one_batch, [slice(first, first + size) for first in range(0, count, size)]))


def in_threads(function: Callable, items: Iterable) -> list:
    """Map over items with as many threads as torch would use, each of which computes on its own."""
    with ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(function, items))


def join(fits: list[Fit]) -> Fit:
    """One Fit of all."""
    return Fit(*(torch.cat([getattr(fit, name) for fit in fits]) for name in ("grid", "cameras", "losses")))


def unexplained(images: Tensor, cameras: Tensor) -> float:
    """What new voxels at held cameras [N, C] leave of views [N, 4, S, S], as a share of what an empty field leaves.

    So it does not depend on how large the object is in its images.
    """
    return (joint_fit(images, cameras[None], HELD).losses / empty_loss(images)).item()


def empty_loss(images: Tensor) -> Tensor:
    """Loss of views [N, 4, S, S] when nothing is there."""
    target = F.interpolate(images, size=(HELD.size,) * 2, mode="area").movedim(1, -1)
    white, clear = torch.ones_like(target[..., :3]), torch.zeros_like(target[..., 3])
    return pixel_loss(Rendering(white, clear, clear), target).mean()


def coarse_to_fine(images: Tensor, cameras: Tensor, levels: tuple[Level, ...], seed: int = 0) -> Fit:
    """One joint fit to views [N, 4, S, S], from cameras [N, C], through levels that go on from each other's voxels."""
    grid, moved, start = None, cameras[None], cameras[None]
    for level in tqdm(levels, desc="fitting voxels", leave=False):
        fit = joint_fit(images, moved, level, seed, start=grid, estimates=start)
        grid, moved = fit.grid, fit.cameras
    return fit


def prior_cost(cameras: Tensor, estimates: Tensor) -> Tensor:
    """Squared distance of elevations, radii, the mean radius and what else is free from their estimates, [K].

    In standard deviations. Of single tilted views the estimates may be far off, so large distances count less.
    """
    difference = cam.plain(cameras) - cam.plain(estimates)
    squared = robust_square if cameras.shape[-1] > 5 else torch.square
    single = squared(difference[..., [0, 2]] / difference.new_tensor(PRIOR_SIGMA)).mean((1, 2))
    if cameras.shape[-1] > 3:
        single = single + ((cameras - estimates)[..., 3:5] / MIDDLE_SIGMA).square().mean((1, 2))
    if cameras.shape[-1] > 5:
        single = single + squared((cameras - estimates)[..., 5] / ROLL_SIGMA).mean(1)
        single = single + (focal_change(cameras, estimates) / VIEW_SIGMA).square()
    return single + (difference[..., 2].mean(1) / MEAN_RADIUS_SIGMA).square()


def robust_square(deviations: Tensor) -> Tensor:
    """Like the square where it is small, and like twice a logarithm where it is large (Cauchy's loss)."""
    return 2 * (deviations.square() / 2).log1p()


@torch.no_grad()
def view_losses(raw: Tensor, cameras: Tensor, target: Tensor, level: Level) -> Tensor:
    """Loss over all pixels of each view of each fit, [K, N].

    Args:
        raw: [K, 4, R, R, R].
        cameras: [K, N, C].
        target: [N, S², 4], or [1, S², 4] for one image seen by all cameras.
    """
    pixels = cam.pixel_grid(level.size, raw.device)
    losses = [
        pixel_loss(render(grid[None], camera[None], pixels, level.samples), target).mean(-1)
        for grid, camera in zip(raw, cameras)
    ]
    return torch.cat(losses)
