"""Stage 1: initial poses of an object's first N photos.

    python relposepp/infer.py --type GSO_demo --object basket --views 5 --device cpu --seed 0
    python relposepp/infer.py … --no-verify --hypotheses 4                # the network alone
    python relposepp/infer.py … --backbone published --pose-checkpoint PATH

Writes poses.json, ranked configurations with their evidence, and poses.png into Scene.initial_poses' folder. How it is
decided which poses these are is in decide.py.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from camerabooth.backbones.interface import DiffusionModel
from camerabooth.backbones.interface import load_model as load_diffusion
from camerabooth.backbones.weights import model_folder
from relposepp.decide import decide, seen_by
from relposepp.held import Held, hold
from relposepp.model import IMAGE_SIZE, Prediction, RelativePose, load_model
from relposepp.outliers import FEWEST, LEVEL, leave_each_out, outliers, soundness
from relposepp.plot import write_plot
from relposepp.proposals import Poses
from relposepp.published import crop_views, load_published
from relposepp.published_poses import Effort, predict_published
from relposepp.search import azimuth_deviations
from sap3d import images as image_io
from sap3d.cameras.framing import centre
from sap3d.cameras.maths import centred, principal_points
from sap3d.cameras.poses import DOUBTFUL, LEFT_OUT, SYMMETRY, write_poses
from sap3d.errors import UserError, one_line_errors
from sap3d.files import root_dir
from sap3d.runs import devices
from sap3d.runs.options import FIELDS_OF_VIEW, POSES, stage_options
from sap3d.views import read_fields_of_view, read_images

CONFIG = Path(__file__).parent / "configs/infer.yaml"


def published_prediction(
    photos: list[np.ndarray],
    embedded: Prediction,
    config: DictConfig,
    device: torch.device,
    seed: int,
    held: Held | None = None,
) -> Prediction:
    """What RelPose++ says of N photos, uint8 RGBA [S, S, 4]; the embedded network's for what that does not know.

    It sees them turned upright where it is known how they were held: SAP3D has tuned it on level cameras.

    Raises:
        UserError: no such weights, or too many photos.
    """
    model = load_published(root_dir() / config.checkpoint, device)
    views = image_io.to_tensor(photos, photos[0].shape[0])
    if held is not None:
        views = image_io.turn(views, -held.likeliest_rolls.cpu())
    crops, parameters = crop_views(views)
    return predict_published(model, crops, parameters, embedded, Effort(**config.published), seed)


def table(poses: Poses) -> str:
    """The best configuration in degrees, and what was said for it and others."""
    own = poses.cameras.shape[-1] == 7
    lines = ["view  elevation  azimuth  radius  confidence" + "   roll  field of view" * own]
    for view, (elevation, azimuth, radius, *held) in enumerate(poses.cameras[0].tolist()):
        turn = (math.degrees(azimuth) + 180) % 360 - 180
        line = (
            f"{view:4d}  {math.degrees(elevation):8.1f}°  {turn:6.1f}°  {radius:6.2f}  {poses.confidence[view]:10.0%}"
        )
        lines.append(line + (f"  {math.degrees(held[2]):5.1f}°  {math.degrees(held[3]):12.1f}°" if own else ""))
    if "excess" in poses.symmetry:
        same = "yes" if poses.symmetry["order"] > 1 else "no"
        lines.append(f"looks the same from behind: {same} (excess {poses.symmetry['excess']:.2%})")
    for name, judged in poses.considered.get("judged", {}).items():
        kept = ", kept" * (name == poses.considered["kept"])
        lines.append(f"{name} poses: energy {judged['energy']:.4f}, unexplained {judged['synthesis']:.2%}{kept}")
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
        "considered": poses.considered,
        SYMMETRY: poses.symmetry,
        "deviations_deg": dict(zip(("elevation", "azimuth"), (rounded(d.rad2deg()) for d in deviations))),
        "network": {
            "cameras": (poses.network * unit).tolist(),
            "azimuth_log_probabilities": rounded(prediction.azimuths),
        },
    }


def questioned(poses: Poses, photos: list[np.ndarray], device: torch.device) -> tuple[Poses, dict[str, object]]:
    """Poses whose confidence knows how far their photos contradict each other, and what poses.json says of it.

    There, `named` are the photos that do not fit the rest, the worst first.
    """
    cameras = poses.cameras[0]
    moved = image_io.to_tensor(centre(photos, principal_points(cameras)), LEVEL.size)
    fall, unseen, contradiction = leave_each_out(moved.to(device), centred(cameras).to(device))
    said = {"fall": rounded(fall), "unexplained": rounded(unseen), "named": outliers(fall, unseen)}
    known = replace(poses, confidence=poses.confidence * soundness(contradiction))
    return known, {"outliers": said | {"contradiction": round(contradiction, 3)}}


def consistent(
    poses: Poses,
    photos: list[np.ndarray],
    decided: Callable[[list[int]], Poses],
    config: DictConfig,
    device: torch.device,
) -> tuple[list[int], Poses, dict[str, object]]:
    """Own photos that fit each other, where they stand, and what poses.json says of the others.

    Args:
        poses: of all photos.
        decided: makes those of some, by their numbers.
    """
    poses, said = questioned(poses, photos, device)
    kept, named = list(range(len(photos))), said["outliers"]["named"]
    for view in named:
        dropped = ", and is left out" if config.drop_outliers else " (--drop-outliers leaves it out)"
        print(f"photo {view} does not fit the others{dropped}", flush=True)
    if named and config.drop_outliers:
        kept, said = [view for view in kept if view not in named], said | {LEFT_OUT: named}
        poses = taken(decided(kept), config.hypothesis)
        if len(kept) >= FEWEST:
            poses = questioned(poses, [photos[view] for view in kept], device)[0]
    return kept, poses, said


def taken(poses: Poses, hypothesis: int) -> Poses:
    """The configurations with the one first that is asked for by its rank from 1 on.

    Raises:
        UserError: there are fewer.
    """
    count = len(poses.scores)
    if not 1 <= hypothesis <= count:
        raise UserError(f"poses.hypothesis={hypothesis}: there are {count} configurations of cameras for these photos")
    return poses if hypothesis == 1 else poses.led_by(hypothesis - 1)


def rounded(tensor: Tensor) -> list:
    """Nested lists of numbers of three decimals."""
    return (tensor.double() * 1000).round().div(1000).tolist()


def load_models(config: DictConfig, device: torch.device) -> tuple[RelativePose, DiffusionModel]:
    """The network of pairs, and the pretrained diffusion model that judges.

    Raises:
        UserError: no such weights.
    """
    model = load_model(Path(__file__).parents[1] / config.weights, device)
    return model, load_diffusion(
        model_folder(config.diffusion.backbone, config.diffusion.checkpoint), device, **config.diffusion.model
    )


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
    if config.fov is not None:
        number = isinstance(config.fov, int | float) and not isinstance(config.fov, bool)
        if not (number and FIELDS_OF_VIEW[0] <= config.fov <= FIELDS_OF_VIEW[1]):
            raise UserError(f"--fov must be from {FIELDS_OF_VIEW[0]} to {FIELDS_OF_VIEW[1]} degrees, not {config.fov}")
    if config.hypotheses < 1:
        raise UserError(f"--hypotheses must be at least 1, not {config.hypotheses}")


def main() -> None:
    arguments, config = stage_options(__doc__, POSES, add_flags)
    apply_own_flags(config, arguments)
    start = time.monotonic()
    scene = arguments.scene
    photos = read_images(scene)
    device = devices.choose_device(arguments.device)
    images = image_io.to_tensor(photos, IMAGE_SIZE).to(device)
    devices.seed_everything(arguments.seed)
    if config.threads:
        torch.set_num_threads(config.threads)
    model, diffusion = load_models(config, device)
    own = scene.photo_record.exists() if config.own_photos is None else config.own_photos
    lenses = read_fields_of_view(scene, config.fov)

    def decided(kept: list[int]) -> Poses:
        chosen, held, prediction = [photos[view] for view in kept], None, None
        if own or config.fov is not None:
            held = hold(model, chosen, lenses[0][kept], lenses[1])
        if config.backbone == "published" and config.network and len(kept) > 1:
            embedded = seen_by(model, images[kept], config, held)
            prediction = published_prediction(chosen, embedded, config, device, arguments.seed, held)
        return decide(model, diffusion, chosen, config, arguments.seed, prediction, held)

    kept, said = list(range(scene.views)), {}
    first = poses = taken(decided(kept), config.hypothesis)
    if own and scene.views >= FEWEST:
        kept, poses, said = consistent(first, photos, decided, config, device)
    cameras = first.cameras[:1].repeat(len(poses.cameras), 1, 1)
    cameras[:, kept] = poses.cameras
    write_poses(scene.initial_poses, cameras, poses.scores, **evidence_of(poses), **said)
    path = scene.initial_poses.with_suffix(".png")
    write_plot(path, images[kept].cpu(), poses.cameras[0], poses.confidence, poses.prediction.azimuths, poses.fit)
    print(table(poses))
    doubtful = [view for view, sure in zip(kept, poses.confidence.tolist()) if sure < DOUBTFUL] if own else []
    if doubtful:
        which = f"photo{'s' * (len(doubtful) > 1)} {', '.join(map(str, doubtful))}"
        print(f"doubtful from where {which} came: does the object stand the same way in all? (docs/CAPTURE.md)")
    print(f"{len(poses.scores)} configurations, {time.monotonic() - start:.0f} s → {scene.initial_poses}")


if __name__ == "__main__":
    with one_line_errors("poses", "poses.candidates or poses.effort.beam"):
        main()
