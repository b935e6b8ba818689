"""What stage 1's network is trained on: sets of photo-like views, each jittered by itself, some of them turned."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor

from dataset.training_views import TrainingViews
from relposepp.attitude import LEVEL, ROLLS
from sap3d.cameras import maths as cam
from sap3d.images import turn


def view_sets(data: TrainingViews, rng: np.random.Generator, config: DictConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Random photo-like views: images [O, N, 4, 128, 128], cameras (elevation, azimuth, radius), [O, N, 3], and rolls,
    [O, N].

    The network knows one field of view, so a radius is the one at which the object would look as large with it. Pairs
    are of nearly upright views; their roll and principal points are what the network learns to bear.
    """
    batch = data.batch(rng, config.objects, config.views)
    radius = batch.cameras[..., 2:3] * cam.half_fov_tangents(batch.cameras) / cam.TAN_HALF_FOV
    cameras = torch.cat([batch.cameras[..., :2], radius], -1)
    return batch.images, cameras, batch.cameras[..., 5]


def turned_views(
    images: Tensor, elevation: Tensor, roll: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Some of views [V, 4, S, S], turned and mirrored, and their elevations and rolls, [count] each."""
    chosen = torch.randperm(len(images), generator=generator, device=images.device)[:count]
    images, elevation, roll = images[chosen], elevation[chosen], roll[chosen]
    mirrored = torch.rand(len(roll), generator=generator, device=images.device) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    roll = torch.where(mirrored, -roll, roll)
    wanted = ROLLS[0] + (ROLLS[-1] - ROLLS[0]) * torch.rand(len(roll), generator=generator, device=images.device)
    wanted = torch.where(torch.rand(len(roll), generator=generator, device=images.device) < LEVEL, roll, wanted)
    return turn(images, wanted - roll), elevation, wanted


def augment(images: Tensor, config: DictConfig, generator: torch.Generator) -> Tensor:
    """Jitter each view by itself: what separate photos of one object differ in.

    Args:
        images: white-composited RGB + mask, [V, 4, S, S].
        config: the `augment` part of train.yaml.
    """
    count = len(images)

    def uniform(limit: float, *shape: int) -> Tensor:
        return (torch.rand(count, *shape, generator=generator, device=images.device) * 2 - 1) * limit

    alpha = images[:, 3:]
    foreground = images[:, :3] - (1 - alpha)
    gain, offset = 1 + uniform(config.color, 3, 1, 1), uniform(config.brightness, 1, 1, 1)
    foreground = foreground * gain + offset * alpha
    foreground = torch.minimum(foreground.clamp(min=0), alpha)

    angle, zoom, shift = uniform(math.radians(config.roll)), 1 + uniform(config.scale), uniform(config.shift, 2)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(-1, 2, 2) * zoom[:, None, None]
    grid = F.affine_grid(torch.cat([turn, shift[..., None]], -1), list(images.shape), align_corners=False)
    moved = F.grid_sample(torch.cat([foreground, alpha], 1), grid, align_corners=False)
    soft = torch.rand(count, 1, 1, 1, generator=generator, device=images.device) < config.blur
    moved = torch.where(soft, F.avg_pool2d(moved, 3, 1, 1), moved)

    foreground, alpha = moved[:, :3], moved[:, 3:]
    level = torch.rand(count, 1, 1, 1, generator=generator, device=images.device) * config.noise
    noise = torch.randn(foreground.shape, generator=generator, device=images.device) * level * alpha
    return torch.cat([(foreground + noise).clamp(0, 1) + 1 - alpha, alpha], 1)
