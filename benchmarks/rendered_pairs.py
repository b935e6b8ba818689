"""How well two views' relative azimuth is told: by the pair network, by the diffusion model's renders, by both.

    OMP_NUM_THREADS=1 python benchmarks/rendered_pairs.py --objects 12

Held-out toys and modelled objects, four photo-like views each, at the elevations and radii that the network estimates.
Prints for each sharpness of the renders' word (relposepp/rendered.py) the mean negative log-likelihood of a pair's
azimuth among 72 bins, and the share of pairs whose likeliest azimuth is within 15° and 30°.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor

from dataset.training_views import KINDS, TrainingViews
from relposepp.infer import load_models
from relposepp.lifting import facing
from relposepp.rendered import SHARPNESS, azimuth_evidence
from relposepp.search import to_bins
from relposepp.training_sets import view_sets
from sap3d.errors import one_line_errors
from sap3d.files import root_dir
from sap3d.runs.options import POSES, read_tree

VIEWS = 4
SHARPNESSES = (0.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)


def told(logits: Tensor, right: Tensor) -> str:
    """The likelihood of the right bins [P] and the accuracy of logits [P, B]."""
    bins = logits.shape[-1]
    away = (logits.argmax(-1) - right + bins // 2).remainder(bins) - bins // 2
    near = [(away.abs() <= degrees * bins / 360).float().mean().item() for degrees in (15, 30)]
    return f"NLL {F.cross_entropy(logits, right).item():.3f}  within 15° {near[0]:4.0%}  within 30° {near[1]:4.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=12, help="of each kind")
    parser.add_argument("--views", type=Path, default=Path("runs/views"), help="training views, below ROOT_DIR")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network, diffusion = load_models(read_tree([], "cpu", POSES)[POSES], torch.device("cpu"))
    one_set, (first, second) = OmegaConf.create({"objects": 1, "views": VIEWS}), torch.triu_indices(VIEWS, VIEWS, 1)
    for kind in KINDS:
        data, rng = TrainingViews(root_dir() / arguments.views, "val", (kind,)), np.random.default_rng(7)
        pairs, renders, right = [], [], []
        for _ in range(arguments.objects):
            images, cameras, _ = view_sets(data, rng, one_set)
            said = network.predict(images[0])
            bins = said.azimuths.shape[-1]
            evidence = azimuth_evidence(diffusion, images[0], facing(said.elevation, said.radius), bins)
            delta = torch.remainder(cameras[0, second, 1] - cameras[0, first, 1], 2 * math.pi)
            pairs.append(said.azimuths[first, second])
            renders.append(evidence[first, second] / SHARPNESS)
            right.append(to_bins(delta, said.azimuths))
        pairs, renders, right = (torch.cat(parts) for parts in (pairs, renders, right))
        print(f"{kind}, {len(right)} pairs; the renders alone: {told(SHARPNESS * renders, right)}")
        for sharpness in SHARPNESSES:
            print(f"  sharpness {sharpness:3.1f}  {told(pairs + sharpness * renders, right)}", flush=True)


if __name__ == "__main__":
    with one_line_errors():
        main()
