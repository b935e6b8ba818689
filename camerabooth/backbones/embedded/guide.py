"""What the denoiser is told of target views: the rendered field, and the sources warped through its depth."""

import torch
import torch.nn.functional as F
from torch import Tensor

from camerabooth.backbones.embedded.denoiser import PATCH, Guide
from camerabooth.backbones.embedded.rendering import View, render
from camerabooth.backbones.embedded.volume import Field, look_up, source_logits, turned
from sap3d.cameras import maths as cam
from sap3d.cameras.maths import SCENE_BOUND


def guide(field: Field, targets: Tensor, samples: int) -> tuple[Guide, View]:
    """The Guide of B · M targets, and the field's own view of them at half the images' side.

    Args:
        targets: cameras [B, M, ≥ 3].
        samples: of a ray.
    """
    side = field.images.shape[-1] // PATCH
    view = render(field, targets, cam.pixel_grid(side, targets.device), samples)
    opacity = view.image[..., 3]
    depth = torch.where(opacity > 0.05, view.depth / opacity.clamp(min=0.05), 0.0)
    rendered = torch.cat([view.image * 2 - 1, depth[..., None], view.features], -1)
    rendered = rendered.flatten(0, 1).transpose(1, 2).unflatten(-1, (side, side))
    warped = warp(field, targets, depth.unflatten(-1, (side, side)))
    return Guide(targets.flatten(0, 1), rendered, warped), view


def warp(field: Field, targets: Tensor, depth: Tensor) -> Tensor:
    """The field's sources seen from targets [B, M, ≥ 3] through relative depths [B, M, s, s].

    Each point's sources are weighted by the field's wish for them.

    Returns:
        Mean colour and alpha in [−1, 1], and the mean variance over the sources, [B · M, 5, S, S].
    """
    batch, count = targets.shape[:2]
    size, targets = field.images.shape[-1], turned(targets, field.azimuth)
    fine = F.interpolate(depth, size=(size, size), mode="bilinear", align_corners=False).flatten(2)
    origins, directions = cam.rays(targets, cam.pixel_grid(size, targets.device).expand(batch, count, -1, -1))
    distance = targets[..., 2:3] + fine * SCENE_BOUND
    points = (origins + distance[..., None] * directions).flatten(1, 2)
    pixels, logits = source_logits(field, points)
    colours = look_up(field.images, pixels)  # [B, N, 4, M · S²]
    weights = logits.softmax(1)[:, :, None]
    mean = (weights * colours).sum(1)
    variance = (weights * (colours - mean[:, None]).square()).sum(1).mean(1, keepdim=True)
    warped = torch.cat([mean, variance], 1).unflatten(-1, (count, size, size))
    return warped.transpose(1, 2).flatten(0, 1)
