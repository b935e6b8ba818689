"""How stage 1 chooses among configurations: what it finds of held-out objects, and the score that ranks it best.

    python benchmarks/pose_choice.py record     # what the search finds, once, into ROOT_DIR/results/pose_choice
    python benchmarks/pose_choice.py fit        # the sharpnesses of relposepp/decide.py under which this is likeliest
    python benchmarks/pose_choice.py descend    # what a descent of the choice's cameras does to them, and what is kept
    python benchmarks/pose_choice.py rivals     # what a comparison in detail with what looks alike changes

An object has five photos in one set and three in another (--views). `fit` prints, for each set, the rotation error of
the network alone, of the choice and of the best of all configurations, and how the choice's confidence is kept.
"""

import argparse
import itertools
import math
import time
from functools import partial
from pathlib import Path

import torch
import trimesh
from omegaconf import OmegaConf
from torch import Tensor

from camerabooth.backbones.interface import DiffusionModel
from camerabooth.judge import judge, leave_one_out
from dataset.hard_toys import demo_toy
from dataset.modelled import list_models, load_model
from dataset.prepare import train_cameras
from dataset.render import Renderer
from dataset.toys import make_toy, toy_seed
from dataset.training_views import HELD_OUT
from relposepp.decide import (
    NETWORK_SHARPNESS,
    SURPRISE_SHARPNESS,
    SYNTHESIS_SHARPNESS,
    decide,
    estimate,
    settle,
    weigh,
)
from relposepp.descent import descend_repeatedly
from relposepp.evaluate import placed
from relposepp.infer import CONFIG, load_models
from relposepp.model import RelativePose
from relposepp.rivals import DETAIL
from relposepp.search import agreement
from sap3d.cameras.poses import DOUBTFUL
from sap3d.errors import one_line_errors
from sap3d.field.synthesis import HELD
from sap3d.files import atomic_file, root_dir
from sap3d.images import to_tensor
from sap3d.runs.options import POSES, read_tree
from sap3d.scores.metrics import rotation_error

# Packages, nearly round and flat toys, and modelled objects that training has not seen (a carton, an animal, a head …).
OBJECTS = ("toy_053", "round_010", "flat_010", "model_003", "toy_100", "flat_011", "model_091", "toy_055", "round_011",
           "model_114", "toy_101", "model_004")  # fmt: skip
SIZE = 128  # pixels of a photo
OWN = NETWORK_SHARPNESS, SYNTHESIS_SHARPNESS, SURPRISE_SHARPNESS


def load_object(name: str) -> trimesh.Trimesh:
    """A toy that training does not draw, or a modelled object that its shards leave out."""
    if name.startswith("model_"):
        return load_model(list_models()[HELD_OUT * int(name.removeprefix("model_"))])
    return demo_toy(name) or make_toy(toy_seed(name))


def record(models: tuple[RelativePose, DiffusionModel], name: str, views: int) -> dict:
    """The photos' true cameras, and the configurations that the search ends with, with all evidence."""
    model, diffusion = models
    truth = train_cameras("toy_demo", name)[:views]
    photos = list(Renderer(load_object(name)).render(truth, SIZE, supersample=3))
    start = time.process_time()
    poses = estimate(model, photos, OmegaConf.load(CONFIG), 0)
    images = to_tensor(photos, diffusion.image_size)
    errors = torch.cat([leave_one_out(diffusion, images, cameras) for cameras in poses.cameras])
    seconds = time.process_time() - start
    found = {"truth": truth, "cameras": poses.cameras, "network": poses.network, "errors": errors, "seconds": seconds}
    return found | poses.evidence


def log_weights(row: dict, sharpness: tuple[float, float, float]) -> Tensor:
    """`decide.weigh` of a recorded set's configurations, [K]."""
    return weigh(row | {"surprise": row["errors"].log().mean(1)}, len(row["truth"]), *sharpness)


