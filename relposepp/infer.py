"""Stage 1: initial poses of an object's first N photos.

    python relposepp/infer.py --type GSO_demo --object basket --views 5 --device cpu --seed 0
    python relposepp/infer.py … --no-verify --hypotheses 4                # the network alone
    python relposepp/infer.py … --backbone published --pose-checkpoint PATH

Writes poses.json, ranked configurations with their evidence, and poses.png into Scene.initial_poses' folder. The
network's pairwise azimuth distributions propose (search.py), a joint fit of voxels and cameras decides (verify.py).
"""

import argparse
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor

from relposepp import published
from relposepp.model import IMAGE_SIZE, Prediction, RelativePose, load_model
from relposepp.plot import write_plot
from relposepp.search import (
    agreement,
    azimuth_deviations,
    configuration_scores,
    distinct,
    quarter_turns,
    search,
    to_bins,
)
from relposepp.verify import Effort, verify
from sap3d import images as image_io
from sap3d.cameras.maths import anchored
from sap3d.cameras.poses import write_poses
from sap3d.errors import UserError, one_line_errors
from sap3d.field.synthesis import Fit
from sap3d.files import root_dir
from sap3d.runs import devices
from sap3d.runs.options import POSES, stage_options
from sap3d.views import read_images

CONFIG = Path(__file__).parent / "configs/infer.yaml"
# A configuration's log-weight: per unit of the network's log-probability (see `weigh`), and per share by which its
# synthesis loss is above the lowest; fitted to held-out toys, so that `Poses.confidence` is calibrated.
NETWORK_SHARPNESS, SYNTHESIS_SHARPNESS = 0.3, 2.0


@dataclass
class Poses:
    """Ranked configurations of N views and the evidence for them."""

    cameras: Tensor  # [K, N, 3], view 0's azimuth 0, best first; [K, N, 5] if principal points were free
    scores: list[float]  # negative log-weights, lower is better
    confidence: Tensor  # probability that a view is placed within 15° relative to the others, [N]
    network: Tensor  # the network's own best configuration, [N, 3]
    prediction: Prediction
    evidence: dict[str, Tensor] = field(default_factory=dict)  # what the scores are made of, each [K]
    fit: Fit | None = None  # the best configuration's, K = 1, with cameras of its own world, if voxels were kept


def uninformed(views: int, bins: int = 72) -> Prediction:
    """What one knows of photos without a network: they are taken from somewhat above, from any side."""
    azimuths = torch.full((views, views, bins), -math.log(bins)) * (1 - torch.eye(views))[..., None]
    elevation, radius = torch.full((views,), math.radians(20)), torch.full((views,), 1.8)
    return Prediction(elevation, torch.full((views,), math.radians(15)), radius, azimuths, azimuths)


