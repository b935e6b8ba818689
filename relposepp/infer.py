"""Stage 1: initial poses of an object's first N photos.

    python relposepp/infer.py --type GSO_demo --object basket --views 5 --device cpu --seed 0

Writes ranked configurations to relposepp/experiments/<TYPE>/<OBJECT>_view_<N>/poses.json: the network's pairwise
azimuth distributions propose (search.py), a joint fit of voxels and cameras decides (verify.py).
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor

from relposepp.model import IMAGE_SIZE, RelativePose, load_model
from relposepp.search import distinct, quarter_turns, search
from relposepp.verify import Effort, verify
from sap3d import devices
from sap3d import images as image_io
from sap3d.errors import one_line_errors
from sap3d.options import stage_options
from sap3d.poses import write_poses
from sap3d.scene import read_images

CONFIG = Path(__file__).parent / "configs/infer.yaml"


@dataclass
class Poses:
    """Ranked configurations of N views, and what the network alone said."""

    cameras: Tensor  # [K, N, 3], view 0's azimuth 0, best first
    scores: list[float]  # lower is better
    network: Tensor  # the network's own best configuration, [N, 3]
    log_probabilities: Tensor  # of pairwise azimuth differences, [N, N, bins]


def propose(
    elevation: Tensor, radius: Tensor, log_probabilities: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """Configurations for verification, [K, N, 3], K ≤ count; the network's best comes first.

    First the network's best distinct ones, then quarter turns of single views of the very best: what people photograph
    often has sides that look alike, where the network sees which way a side faces, not which side.
    Two and three views are few enough to try azimuths all around besides.
    """
    views = len(elevation)
    azimuths, _ = search(log_probabilities, count // 2, generator=generator)
    azimuths = torch.cat([azimuths, quarter_turns(log_probabilities, azimuths[:8], 8 * count)])
    if views <= 3:
        grid = torch.cartesian_prod(*[torch.arange(0, 360, 15 * (views - 1)).deg2rad()] * (views - 1))
        azimuths = torch.cat([azimuths, F.pad(grid.view(-1, views - 1), (1, 0))])
    azimuths = azimuths[distinct(azimuths, count, math.radians(12))]
    shape = (len(azimuths), views)
    return torch.stack([elevation.expand(shape), azimuths, radius.expand(shape)], -1)


def estimate_poses(model: RelativePose, images: Tensor, config: DictConfig, seed: int) -> Poses:
    """Poses of N ≥ 1 views of one object.

    Args:
        images: white-composited RGB + mask in [0, 1], [N, 4, 64, 64].
        config: configs/infer.yaml.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    elevation, radius, log_probabilities = (part.cpu() for part in model.predict(images.to(device)))
    views = len(images)
    estimates = torch.stack([elevation, torch.zeros(views), radius], -1)
    if views == 1:
        return Poses(estimates[None], [0.0], estimates, log_probabilities)
    hypotheses = propose(elevation, radius, log_probabilities, config.hypotheses, generator)
    fit = verify(images, hypotheses, estimates, Effort(**config.verify), config.keep)
    return Poses(fit.cameras, fit.losses.tolist(), hypotheses[0], log_probabilities)


def summary(poses: Poses) -> str:
    """A table of the best configuration in degrees."""
    lines = ["view  elevation  azimuth  radius"]
    for view, (elevation, azimuth, radius) in enumerate(poses.cameras[0].tolist()):
        turn = (math.degrees(azimuth) + 180) % 360 - 180
        lines.append(f"{view:4d}  {math.degrees(elevation):8.1f}°  {turn:6.1f}°  {radius:6.2f}")
    return "\n".join(lines)


def main() -> None:
    arguments, config = stage_options(__doc__, CONFIG)
    start = time.monotonic()
    scene = arguments.scene
    images = image_io.to_tensor(read_images(scene), IMAGE_SIZE)
    device = devices.choose_device(arguments.device)
    devices.seed_everything(arguments.seed)
    torch.set_num_threads(config.threads or devices.available_cores())
    model = load_model(Path(__file__).parents[1] / config.weights, device)
    poses = estimate_poses(model, images, config, arguments.seed)
    unit = torch.tensor([180 / math.pi, 180 / math.pi, 1.0])
    evidence = {
        "cameras": (poses.network * unit).tolist(),
        "azimuth_log_probabilities": [[[round(x, 3) for x in pair] for pair in row] for row in
                                      poses.log_probabilities.tolist()],
    }  # fmt: skip
    write_poses(scene.initial_poses, poses.cameras, poses.scores, network=evidence)
    print(summary(poses))
    print(f"{len(poses.scores)} configurations, {time.monotonic() - start:.0f} s → {scene.initial_poses}")


if __name__ == "__main__":
    with one_line_errors():
        main()
