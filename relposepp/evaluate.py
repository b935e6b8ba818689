"""Pose errors of stage 1 over prepared objects with ground truth.

    python relposepp/evaluate.py --type HOPE_demo --views 5                       # the table of a type
    python relposepp/evaluate.py --type HOPE_demo GSO_demo --views 3 --workers 2  # faster; seconds are of one core each
    python relposepp/evaluate.py --type HOPE_demo --views 5 --label heads joint_elevations=false    # an ablation
    python relposepp/evaluate.py --type HOPE_demo --views 5 --label framed own_photos=true    # framed as at import
    python relposepp/evaluate.py --type toy_demo --views 5 --noise 10 20        # the descents from cameras so far off

Random view sets of every object; the error of a set is the mean over its pairs, plain and up to the object's symmetry
(docs/CONVENTIONS.md): of the network alone, of the answer, and of the best of all hypotheses. Results go to
results/relposepp/<LABEL>_<N>.json as they come, and an interrupted run goes on from there; what is off by more than 15°
is drawn into results/relposepp/<LABEL>_<N>/. With --noise, nothing but how near true cameras come back to the truth
after each has been moved by so many degrees: <LABEL>_<N>_noise.json.
"""

import argparse
import hashlib
import json
import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from camerabooth.backbones.interface import DiffusionModel
from camerabooth.judge import judge
from relposepp.decide import decide
from relposepp.descent import descend_repeatedly
from relposepp.held import hold
from relposepp.infer import CONFIG, add_flags, apply_own_flags, load_models
from relposepp.model import IMAGE_SIZE
from relposepp.plot import write_plot
from relposepp.search import agreement
from sap3d import images as image_io
from sap3d.cameras import maths as cam
from sap3d.cameras.framing import reframe
from sap3d.errors import UserError, one_line_errors
from sap3d.field.synthesis import HELD
from sap3d.files import root_dir, write_json
from sap3d.runs import devices
from sap3d.runs.options import POSES, read_tree
from sap3d.scene import Scene, check_views, image_paths
from sap3d.scores.evaluate import read_symmetry
from sap3d.scores.metrics import rotation_error
from sap3d.views import read_images, read_poses

METHODS = ("network", "answer", "best hypothesis")
FAILURE = 15.0  # degrees


def evaluate_set(scene: Scene, index: int, config: DictConfig, device: str, seed: int, pictures: Path) -> dict:
    """Errors in degrees of one random view set of an object, plain and symmetry-aware, with seconds."""
    every = Scene(scene.type, scene.object, len(image_paths(scene.train)))
    if every.views < scene.views:
        raise UserError(f"{scene.train / 'images'}: {every.views} images, but VIEWS is {scene.views}")
    order = np.random.default_rng([seed, index]).permutation(every.views)[: scene.views]
    chosen, truth, pictures_of = torch.from_numpy(order), read_poses(scene.train, every.views), read_images(every)
    photos, shares = [pictures_of[view] for view in order], torch.ones(len(order))
    if config.own_photos:
        photos, shares = framed(photos)
    devices.seed_everything(seed)
    chosen_device = devices.choose_device(device)
    if config.threads:
        torch.set_num_threads(config.threads)
    models = load_models(config, chosen_device)
    start = time.monotonic()
    fields_of_view = 2 * (shares * cam.TAN_HALF_FOV / shares.median()).atan()
    held = hold(models[0], photos, fields_of_view, known=False) if config.own_photos else None
    poses = decide(*models, photos, config, seed + index, held=held)
    row = {"seconds": time.monotonic() - start, "views": order.tolist(), "confidence": poses.confidence.tolist()}
    row |= {"cameras": poses.cameras[0].tolist(), "truth": truth[chosen].tolist()}
    row |= {name: values.tolist() for name, values in poses.evidence.items()}
    for suffix, symmetry in (("", 1), (" symmetric", read_symmetry(scene))):
        ranked = [rotation_error(cameras, truth[chosen], symmetry) for cameras in poses.cameras]
        network = rotation_error(poses.network, truth[chosen], symmetry)
        row |= {name + suffix: error for name, error in zip(METHODS, (network, ranked[0], min(ranked)))}
        row["hypotheses" + suffix] = ranked
    row |= {"considered": poses.considered, "symmetry": poses.symmetry}
    if row["answer symmetric"] > FAILURE:
        path, views = pictures / f"{scene.object}_{index}.png", image_io.to_tensor(photos, IMAGE_SIZE)
        write_plot(path, views, poses.cameras[0], poses.confidence, poses.prediction.azimuths, poses.fit)
    return row


