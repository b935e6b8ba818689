"""How well the embedded model tells true cameras from wrong ones: held-out toys and modelled objects.

    python benchmarks/pose_energy.py --objects 12 --model runs/camerabooth/exported

For each object the true cameras stand against three wrong ones: one view's azimuth off by 15 to 60°, one off by 90 to
180°, and all azimuths mirrored. Prints for two measures the share of objects for which the true cameras have less of
it, and by what factor the wrong ones have more in the median. The measures: errors of each view's render from the
others, by which stage 1 judges, and errors of the denoiser's clean estimate at middle noise levels.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from camerabooth.backbones.embedded.model import EMBEDDED_WEIGHTS
from camerabooth.backbones.interface import Condition, DiffusionModel, load_model
from camerabooth.judge import leave_one_out, others
from dataset.training_views import TrainingViews
from sap3d.cameras.framing import upright
from sap3d.errors import one_line_errors
from sap3d.files import root_dir

TIMESTEPS = (400, 400, 500, 500, 600, 600)


@torch.no_grad()
def denoising_error(model: DiffusionModel, images: Tensor, cameras: Tensor) -> float:
    """Mean error of the clean estimates of views [N, 4, S, S], each given the others."""
    sources, count, generator = model.embed_sources(images, cameras), len(images), torch.Generator().manual_seed(0)
    parts = [model.condition(sources.select(others(view, count)), cameras[view : view + 1]) for view in range(count)]
    condition, latents, errors = Condition.joined(parts), model.encode(images), []
    for timestep in TIMESTEPS:
        steps, noise = torch.full((count,), timestep), torch.randn(latents.shape, generator=generator)
        noisy = model.add_noise(latents, noise, steps)
        estimate = model.clean_estimate(noisy, steps, model.predict(noisy, steps, condition))
        errors.append((estimate - latents).square().mean().item())
    return float(np.mean(errors))


def render_error(model: DiffusionModel, images: Tensor, cameras: Tensor) -> float:
    """Mean error of the renders of views [N, 4, S, S], each made of the others."""
    return leave_one_out(model, *upright(images, cameras, model.image_size)).mean().item()


def wrong_cameras(cameras: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
    """The three wrong configurations of cameras [N, 7]."""
    wrong = {name: cameras.clone() for name in ("one off by 15 to 60°", "one off by 90 to 180°", "mirrored")}
    for name, (low, high) in zip(wrong, ((15, 60), (90, 180))):
        view, sign = rng.integers(1, len(cameras)), rng.choice([-1, 1])
        wrong[name][view, 1] += sign * math.radians(rng.uniform(low, high))
    wrong["mirrored"][:, 1] = 2 * cameras[0, 1] - cameras[:, 1]
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=EMBEDDED_WEIGHTS)
    parser.add_argument("--objects", type=int, default=12, help="of each kind")
    parser.add_argument("--kinds", nargs="+", default=["toys", "models"])
    parser.add_argument("--views", type=int, nargs="+", default=[3, 5])
    arguments = parser.parse_args()
    model = load_model(root_dir() / arguments.model).requires_grad_(False)
    measures = {"denoising": denoising_error, "renders": render_error}
    for kind in arguments.kinds:
        data = TrainingViews(root_dir() / "runs/views", "val", (kind,))
        for views in arguments.views:
            rng, ratios = np.random.default_rng(0), {}
            for _ in tqdm(range(arguments.objects), desc=f"{kind}, {views} views", leave=False):
                batch = data.batch(rng, 1, views, targets=1)
                images, cameras = batch.images[0, :views], batch.cameras[0, :views]
                wrong = wrong_cameras(cameras, rng)
                for measure, function in measures.items():
                    truth = function(model, images, cameras)
                    for name, guess in wrong.items():
                        ratios.setdefault((measure, name), []).append(function(model, images, guess) / truth)
            for (measure, name), found in ratios.items():
                print(
                    f"{kind:7s} {views} views  {measure:10s} {name:24s} {np.mean(np.array(found) > 1):5.0%} "
                    f"{np.median(found):6.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    with one_line_errors():
        main()
