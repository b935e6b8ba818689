"""What it is worth that the photos of one object are taken from about one distance.

    OMP_NUM_THREADS=1 nice python benchmarks/distances.py                # … --radii 1.7 1.9: from more alike distances

Four photos a set of objects that no training uses, framed as import does, with a known lens. Prints how far the
logarithms of the distances that the network tells are from the true ones, but for what all photos share, and the
rotation error of joint fits that start at true azimuths and the network's elevations, with the knowledge and without.
"""

import argparse

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from benchmarks import phones
from benchmarks.pose_choice import load_object
from dataset.render import Renderer
from relposepp.decide import seen_by
from relposepp.held import Held, hold
from relposepp.infer import load_models
from relposepp.model import IMAGE_SIZE, RelativePose
from relposepp.verify import Effort
from sap3d.cameras import framing
from sap3d.cameras import maths as cam
from sap3d.errors import one_line_errors
from sap3d.field import synthesis
from sap3d.images import to_tensor
from sap3d.runs.options import POSES, read_tree
from sap3d.scores.metrics import rotation_error

OBJECTS = ("model_003", "toy_101", "model_114", "flat_011", "model_030", "toy_055")
NOTHING = 1e9  # a standard deviation that says nothing
VIEWS, SIZE = 4, 256


def photos_of(name: str, seed: int, model: RelativePose) -> tuple[Tensor, Held, Tensor]:
    """Views for fits [4, 4, 128, 128], how they were held, and true cameras [4, 7]."""
    truth = phones.set_cameras("exif40", seed)[:VIEWS]
    photos = list(Renderer(load_object(name)).render(truth, SIZE))
    photos, fields_of_view = phones.imported(photos, truth[0, 6].item(), known=True)
    return to_tensor(photos, IMAGE_SIZE), hold(model, photos, fields_of_view, known=True), truth


def errors(model: RelativePose, config: DictConfig, images: Tensor, held: Held, truth: Tensor) -> tuple[float, float]:
    """Deviation of the told distances, and the rotation error of the fit in degrees."""
    prediction = seen_by(model, images, config, held)
    estimates = held.cameras(torch.stack([prediction.elevation, torch.zeros(VIEWS), prediction.radius], -1))
    start, effort, progress = estimates.clone(), Effort(), tqdm(disable=True)
    start[:, 1] = truth[:, 1]
    fit = synthesis.fit_all(images, start[None], effort.anneal, progress, estimates=estimates)
    fit = synthesis.fit_all(images, fit.cameras, effort.fine, progress, estimates=estimates, start=fit.grid)
    told = (estimates[:, 2] / truth[:, 2]).log().std(correction=0)
    return told.item(), rotation_error(cam.anchored(fit.cameras)[0], truth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", nargs="+", default=OBJECTS)
    parser.add_argument("--radii", type=float, nargs=2, default=(1.5, 2.1), help="within which distances are drawn")
    parser.add_argument("--weights", help="of stage 1's network, below the repository")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    phones.RADII = tuple(arguments.radii)
    overrides = [f"weights={arguments.weights}"] if arguments.weights else []
    config = read_tree(overrides, "cpu", POSES)[POSES]
    model, _ = load_models(config, torch.device("cpu"))
    known, found = (framing.DISTANCES, synthesis.DISTANCE_SIGMA), {"without": [], "with": []}
    for seed, name in enumerate(arguments.objects):
        views = photos_of(name, 20 + seed, model)
        for title, values in (("without", (NOTHING, NOTHING)), ("with", known)):
            framing.DISTANCES, synthesis.DISTANCE_SIGMA = values
            found[title].append(errors(model, config, *views))
        print(f"{name:12s} " + "  ".join(f"{title} {rows[-1][1]:5.1f}°" for title, rows in found.items()), flush=True)
    told = np.sqrt(np.mean(np.square([row[0] for row in found["without"]])))
    means = "  ".join(f"{title} {np.mean([row[1] for row in rows]):.2f}°" for title, rows in found.items())
    print(f"mean: {means}; distances are told with a deviation of {told:.3f}")


if __name__ == "__main__":
    with one_line_errors():
        main()
