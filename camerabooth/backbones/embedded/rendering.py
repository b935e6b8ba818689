"""Renders of the embedded model's field, differentiable in it and in the cameras."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from camerabooth.backbones.embedded.volume import Field, blended, sample_grid, turned
from sap3d.cameras import maths as cam
from sap3d.cameras.maths import SCENE_BOUND
from sap3d.field import grid as grids

GROUP = 4  # samples of a ray in a row that have one colour, looked up where they weigh most
COARSE = 64  # side of an image that says where a larger one shows anything
FAINT = 0.01  # opacity that is something
NEGLIGIBLE = 1e-4  # weight up to which a group's colour does not count, but in training
EVEN = 1e-4  # weight that each sample of a group has at least in the choice of that point


@dataclass
class View:
    """A rendered field; P pixels of M targets."""

    image: Tensor  # colour on white and opacity, [B, M, P, 4]
    features: Tensor  # [B, M, P, C], zero where nothing is
    depth: Tensor  # expected depth relative to the camera's distance, in units of SCENE_BOUND, [B, M, P]
    weights: Tensor  # of the samples, [B, M, P, S]
    sample_depths: Tensor  # relative like `depth`, [B, M, P, S]


def render(
    field: Field, cameras: Tensor, pixels: Tensor, samples: int, generator: torch.Generator | None = None
) -> View:
    """Render pixels of a field's objects on white.

    Args:
        cameras: targets [B, M, ≥ 3], in the world.
        pixels: normalised image coordinates, [P, 2] or [B, M, P, 2].
        samples: samples a ray, a multiple of GROUP.
        generator: jitters the samples within their bins (training); None takes the bins' centres.
    """
    cameras = turned(cameras, field.azimuth)
    batch, targets = cameras.shape[:2]
    origins, directions = cam.rays(cameras, pixels.expand(batch, targets, *pixels.shape[-2:]))
    near, far = grids.ray_interval(origins, directions)
    if generator is None:
        offsets = torch.full((samples,), 0.5)
    else:
        offsets = torch.rand(*near.shape, samples, generator=generator, device=generator.device)
    fractions = (torch.arange(samples, device=near.device) + offsets.to(near.device)) / samples
    depths = near[..., None] + (far - near)[..., None] * fractions

    def places(depths: Tensor) -> Tensor:
        return (origins[..., None, :] + depths[..., None] * directions[..., None, :]).reshape(batch, -1, 3)

    spacing = (far - near) * directions.norm(dim=-1) / samples
    density = sample_grid(field.density, places(depths)).reshape(depths.shape)
    weights, _ = grids.composite(grids.activate_density(density) * spacing[..., None])
    grouped = weights.unflatten(-1, (-1, GROUP))
    share = (grouped + EVEN) / (grouped + EVEN).sum(-1, keepdim=True)
    points = places((share * depths.unflatten(-1, (-1, GROUP))).sum(-1))
    grouped = grouped.sum(-1)
    if batch == 1 and not torch.is_grad_enabled():
        shown = (grouped.flatten() > NEGLIGIBLE).nonzero()[:, 0]
        values = _values(field, points[:, shown])
        values = values.new_zeros(1, points.shape[1], values.shape[-1]).index_copy(1, shown, values)
    else:
        values = _values(field, points)
    rendered = torch.einsum("...s,...sc->...c", grouped, values.unflatten(1, (*near.shape[1:], -1)))
    opacity = weights.sum(-1, keepdim=True)
    image = torch.cat([rendered[..., :3] + 1 - opacity, opacity], -1)
    relative = (depths - cameras[..., None, None, 2]) / SCENE_BOUND
    return View(image, rendered[..., 3:], (weights * relative).sum(-1), weights, relative)


def _values(field: Field, points: Tensor) -> Tensor:
    """Colours and features at points [B, P, 3] of the grid's frame, [B, P, 3 + C]."""
    own, own_logit, features = sample_grid(field.values, points).tensor_split([3, 4], -1)
    return torch.cat([blended(field, points, own, own_logit), features], -1)


def render_image(field: Field, camera: Tensor, size: int, samples: int) -> Tensor:
    """A whole image of one object's field from one camera [≥ 3]: colour on white and opacity, [4, size, size].

    Of one larger than COARSE only pixels near something in a COARSE one are rendered.
    """
    pixels = cam.pixel_grid(size, camera.device)
    if size <= COARSE:
        return render(field, camera[None, None], pixels, samples).image[0, 0].T.unflatten(-1, (size, size))
    coarse = render_image(field, camera, COARSE, samples)[3]
    near = F.max_pool2d((coarse > FAINT).float()[None], 3, stride=1, padding=1)
    shown = F.interpolate(near[None], size=(size, size))[0, 0].flatten() > 0
    image = torch.ones(size * size, 4, device=camera.device)
    image[:, 3] = 0
    image[shown] = render(field, camera[None, None], pixels[shown], samples).image[0, 0]
    return image.T.unflatten(-1, (size, size))
