"""What belongs to one object: features that are added to its volume, fitted to all of its photos at once.

Each photo is rendered from the colours of the others and the network's own: its own colours would be right at any
depth, and say nothing about the shape. The networks stay as they are, so what photos do not show stays as likely as
before. The cameras move along, as in BARF (arXiv 2104.06405).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from tqdm import trange

from camerabooth.backbones.embedded.network import Reconstructor
from camerabooth.backbones.embedded.rendering import render
from camerabooth.backbones.embedded.volume import Field, turned
from sap3d.cameras import maths as cam
from sap3d.cameras.poses import PoseTable
from sap3d.cameras.symmetry import repeated
from sap3d.runs.devices import step_generator

LEFT_OUT = -30.0  # logit of a source that is not to be seen
MASK_WEIGHT = 0.5  # of opacity beside colour, as in pretraining


@dataclass(frozen=True)
class InstanceFit:
    """How features and cameras are fitted."""

    steps: int = 80
    rays: int = 1024  # a step, over all photos
    rate: float = 0.1  # of Adam, for the features …
    pose_rate: float = 2e-3  # … and for the cameras, radians (and units of radius) a step; 0 holds them
    warmup_steps: int = 5


def fit_instance(
    network: Reconstructor, images: Tensor, cameras: Tensor, order: int, options: InstanceFit, seed: int
) -> tuple[Tensor, Tensor]:
    """Fit features of one object to two or more views.

    Args:
        images: colour on white and alpha in [0, 1], [N, 4, S, S]; cameras: theirs, [N, ≥ 3].
        order: of the object's symmetry: the views count from all sides that look alike.

    Returns:
        Features in the world's frame [C, G, G, G], and the cameras before every step and after the last, [steps + 1, N,
        ≥ 3].
    """
    views, from_cameras = repeated(images, cameras, order)
    latents, count = views[None] * 2 - 1, len(views)
    with torch.no_grad():
        lifted = network.volume.lift(latents, from_cameras[None], network.encode(latents))
    features = nn.Parameter(torch.zeros_like(lifted.volume[0], dtype=torch.float32))
    poses = PoseTable(cameras).to(images.device)
    groups = [{"params": [features], "lr": options.rate}, {"params": poses.parameters(), "lr": options.pose_rate}]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    ramp = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / options.warmup_steps) * (1 - 0.9 * step / options.steps)
    )
    way = [poses.cameras().to(cameras)]
    truth, grid = views.flatten(2).transpose(1, 2), cam.pixel_grid(images.shape[-1], images.device)
    for step in trange(options.steps, desc="fitting the object's features", leave=False, mininterval=1):
        generator = step_generator(seed, step)
        pixels = torch.randint(len(grid), (count, options.rays // count), generator=generator).to(images.device)
        placed = repeated(images, poses(), order)[1]
        field = network.volume.field(lifted, with_features=False, instance=features)
        field = others_fields(replace(field, cameras=turned(placed[None], lifted.azimuth)))
        rendered = render(field, placed[:, None], grid[pixels][:, None], network.config.samples, generator).image[:, 0]
        errors = (rendered - truth.gather(1, pixels[..., None].expand(-1, -1, 4))).square()
        optimizer.zero_grad()
        (errors[..., :3].mean() + MASK_WEIGHT * errors[..., 3].mean()).backward()
        optimizer.step()
        ramp.step()
        poses.project()
        way.append(poses.cameras().to(cameras))
    return features.detach(), torch.stack(way)


def others_fields(field: Field) -> Field:
    """One object's field N times, where the n-th does not see the n-th of its N sources."""
    count = field.images.shape[1]
    parts = {name: each.expand(count, *each.shape[1:]) for name, each in vars(field).items()}
    own = torch.eye(count, dtype=torch.bool, device=field.wish.device)[:, :, None, None, None]
    return Field(**parts | {"wish": parts["wish"].masked_fill(own, LEFT_OUT)})
