"""How sharp and how right samples of the embedded model are, by steps, temperature and guidance: held-out objects.

    python benchmarks/samples.py --kind models --objects 12 --views 3

Prints PSNRs at 64×64 of views that were not given, and mean gradient magnitudes inside the mask as a share of the
truth's at 128×128. Needs runs/views (dataset/training_views.py).
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from camerabooth.backbones.embedded.model import EMBEDDED_WEIGHTS
from camerabooth.backbones.interface import load_model
from camerabooth.evaluate import SIZE, psnr, sharpness
from camerabooth.sampling import sample
from dataset.training_views import KINDS, TrainingViews
from sap3d.files import root_dir

TARGETS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=EMBEDDED_WEIGHTS, help="model folder")
    parser.add_argument("--kind", choices=KINDS, default="models")
    parser.add_argument("--objects", type=int, default=12)
    parser.add_argument("--views", type=int, default=3, help="photos")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.5, 0.75, 1.0])
    parser.add_argument("--guidance_scale", type=float, nargs="+", default=[1.0])
    arguments = parser.parse_args()
    model = load_model(arguments.model, torch.device("cpu"))
    data = TrainingViews(root_dir() / "runs/views", "val").of_kind(arguments.kind)
    settings = [(0, 1.0, 1.0)]
    settings += itertools.product(arguments.steps, arguments.temperature, arguments.guidance_scale)
    rng, scores = np.random.default_rng(0), {setting: [] for setting in settings}
    for _ in tqdm(range(arguments.objects), desc="objects"):
        batch = data.batch(rng, 1, arguments.views, TARGETS)
        images, truth = batch.images[0].split([arguments.views, TARGETS])
        cameras, targets = batch.cameras[0].split([arguments.views, TARGETS])
        small = F.interpolate(truth, size=(SIZE, SIZE), mode="area")
        with torch.no_grad():
            sources = model.embed_sources(images, cameras)
            for steps, temperature, guidance in settings:
                options = {"steps": steps, "temperature": temperature, "guidance_scale": guidance}
                views = sample(model, sources, targets, torch.Generator().manual_seed(0), batch=TARGETS, **options)
                found = psnr(F.interpolate(views, size=(SIZE, SIZE), mode="area"), small).mean().item()
                share = sharpness(views, truth[:, 3]) / sharpness(truth, truth[:, 3])
                scores[steps, temperature, guidance].append((found, share))
    print("steps  temperature  guidance  PSNR (dB)  sharpness")
    for (steps, temperature, guidance), rows in scores.items():
        found, share = np.mean(rows, 0)
        name = f"{steps:5d}  {temperature:11.2f}  {guidance:8.1f}" if steps else "conditional mean              "
        print(f"{name}  {found:9.2f}  {share:9.2f}")


if __name__ == "__main__":
    main()
