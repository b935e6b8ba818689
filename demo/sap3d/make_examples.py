"""Make the demo's examples: photos of toys on coloured paper, and what the pipeline makes of them.

    .venv/bin/python demo/sap3d/make_examples.py packet           # or several; all without a name

Replaces examples/NAME/photos and examples/NAME/results; the runs themselves are in ROOT_DIR, as type EXAMPLE. Prints
how far the poses are from those that the photos were taken with.
"""

import argparse
import subprocess
from dataclasses import dataclass
from pathlib import Path

import bundle
import imageio.v3 as imageio
import numpy as np
import torch
from torch import Tensor

from dataset.prepare import load_object
from dataset.render import Renderer
from sap3d.cameras.poses import read_best_poses
from sap3d.errors import one_line_errors
from sap3d.files import atomic_folder
from sap3d.runs.jobs import REPOSITORY
from sap3d.scene import Scene
from sap3d.scores import metrics

FOLDER = Path(__file__).resolve().parent / "examples"
SIZE = 640  # of a photo, in pixels
VIEWS = 4
NOISE = 1.5  # of the sensor, in grey levels


@dataclass(frozen=True)
class Example:
    """A toy, the colour of the paper behind it, and where the first photo is taken from, in degrees."""

    toy: str
    paper: tuple[int, int, int]
    azimuth: float


EXAMPLES = {
    "packet": Example("toy_011", (170, 214, 178), 65),
    "cat": Example("toy_043", (226, 196, 148), 30),
    "donkey": Example("toy_060", (240, 226, 190), 20),
}


def cameras(example: Example) -> Tensor:
    """About a quarter turn apart and from slightly above, as docs/CAPTURE.md asks for, [VIEWS, 3]."""
    rng = np.random.default_rng(0)
    elevations = rng.uniform(17, 32, VIEWS)
    azimuths = example.azimuth + 360 / VIEWS * np.arange(VIEWS) + rng.uniform(-12, 12, VIEWS)
    radii = rng.uniform(1.75, 1.95, VIEWS)
    return torch.from_numpy(np.stack([np.radians(elevations), np.radians(azimuths), radii], -1)).float()


def write_photos(example: Example, folder: Path) -> None:
    """0.jpg, 1.jpg, …: the toy before paper that is brighter on the window's side."""
    rng = np.random.default_rng(1)
    light = 1.03 - 0.1 * np.linspace(0, 1, SIZE)[None, :, None] * np.ones((SIZE, 1, 1))
    with atomic_folder(folder) as partial:
        for index, rgba in enumerate(Renderer(load_object("toy_demo", example.toy)).render(cameras(example), SIZE)):
            alpha = rgba[..., 3:] / 255
            picture = rgba[..., :3] * alpha + np.array(example.paper) * light * (1 - alpha)
            picture = (picture + rng.normal(0, NOISE, picture.shape)).clip(0, 255).astype(np.uint8)
            imageio.imwrite(partial / f"{index}.jpg", picture, quality=88)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*EXAMPLES, []], metavar="NAME", help=", ".join(EXAMPLES))
    parser.add_argument("--device", default="cpu", help="CUDA index, or cpu")
    arguments = parser.parse_args()
    for name in arguments.names or EXAMPLES:
        photos, scene = FOLDER / name / "photos", Scene("EXAMPLE", name, VIEWS)
        write_photos(EXAMPLES[name], photos)
        command = ["sh", "run_pipeline.sh", scene.type, scene.object, str(VIEWS), arguments.device]
        subprocess.run([*command, "--input", str(photos)], cwd=REPOSITORY, check=True)
        bundle.collect(scene, FOLDER / name / "results", small=True)
        estimate = read_best_poses(scene.reconstruction / "poses.json", VIEWS)
        error = metrics.rotation_error(estimate, cameras(EXAMPLES[name]))
        print(f"{name}: rotation error {error:.1f}°", flush=True)


if __name__ == "__main__":
    with one_line_errors():
        main()
