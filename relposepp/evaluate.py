"""Pose errors of stage 1 over prepared objects with ground truth.

    python relposepp/evaluate.py --type HOPE_demo --views 5 --sets 5

Random view sets of every object of a type (or of one --object); prints a table and writes JSON to
results/relposepp/<TYPE>_<N>.json. The error of a set is the mean over its pairs (docs/CONVENTIONS.md).
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from relposepp.infer import CONFIG, estimate_poses
from relposepp.model import IMAGE_SIZE, RelativePose, load_model
from sap3d import devices
from sap3d import images as image_io
from sap3d.errors import UserError, one_line_errors
from sap3d.evaluate import read_symmetry
from sap3d.files import root_dir, write_json
from sap3d.metrics import rotation_error
from sap3d.options import merge_overrides
from sap3d.scene import Scene, check_views, image_paths, read_images, read_poses

METHODS = ("network", "verified", "best hypothesis")


def evaluate_object(
    model: RelativePose, scene: Scene, sets: int, config: DictConfig, seed: int
) -> list[dict[str, float]]:
    """Errors in degrees of random view sets of one object, plain and symmetry-aware, with seconds."""
    every = Scene(scene.type, scene.object, len(image_paths(scene.train)))
    if every.views < scene.views:
        raise UserError(f"{scene.train / 'images'}: {every.views} images, but VIEWS is {scene.views}")
    images, truth = image_io.to_tensor(read_images(every), IMAGE_SIZE), read_poses(scene.train, every.views)
    symmetry, rng, rows = read_symmetry(scene), np.random.default_rng(seed), []
    for index in range(sets):
        chosen = torch.from_numpy(rng.permutation(every.views)[: scene.views])
        start = time.monotonic()
        poses = estimate_poses(model, images[chosen], config, seed + index)
        row = {"seconds": time.monotonic() - start, "views": chosen.tolist()}
        for suffix, order in (("", 1), (" symmetric", symmetry)):
            ranked = [rotation_error(cameras, truth[chosen], order) for cameras in poses.cameras]
            network = rotation_error(poses.network, truth[chosen], order)
            row |= {name + suffix: error for name, error in zip(METHODS, (network, ranked[0], min(ranked)))}
        rows.append(row)
        print(
            f"  {scene.object:28s} {row['network']:6.1f}° {row['verified']:6.1f}°  {row['seconds']:4.0f} s", flush=True
        )
    return rows


def summarize(rows: list[dict]) -> dict[str, dict[str, float]]:
    """Mean, median and shares within 15° and 30° of each method."""
    table = {}
    for name in [method + suffix for method in METHODS for suffix in ("", " symmetric")]:
        errors = np.array([row[name] for row in rows])
        table[name] = {
            "mean": float(errors.mean()),
            "median": float(np.median(errors)),
            "acc15": float((errors < 15).mean()),
            "acc30": float((errors < 30).mean()),
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--type", required=True)
    parser.add_argument("--object", help="one object; by default all prepared ones of the type")
    parser.add_argument("--views", default="5")
    parser.add_argument("--sets", type=int, default=5, help="random view sets an object")
    parser.add_argument("--device", default="cpu", help="a CUDA index, or cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", help="key=value of configs/infer.yaml")
    arguments = parser.parse_args()
    config = merge_overrides(OmegaConf.load(CONFIG), arguments.overrides)
    views = check_views(arguments.views)
    if views < 2:
        raise UserError("VIEWS must be at least 2 here: one view has no relative pose")
    folder = root_dir() / "dataset/data/train" / arguments.type
    objects = [arguments.object] if arguments.object else sorted(p.name for p in folder.glob("*") if p.is_dir())
    if not objects:
        raise UserError(f"{folder}: no prepared objects; run dataset/prepare.py first (docs/DATASET.md)")
    device = devices.choose_device(arguments.device)
    devices.seed_everything(arguments.seed)
    torch.set_num_threads(config.threads or devices.available_cores())
    model = load_model(Path(__file__).parents[1] / config.weights, device)
    print(f"  {'rotation error':28s} network verified", flush=True)
    rows = {
        name: evaluate_object(model, Scene(arguments.type, name, views), arguments.sets, config, arguments.seed)
        for name in objects
    }
    table = summarize([row for group in rows.values() for row in group])
    for name, scores in table.items():
        print(f"{name:26s} mean {scores['mean']:5.1f}°  median {scores['median']:5.1f}°  "
              f"< 15° {scores['acc15']:4.0%}  < 30° {scores['acc30']:4.0%}")  # fmt: skip
    path = root_dir() / "results/relposepp" / f"{arguments.type}_{views}.json"
    write_json(path, {"summary": table, "objects": rows, "seed": arguments.seed})
    print(f"→ {path}")


if __name__ == "__main__":
    with one_line_errors():
        main()
