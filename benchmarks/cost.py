"""How seconds and memory grow with the number of photos: each stage of the whole pipeline, and a figure.

    python benchmarks/cost.py --root runs/cost --object toy_305 --write     # for docs/RESULTS.md and SCALING.md
    python benchmarks/cost.py --root runs/cost --object toy_305 --views 1 2 --preset fast

Below --root (ROOT_DIR) a toy is photographed from so many sides, and run_pipeline.sh runs once for each number. What
is there already is not run again, so a run that was stopped goes on. Seconds are the clock's: nothing else should run.
Memory is the resident memory of all processes of the run at once. The last column says how the seconds grow over the
upper half of the numbers of photos: the exponent of a power law, by least squares; 1 is linear. With --write the figure
is drawn, and results_standard/cost.json has the numbers for docs/RESULTS.md.
"""

import argparse
import json
import math
import os
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.published_pipeline import run
from dataset.prepare import IMAGE_SIZE, MAX_TRAIN_VIEWS, SUPERSAMPLE, load_object, prepare, train_cameras
from dataset.render import Renderer
from sap3d.errors import one_line_errors
from sap3d.files import REPOSITORY, atomic_file, root_dir, write_json
from sap3d.scene import Scene, image_paths
from sap3d.views import write_view

TYPE = "toy_demo"
STAGES = ("data", "poses", "tuning", "novel_views", "reconstruction", "evaluation")
FIGURE, NUMBERS = REPOSITORY / "docs/figures/cost.png", REPOSITORY / "results_standard/cost.json"


def photograph(object_name: str, views: int) -> None:
    """The object's scene folder with at least so many photos; those beyond 30° apart are between the others, higher."""
    prepare(TYPE, object_name, min(views, MAX_TRAIN_VIEWS))
    train = Scene(TYPE, object_name, 1).train
    there = len(image_paths(train))
    if there >= views:
        return
    renderer = Renderer(load_object(TYPE, object_name))
    cameras = train_cameras(TYPE, object_name, MAX_TRAIN_VIEWS) + torch.tensor([0.3, math.pi / 12, 0.0])
    known = train_cameras(TYPE, object_name, MAX_TRAIN_VIEWS)
    for index, camera in enumerate(torch.cat([known, cameras])[there:views], there):
        write_view(train, index, renderer.render(camera[None], IMAGE_SIZE, SUPERSAMPLE)[0], camera)


def measure(object_name: str, views: int, options: list[str]) -> dict[str, dict[str, float]]:
    """Seconds and GB of each stage of a run, from files beside its results if it has been run before."""
    results = Scene(TYPE, object_name, views).results
    path = results / "cost.json"
    if not path.exists():
        command = ["sh", "run_pipeline.sh", TYPE, object_name, str(views), "cpu", *options]
        write_json(path, run(root_dir(), command, "cpu"))
    seconds, peaks = (json.loads(each.read_text()) for each in (results / "results.json", path))
    return {stage: {"seconds": seconds["seconds"][stage], "gb": peaks[stage]} for stage in STAGES}


def growth(views: list[int], seconds: list[float]) -> float:
    """The exponent of the power law that is nearest to the upper half of numbers of photos and their seconds."""
    half = len(views) // 2
    return float(np.polyfit(np.log(views[half:]), np.log(seconds[half:]), 1)[0])


def draw(path: Path, views: list[int], costs: list[dict[str, dict[str, float]]]) -> None:
    """Seconds of the stages on top of each other, and the memory of each, against the number of photos."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    seconds = np.array([[cost[stage]["seconds"] for cost in costs] for stage in STAGES])
    labels = [stage.replace("_", " ") for stage in STAGES]
    left.stackplot(views, seconds, labels=labels)
    left.set(xlabel="photos", ylabel="seconds", xticks=views)
    for stage, label in zip(STAGES, labels):
        right.plot(views, [cost[stage]["gb"] for cost in costs], "o-", label=label)
    right.set(xlabel="photos", ylabel="resident memory, GB", xticks=views, ylim=(0, None))
    left.legend(loc="upper left", reverse=True)
    with atomic_file(path) as partial:
        figure.savefig(partial, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="ROOT_DIR")
    parser.add_argument("--object", default="toy_305", help="a toy")
    parser.add_argument("--views", type=int, nargs="+", default=[1, 2, 3, 5, 8, 12, 16])
    parser.add_argument("--write", action="store_true", help="the figure and the numbers of the pages")
    arguments, options = parser.parse_known_args()
    os.environ["ROOT_DIR"] = str(arguments.root.resolve())
    photograph(arguments.object, max(arguments.views))
    costs = [measure(arguments.object, views, options) for views in arguments.views]
    print(f"{'stage':16s}" + "".join(f"{views:>16d}" for views in arguments.views) + f"{'exponent':>10s}")
    for stage in STAGES:
        cells = "".join(f"{cost[stage]['seconds']:8.1f} s {cost[stage]['gb']:3.1f} GB" for cost in costs)
        exponent = growth(arguments.views, [cost[stage]["seconds"] for cost in costs])
        print(f"{stage:16s}{cells}{exponent:10.2f}")
    if arguments.write:
        draw(FIGURE, arguments.views, costs)
        last = json.loads((Scene(TYPE, arguments.object, arguments.views[-1]).results / "results.json").read_text())
        told = {"object": arguments.object, "machine": last["machine"], "commit": last["commit"]}
        write_json(NUMBERS, told | {"photos": dict(zip(map(str, arguments.views), costs))})
        print(f"→ {FIGURE}, {NUMBERS}")


if __name__ == "__main__":
    with one_line_errors():
        main()