def framed(photos: list[np.ndarray]) -> tuple[list[np.ndarray], Tensor]:
    """Photos, uint8 RGBA [S, S, 4], as import would frame them, and the squares' sides as shares of theirs, [N]."""
    images, shares = reframe(image_io.to_tensor(photos, photos[0].shape[0]))
    return list(image_io.straight_alpha(images.permute(0, 2, 3, 1).numpy())), shares


def placed(cameras: Tensor, truth: Tensor) -> Tensor:
    """Share of each view's rotations relative to the others that are within 15° of the truth, [N], of [N, ≥ 3] each."""
    both = torch.stack([cam.full_cameras(cameras), cam.full_cameras(truth)])
    return agreement(both, torch.tensor([-math.inf, 0.0]))


def print_reliability(rows: list[dict]) -> None:
    """How many relative rotations are right where the confidence says so (plain: no symmetry is taken into account)."""
    confidence = torch.cat([torch.tensor(row["confidence"]) for row in rows])
    right = torch.cat([placed(torch.tensor(row["cameras"]), torch.tensor(row["truth"])) for row in rows])
    for low, high in ((0, 0.5), (0.5, 0.75), (0.75, 0.95), (0.95, 1.01)):  # the demo doubts what is below 0.75
        inside = (confidence >= low) & (confidence < high)
        if inside.any():
            print(f"confidence {low:.2f}…{min(high, 1):.2f}: mean {confidence[inside].mean():.2f}, "
                  f"within 15° {right[inside].mean():.2f} ({int(inside.sum())} views)")  # fmt: skip


def summarize(rows: list[dict]) -> dict[str, dict[str, float]]:
    """Mean, median and shares within 15° and 30° of each method, and seconds."""
    table = {}
    for name in [method + suffix for method in METHODS for suffix in ("", " symmetric")]:
        errors = np.array([row[name] for row in rows])
        table[name] = {
            "mean": float(errors.mean()),
            "median": float(np.median(errors)),
            "acc15": float((errors < 15).mean()),
            "acc30": float((errors < 30).mean()),
        }
    return table | {"seconds": {"mean": float(np.mean([row["seconds"] for row in rows]))}}


def print_summary(objects: dict[str, list[dict]]) -> None:
    """A line an object (medians), then a line a method."""
    print(f"{'median rotation error up to symmetry':36s}" + "".join(f"{name:>17s}" for name in METHODS))
    for name, rows in objects.items():
        medians = [np.median([row[f"{method} symmetric"] for row in rows]) for method in METHODS]
        print(f"{name:36s}" + "".join(f"{median:16.1f}°" for median in medians))
    table = summarize([row for rows in objects.values() for row in rows])
    seconds = table.pop("seconds")["mean"]
    for name, scores in table.items():
        print(f"{name:26s} mean {scores['mean']:5.1f}°  median {scores['median']:5.1f}°  "
              f"< 15° {scores['acc15']:4.0%}  < 30° {scores['acc30']:4.0%}")  # fmt: skip
    print(f"{seconds:.1f} s a set")


def evaluate(scenes: list[Scene], sets: int, config: DictConfig, device: str, seed: int, workers: int, path: Path):
    """Evaluate what `path` does not hold yet; returns the rows of each object, by "TYPE/OBJECT"."""
    weights = Path(__file__).parents[1] / config.weights / "model.safetensors"
    checksum = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else None
    settings = {"config": OmegaConf.to_container(config), "weights": checksum, "seed": seed}
    objects: dict[str, list[dict]] = {}
    if path.exists() and (done := json.loads(path.read_text()))["settings"] == settings:
        objects = done["objects"]
    tasks = [
        (scene, index, config, device, seed, path.with_suffix(""))
        for scene in scenes
        for index in range(len(objects.get(f"{scene.type}/{scene.object}", [])), sets)
    ]
    with ExitStack() as stack:
        mapper = map
        if workers > 1:  # spawned: a fork would inherit torch's threads in whatever state they are
            pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
            mapper = stack.enter_context(pool).map
        for (scene, index, *_), row in zip(tasks, mapper(evaluate_set, *zip(*tasks)) if tasks else ()):
            name = f"{scene.type}/{scene.object}"
            objects.setdefault(name, []).append(row)
            write_json(path, {"settings": settings, "objects": objects})
            print(f"  {name:34s} set {index}  network {row['network symmetric']:6.1f}°  "
                  f"answer {row['answer symmetric']:6.1f}°  {row['seconds']:4.0f} s", flush=True)  # fmt: skip
    wanted = (f"{scene.type}/{scene.object}" for scene in scenes)
    return {name: objects[name][:sets] for name in wanted}