def confidence(row: dict, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Of each view of the choice: the confidence that it stands right, and whether it does, [N] each."""
    order = weights.argsort(descending=True, stable=True)
    cameras = row["cameras"][order]
    return agreement(cameras, weights[order]), placed(cameras[0], row["truth"])


def likelihood(rows: list[dict], sharpness: tuple[float, float, float]) -> float:
    """Mean negative log-likelihood of a view; every set counts as one."""
    total = 0.0
    for row in rows:
        told, right = confidence(row, log_weights(row, sharpness))
        told = told.clamp(0.02, 0.98)
        total -= (right * told.log() + (1 - right) * (1 - told).log()).mean().item() / len(rows)
    return total


def fit(rows: dict[str, dict]) -> None:
    """Print the likeliest constants, those without each judge, and what stage 1's own make of each set."""
    grid = [(0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0), (0.0, 2.0, 5.0, 10.0, 20.0, 30.0), (0.0, 1.0, 2.0, 5.0, 10.0, 20.0)]
    found = sorted((likelihood(list(rows.values()), each), *each) for each in itertools.product(*grid))
    for name, column in (("all", 0), ("no network", 1), ("no synthesis", 2), ("no surprise", 3)):
        value, *each = next(entry for entry in found if not column or entry[column] == 0)
        print(f"{name:12s} NLL {value:.3f}  network, synthesis, surprise {each}")
    views = [confidence(row, log_weights(row, OWN)) for row in rows.values()]
    told, right = (torch.cat(each) for each in zip(*views))
    sure = told >= DOUBTFUL
    print(f"{'stage 1':12s} NLL {likelihood(list(rows.values()), OWN):.3f}  {OWN}  "
          f"{sure.sum()} of {len(sure)} views called {DOUBTFUL:.0%} sure, {right[sure].mean():.0%} of them right, "
          f"{right.mean():.0%} of all")  # fmt: skip
    for name, row in rows.items():
        weights = log_weights(row, OWN)
        errors = [rotation_error(cameras, row["truth"]) for cameras in row["cameras"]]
        told, right = confidence(row, weights)
        print(f"{name:12s} network {rotation_error(row['network'], row['truth']):5.1f}°  choice "
              f"{errors[int(weights.argmax())]:5.1f}°  best {min(errors):5.1f}°  confidence {told.mean():4.0%}, right "
              f"{right.mean():4.0%}  {row['seconds']:3.0f} s")  # fmt: skip


def descend(diffusion: DiffusionModel, rows: dict[str, dict]) -> None:
    """Print each set's rotation errors of the choice's cameras and of descended ones, and whether these are kept."""
    for name, row in rows.items():
        photos = list(Renderer(load_object(name.rsplit("_", 1)[0])).render(row["truth"], SIZE, supersample=3))
        cameras, sharp = row["cameras"][int(log_weights(row, OWN).argmax())], to_tensor(photos, HELD.size)
        examine = partial(judge, diffusion, photos=photos, sharp=sharp)
        chosen = examine(cameras)
        descended = descend_repeatedly(sharp, chosen, examine)
        errors = [rotation_error(each.cameras, row["truth"]) for each in (chosen, descended)]
        synthesis = math.log(descended.synthesis / chosen.synthesis)
        surprise = (descended.errors / chosen.errors).log().mean()
        kept = ", kept" * descended.better_than(chosen)
        print(f"{name:12s} {errors[0]:5.1f}° → {errors[1]:5.1f}°  logarithms: synthesis {synthesis:+.3f}, "
              f"model {surprise:+.3f}{kept}", flush=True)  # fmt: skip


def rivals(models: tuple[RelativePose, DiffusionModel], sets: list[tuple[str, int]]) -> None:
    """Print each set's rotation errors before and after `decide.settle`, and its seconds of processor time."""
    config = read_tree(["poses.rivals=false"], "cpu", POSES)[POSES]
    for name, views in sets:
        truth = train_cameras("toy_demo", name)[:views]
        photos = list(Renderer(load_object(name)).render(truth, 2 * SIZE, supersample=2))
        poses = decide(*models, photos, config, 0)
        start = time.process_time()
        found, won = settle(to_tensor(photos, DETAIL.size), poses.cameras[0], poses)
        errors = [rotation_error(each.cameras[0], truth) for each in (poses, found)]
        print(f"{name:12s} {views} views {errors[0]:5.1f}° → {errors[1]:5.1f}°{', another' * won}  confidence "
              f"{found.confidence.mean():4.0%}  {time.process_time() - start:3.0f} s", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["record", "fit", "descend", "rivals"])
    parser.add_argument("--folder", type=Path, default=Path("results/pose_choice"), help="below ROOT_DIR")
    parser.add_argument("--objects", nargs="+", default=OBJECTS)
    parser.add_argument("--views", type=int, nargs="+", default=(5, 3), help="an object has a set of each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = root_dir() / arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    kinds, objects = arguments.views, arguments.objects
    sets = [(name, kinds[(i + turn) % len(kinds)]) for turn in range(len(kinds)) for i, name in enumerate(objects)]
    paths = {f"{name}_{views}": folder / f"{name}_{views}.pt" for name, views in sets}
    recorded = (name for name, path in paths.items() if path.exists())
    if arguments.task == "fit":
        fit({name: torch.load(paths[name]) for name in recorded})
        return
    models = load_models(read_tree([], "cpu", POSES)[POSES], torch.device("cpu"))
    if arguments.task == "rivals":
        rivals(models, sets)
        return
    if arguments.task == "descend":
        descend(models[1], {name: torch.load(paths[name]) for name in recorded})
        return
    for (name, views), path in zip(sets, paths.values()):
        if not path.exists():
            row = record(models, name, views)
            with atomic_file(path) as partial_file:
                torch.save(row, partial_file)
            print(f"{name} {views} views {row['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    with one_line_errors():
        main()
