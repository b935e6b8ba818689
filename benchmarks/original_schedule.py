"""How long the original's schedule would take on this machine, beside our whole run.

    python benchmarks/original_schedule.py --run results/GSO_demo/chefmate_8_frypan/5/results.json
    python benchmarks/original_schedule.py --run … --tiny        # the tests' size, to try the script

The original (SAP3D, arXiv 2404.03652) tunes Zero-1-to-3's UNet for 100 epochs over all ordered pairs of photos, samples
84 novel views in 75 steps of DDIM, and distils the UNet in 4500 steps, one view a step here. One step of each is timed
with random weights and multiplied. Guidance counts two passes of the UNet a step, as in the original. Its poses, its
autoencoder, its renders and its optimiser's state are not counted, so the ratio is a lower bound. Nothing else should
run meanwhile.
"""

import argparse
import json
from pathlib import Path

import torch

from benchmarks.published import CAMERAS, make_model, measure
from sap3d.errors import UserError, one_line_errors
from sap3d.runs.devices import choose_device

STAGES = ("poses", "tuning", "novel_views", "reconstruction")
EPOCHS, NOVEL_VIEWS, SAMPLING_STEPS, DISTILLATION_STEPS = 100, 84, 75, 4500


def schedule(views: int) -> dict[str, int]:
    """How often the original takes each step for so many photos."""
    return {
        "tuning": EPOCHS * views * (views - 1),
        "sampling": NOVEL_VIEWS * SAMPLING_STEPS,
        "distillation": DISTILLATION_STEPS,
    }


def seconds_of(path: Path) -> tuple[int, float]:
    """Photos of a run, and seconds of its stages without data and evaluation, from its results.json.

    Raises:
        UserError: no such file, or not a finished run's.
    """
    try:
        run = json.loads(path.read_text())
        return run["views"], sum(run["seconds"][stage] for stage in STAGES)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not the results.json of a run of run_pipeline.py ({error})") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="results.json of one of our runs on this machine")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    views, ours = seconds_of(arguments.run)
    device, arguments.trainable = choose_device("cpu"), "full"
    model = make_model(arguments, device)
    generator = torch.Generator().manual_seed(0)
    images, targets = torch.rand(1, 4, model.image_size, model.image_size), CAMERAS[:1] + 0.2
    with torch.no_grad():
        condition = model.condition(model.embed_sources(images, CAMERAS[:1]), targets)
    noise = torch.randn(1, 4, model.latent_size, model.latent_size, generator=generator)
    timesteps = torch.full((1,), 500)

    def guided() -> None:
        with torch.no_grad():
            model.predict(noise, timesteps, condition, guidance_scale=3.0)

    def tuned() -> None:
        model.zero_grad()
        model.denoising_error(noise, condition, timesteps, noise).mean().backward()

    guided_seconds = measure("one guided step of the UNet", device, guided, repeats=2)
    model.prepare_tuning()
    step = {
        "tuning": measure("one training step of the UNet", device, tuned, repeats=1),
        "sampling": guided_seconds,
        "distillation": guided_seconds,
    }
    total = 0.0
    for name, count in schedule(views).items():
        total += count * step[name]
        print(f"{name:16s}{count:8d} steps × {step[name]:7.2f} s = {count * step[name] / 3600:8.1f} h")
    print(f"the original's schedule, {views} photos: {total / 3600:.1f} h; ours: {ours:.0f} s; {total / ours:.0f} to 1")


if __name__ == "__main__":
    with one_line_errors():
        main()
