"""What features of the object add to the embedded model, and tuning its networks: held-out objects, moved cameras.

    python benchmarks/instance.py --views 2 3 5 --degrees 0 4
    python benchmarks/instance.py --views 3 --degrees 4 --tuning 60 --objects 2     # two minutes an object

Prints the PSNR in dB at 64×64 of eight views that were not given, and how far the cameras are off, without tuning, with
the features of configs/sap3d.yaml, and with the networks tuned first. Cameras but the first are moved by random
angles whose mean is about so many degrees. Needs runs/views (dataset/training_views.py).
"""

import argparse
import copy
import math
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor

from camerabooth import main as stage2
from camerabooth.backbones.embedded.model import EMBEDDED_WEIGHTS, EmbeddedDiffusion
from camerabooth.evaluate import psnr
from camerabooth.sampling import sample
from dataset.training_views import KINDS, Batch, TrainingViews
from sap3d.cameras.maths import wrap_angle
from sap3d.files import root_dir
from sap3d.runs.options import filled
from sap3d.scores.metrics import rotation_error

SIZE, TARGETS = 64, 8


def moved(cameras: Tensor, degrees: float, seed: int) -> Tensor:
    """Cameras [N, ≥ 3] with elevations and azimuths, but for the first's, off by random angles."""
    angles = torch.randn(len(cameras), 2, generator=torch.Generator().manual_seed(seed)) * math.radians(degrees) * 0.8
    angles[0], cameras = 0, cameras.clone()
    cameras[:, :2] += angles
    return cameras


@torch.no_grad()
def unseen_psnr(model: EmbeddedDiffusion, images: Tensor, cameras: Tensor, truth: Tensor, targets: Tensor) -> float:
    sources = model.embed_sources(images, cameras)
    views = sample(model, sources, targets, torch.Generator(), steps=0, batch=4)
    small = (F.interpolate(each, size=SIZE, mode="area") for each in (views, truth))
    return psnr(*small).mean().item()


def scores(model: EmbeddedDiffusion, batch: Batch, views: int, degrees: float, seed: int, steps: int) -> list[float]:
    """PSNR and camera error of each variant in turn."""
    cameras = batch.cameras[0].clone()
    cameras[:, 1] = wrap_angle(cameras[:, 1] - cameras[0, 1].item())
    images, truth = batch.images[0].split([views, TARGETS])
    right, targets = cameras.split([views, TARGETS])
    config = filled(OmegaConf.load(stage2.CONFIG), "tuning", model.tuning).tuning
    config.steps = steps
    found = []

    def add(model: EmbeddedDiffusion, cameras: Tensor) -> None:
        error = rotation_error(cameras[:, :3], right[:, :3])
        found.extend([unseen_psnr(model, images, cameras, truth, targets), error])

    start = moved(right, degrees, seed)
    add(model, start)
    add(model, stage2.fit_object(model, images, start, 1, config.instance, seed)[-1])
    model.forget_object()
    if steps:
        tuned = copy.deepcopy(model)
        prior = list(range(config.prior_objects))
        with tempfile.TemporaryDirectory() as folder:
            refined, _ = stage2.tune(tuned, images, start, prior, config, seed, Path(folder) / "tuning")
        add(tuned, refined)
        add(tuned, stage2.fit_object(tuned, images, refined, 1, config.instance, seed)[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, nargs="+", default=[2, 3, 5])
    parser.add_argument("--degrees", type=float, nargs="+", default=[0.0, 4.0])
    parser.add_argument("--objects", type=int, default=4, help="of each kind")
    parser.add_argument("--tuning", type=int, default=0, metavar="STEPS", help="of the networks")
    parser.add_argument("--model", type=Path, default=EMBEDDED_WEIGHTS)
    arguments = parser.parse_args()
    model = EmbeddedDiffusion.from_pretrained(arguments.model)
    for views in arguments.views:
        for degrees in arguments.degrees:
            rows = []
            for kind in KINDS:
                data, rng = TrainingViews(root_dir() / "runs/views", "val", (kind,)), np.random.default_rng(views)
                for seed in range(arguments.objects):
                    batch = data.batch(rng, 1, views, TARGETS)
                    rows.append(scores(model, batch, views, degrees, seed, arguments.tuning))
            pairs = np.mean(rows, 0).reshape(-1, 2)
            names = ("untuned", "features", "networks tuned", "both")
            line = "; ".join(f"{name} {dB:.2f} dB, {off:.1f}°" for name, (dB, off) in zip(names, pairs))
            print(f"{views} views, cameras off by {degrees:g}°: {line}", flush=True)


if __name__ == "__main__":
    main()