def moved(cameras: Tensor, angle: float, generator: torch.Generator) -> Tensor:
    """Cameras [N, 3] moved by an angle (radians) on their spheres, each in a random direction."""
    position = F.normalize(cam.camera_positions(cameras), dim=-1)
    random = torch.randn(len(cameras), 3, generator=generator)
    tangent = F.normalize(random - (random * position).sum(-1, keepdim=True) * position, dim=-1)
    x, y, z = (position * math.cos(angle) + tangent * math.sin(angle)).unbind(-1)
    return torch.stack([z.asin(), torch.atan2(y, x), cameras[:, 2]], -1)


def recover(diffusion: DiffusionModel, scene: Scene, degrees: float, seed: int) -> dict[str, float | bool]:
    """Rotation errors in degrees, up to symmetry, before and after the descents from displaced true cameras."""
    photos, truth = read_images(scene), read_poses(scene.train, scene.views)
    start = moved(truth, math.radians(degrees), torch.Generator().manual_seed(seed))
    sharp = image_io.to_tensor(photos, HELD.size).to(diffusion.device)
    examine = partial(judge, diffusion, photos=photos, sharp=sharp)
    before = examine(cam.anchored(start).to(diffusion.device))
    after = descend_repeatedly(sharp, before, examine)
    accepted, symmetry = after.better_than(before), read_symmetry(scene)
    ends = {"before": start, "after": after.cameras.cpu() if accepted else start}
    return {name: rotation_error(cameras, truth, symmetry) for name, cameras in ends.items()} | {"accepted": accepted}


def report_noise(diffusion: DiffusionModel, scenes: list[Scene], levels: list[float], path: Path) -> None:
    """Print and write the mean errors of `recover`."""
    results = {}
    for degrees in levels:
        rows = {f"{scene.type}/{scene.object}": recover(diffusion, scene, degrees, seed=0) for scene in scenes}
        results[degrees] = rows
        before, after = ([row[name] for row in rows.values()] for name in ("before", "after"))
        print(f"{degrees:g}° of noise: mean rotation error {np.mean(before):.1f}° → {np.mean(after):.1f}°, "
              f"median {np.median(after):.1f}°, accepted {sum(row['accepted'] for row in rows.values())} "
              f"of {len(rows)}", flush=True)  # fmt: skip
        write_json(path, results)


def find_scenes(types: list[str], names: list[str] | None, views: int) -> list[Scene]:
    """Prepared objects of the types, or those of the given names.

    Raises:
        UserError: none.
    """
    folder = root_dir() / "dataset/data/train"
    found = [Scene(t, p.name, views) for t in types for p in sorted((folder / t).glob("*")) if p.is_dir()]
    found = [scene for scene in found if not names or scene.object in names]
    if not found:
        raise UserError(f"{folder}: none of these objects is prepared; run dataset/prepare.py first (docs/DATASET.md)")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--type", required=True, nargs="+")
    parser.add_argument("--object", nargs="+", help="by default all prepared ones")
    parser.add_argument("--views", default="5")
    parser.add_argument("--sets", type=int, default=5, help="random view sets an object")
    parser.add_argument("--device", default="cpu", help="a CUDA index, or cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes; more than one take one thread each")
    parser.add_argument("--label", help="name of the results; by default the types")
    parser.add_argument("--noise", type=float, nargs="+", metavar="DEGREES", help="only the recovery of poses")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=f"overrides {CONFIG.name}")
    add_flags(parser)
    arguments = parser.parse_intermixed_args()
    block = read_tree(arguments.overrides, arguments.device, POSES)[POSES]
    config = OmegaConf.create(OmegaConf.to_container(block, resolve=True))  # workers get it without the tree
    apply_own_flags(config, arguments)
    if config.backbone == "published":
        raise UserError("evaluate.py measures the embedded network; compare poses.json of infer.py for the other")
    views = check_views(arguments.views)
    if views < 2:
        raise UserError("VIEWS must be at least 2 here: one view has no relative pose")
    if arguments.workers > 1:
        config.threads = 1
    scenes = find_scenes(arguments.type, arguments.object, views)
    path = root_dir() / "results/relposepp" / f"{arguments.label or '+'.join(arguments.type)}_{views}.json"
    if arguments.noise:
        _, diffusion = load_models(config, devices.choose_device(arguments.device))
        report_noise(diffusion, scenes, arguments.noise, path.with_name(f"{path.stem}_noise.json"))
        return
    objects = evaluate(
        scenes, arguments.sets, config, arguments.device, arguments.seed, max(arguments.workers, 1), path
    )
    rows = [row for group in objects.values() for row in group]
    print_summary(objects)
    print_reliability(rows)
    print(f"→ {path}")


if __name__ == "__main__":
    with one_line_errors():
        main()