def propose(prediction: Prediction, count: int, generator: torch.Generator) -> Tensor:
    """Configurations for verification, [K, N, 3], K ≤ count.

    First the network's best distinct ones; then those of the colours alone, which know cans and bottles better; then
    quarter turns of views of the network's very best: what people photograph often has sides that look alike, where
    the network sees which way a side faces, not which side.
    Two and three views are few enough to try azimuths all around besides.
    """
    views = len(prediction.elevation)
    azimuths, _ = search(prediction.azimuths, 2 * count // 5, generator=generator)
    colors, _ = search(prediction.photometric, count // 5, generator=generator)
    azimuths = torch.cat([azimuths, colors, quarter_turns(prediction.azimuths, azimuths[:8], 8 * count)])
    if views <= 3:
        grid = torch.cartesian_prod(*[torch.arange(0, 360, 15 * (views - 1)).deg2rad()] * (views - 1))
        azimuths = torch.cat([azimuths, F.pad(grid.view(-1, views - 1), (1, 0))])
    azimuths = azimuths[distinct(azimuths, count, math.radians(12))]
    shape = (len(azimuths), views)
    return torch.stack([prediction.elevation.expand(shape), azimuths, prediction.radius.expand(shape)], -1)


def estimate_poses(
    model: RelativePose,
    images: Tensor,
    config: DictConfig,
    seed: int,
    hypotheses: Tensor | None = None,
    free_middles: bool = False,
) -> Poses:
    """Poses of N ≥ 1 views of one object.

    Args:
        images: white-composited RGB + mask in [0, 1], [N, 4, 64, 64].
        config: configs/infer.yaml.
        hypotheses: configurations [K, N, 3] in the place of the network's, best first.
        free_middles: the object's middle may be beside the images' (`sap3d.cameras.framing`), as far as
            verification sees.
    """
    views = len(images)
    prediction = (
        model.predict(images.to(next(model.parameters()).device), config.joint_elevations)
        if config.network
        else uninformed(views)
    )
    estimates = torch.stack([prediction.elevation, torch.zeros(views), prediction.radius], -1)
    if views == 1:
        return Poses(estimates[None], [0.0], torch.ones(1), estimates, prediction)
    if hypotheses is None:
        hypotheses = propose(prediction, config.candidates, torch.Generator().manual_seed(seed))
    network = hypotheses[0]
    if free_middles:
        hypotheses, estimates = F.pad(hypotheses, (0, 2)), F.pad(estimates, (0, 2))
    kept = hypotheses[: config.hypotheses]
    fit = Fit(torch.empty(0), kept, torch.ones(len(kept)))
    # Two photos have little that must agree: the network by itself is more exact (docs/RESULTS.md).
    verified = config.verify if config.verify is not None else views > 2 or free_middles
    if verified:
        fit = verify(images, hypotheses, estimates, Effort(**config.effort), config.hypotheses, seed)
    cameras = anchored(fit.cameras)
    log_probabilities = configuration_scores(prediction.azimuths, to_bins(cameras[..., 1], prediction.azimuths))
    log_weights = weigh(log_probabilities, fit.losses, views)
    order = log_weights.argsort(descending=True, stable=True)
    ranked, first = cameras[order], int(order[0])
    return Poses(
        ranked,
        (-log_weights[order]).tolist(),
        agreement(ranked[..., 1], log_weights[order]),
        network,
        prediction,
        {"network_log_probability": log_probabilities[order]}
        | ({"synthesis_loss": fit.losses[order]} if verified else {}),
        fit=fit[[first]] if first < len(fit.grid) else None,
    )


def weigh(
    log_probabilities: Tensor,
    losses: Tensor,
    views: int,
    network: float = NETWORK_SHARPNESS,
    synthesis: float = SYNTHESIS_SHARPNESS,
) -> Tensor:
    """Log-weights of configurations from the network's summed log-probabilities and the synthesis losses, all [K].

    The pairs are not independent: those of N views count as N − 1, the number of their relative azimuths.
    """
    return network * 2 / views * log_probabilities - synthesis * (losses / losses.min() - 1)


def published_hypotheses(
    images: Tensor, elevation: float, config: DictConfig, device: torch.device, seed: int
) -> Tensor:
    """RelPose++'s configurations [K, N, 3]: SAP3D's median over the runs, then the runs, best first.

    Args:
        images: [N, 4, S, S], as sharp as there are.
        elevation: of view 0, radians.
    """
    model = published.load_published(root_dir() / config.checkpoint, device)
    generator = torch.Generator(device).manual_seed(seed)
    crops, parameters = published.crop_views(images)
    effort = published.Effort(**config.published)
    poses = published.estimate_published(model, crops, parameters, generator, elevation, effort)
    return torch.cat([poses.cameras[None], poses.runs])


def table(poses: Poses) -> str:
    """The best configuration in degrees."""
    lines = ["view  elevation  azimuth  radius  confidence"]
    for view, (elevation, azimuth, radius) in enumerate(poses.cameras[0, :, :3].tolist()):
        turn = (math.degrees(azimuth) + 180) % 360 - 180
        lines.append(
            f"{view:4d}  {math.degrees(elevation):8.1f}°  {turn:6.1f}°  {radius:6.2f}  {poses.confidence[view]:10.0%}"
        )
    return "\n".join(lines)


def evidence_of(poses: Poses) -> dict[str, object]:
    """What poses.json holds besides the configurations; angles in degrees."""
    prediction, unit = poses.prediction, torch.tensor([180 / math.pi, 180 / math.pi, 1.0])
    deviations = [prediction.elevation_deviation]
    if len(poses.network) > 1:
        deviations.append(azimuth_deviations(prediction.azimuths, poses.cameras[0, :, 1]))
    return {
        "confidence": rounded(poses.confidence),
        **{name: values.tolist() for name, values in poses.evidence.items()},
        "deviations_deg": dict(zip(("elevation", "azimuth"), (rounded(d.rad2deg()) for d in deviations))),
        "network": {
            "cameras": (poses.network * unit).tolist(),
            "azimuth_log_probabilities": rounded(prediction.azimuths),
        },
    }


def rounded(tensor: Tensor) -> list:
    """Nested lists of numbers of three decimals."""
    return (tensor.double() * 1000).round().div(1000).tolist()


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that stand for a key of the config."""
    parser.add_argument("--hypotheses", type=int, metavar="K", help="ranked configurations that are written")
    parser.add_argument("--verify", action=argparse.BooleanOptionalAction, help="search and verify by synthesis")


def apply_own_flags(config: DictConfig, arguments: argparse.Namespace) -> None:
    """Put `add_flags`' into the config.

    Raises:
        UserError: K below 1.
    """
    for name in ("hypotheses", "verify"):
        if getattr(arguments, name) is not None:
            config[name] = getattr(arguments, name)
    if config.hypotheses < 1:
        raise UserError(f"--hypotheses must be at least 1, not {config.hypotheses}")


def main() -> None:
    arguments, config = stage_options(__doc__, POSES, add_flags)
    apply_own_flags(config, arguments)
    start = time.monotonic()
    scene = arguments.scene
    photos = read_images(scene)
    images = image_io.to_tensor(photos, IMAGE_SIZE)
    device = devices.choose_device(arguments.device)
    devices.seed_everything(arguments.seed)
    if config.threads:
        torch.set_num_threads(config.threads)
    model = load_model(Path(__file__).parents[1] / config.weights, device)
    hypotheses = None
    if config.backbone == "published" and scene.views > 1:
        elevation = model.predict(images.to(device)).elevation[0].item()
        sharp = image_io.to_tensor(photos, photos[0].shape[0])
        hypotheses = published_hypotheses(sharp, elevation, config, device, arguments.seed)
    free_middles = scene.photo_record.exists() if config.free_middles is None else config.free_middles
    poses = estimate_poses(model, images, config, arguments.seed, hypotheses, free_middles)
    write_poses(scene.initial_poses, poses.cameras, poses.scores, **evidence_of(poses))
    path = scene.initial_poses.with_suffix(".png")
    write_plot(path, images, poses.cameras[0], poses.confidence, poses.prediction.azimuths, poses.fit)
    print(table(poses))
    print(f"{len(poses.scores)} configurations, {time.monotonic() - start:.0f} s → {scene.initial_poses}")


if __name__ == "__main__":
    with one_line_errors():
        main()
