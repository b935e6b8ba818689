"""Train `relposepp.attitude` on the training views, each turned at random.

nice python relposepp/train_attitude.py --minutes 30    # shards of dataset/training_views.py in ROOT_DIR/runs/views
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor

from dataset.training_views import TrainingViews
from relposepp.attitude import ELEVATIONS, FILE, LEVEL, ROLLS, SIZE, Attitude, attitude_loss, expected
from relposepp.train import CONFIG, augment
from sap3d.errors import one_line_errors
from sap3d.files import root_dir, save_tensors
from sap3d.images import turn

WEIGHTS = Path(__file__).parent / "weights"
OBJECTS, PHOTOS, TARGETS, TURNS = 10, 5, 3, 3  # of a step, views of each, and how often each is turned
LEARNING_RATE, DECAY, AVERAGE = 1.5e-3, 0.05, 0.998
VALIDATION = 6  # batches


def views(data: TrainingViews, rng: np.random.Generator, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Images [V, 4, 32, 32], elevations and rolls [V], within what the network knows."""
    batch = data.batch(rng, OBJECTS, PHOTOS, TARGETS)
    images, cameras = (
        F.interpolate(batch.images.flatten(0, 1), scale_factor=0.5, mode="area"),
        batch.cameras.flatten(0, 1),
    )
    images, cameras = images.repeat(TURNS, 1, 1, 1), cameras.repeat(TURNS, 1)
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    roll = torch.where(mirrored, -cameras[:, 5], cameras[:, 5])
    wanted = ROLLS[0] + (ROLLS[-1] - ROLLS[0]) * torch.rand(len(images), generator=generator)
    wanted = torch.where(torch.rand(len(images), generator=generator) < LEVEL, roll, wanted)
    images = F.interpolate(turn(images, wanted - roll), size=(SIZE, SIZE), mode="area")
    known = (cameras[:, 0] > ELEVATIONS[0] - 0.04) & (cameras[:, 0] < ELEVATIONS[-1] + 0.04)
    return images[known], cameras[known, 0], wanted[known]


@torch.no_grad()
def validate(model: Attitude, data: TrainingViews) -> list[float]:
    """Loss; mean elevation error and median and mean roll error in degrees, of views below 60°; always the same."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    losses, errors = [], []
    model.eval()
    for _ in range(VALIDATION):
        images, elevation, roll = views(data, rng, generator)
        logits = model(images)
        losses.append(attitude_loss(logits, elevation, roll).item())
        means = expected(logits)
        away = torch.stack([means[0] - elevation, means[1] - roll]).abs().rad2deg()
        errors.append(away[:, elevation < math.radians(60)])
    model.train()
    away = torch.cat(errors, 1)
    return [float(np.mean(losses)), away[0].mean().item(), away[1].median().item(), away[1].mean().item()]


def train(minutes: float, data: tuple[TrainingViews, TrainingViews], folder: Path, report: float = 5.0) -> None:
    """Train for so many minutes and write the averaged weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng, generator = np.random.default_rng(1), torch.Generator().manual_seed(1)
    model, average = Attitude(), Attitude()
    average.load_state_dict(model.state_dict())
    augmentation = OmegaConf.merge(OmegaConf.load(CONFIG).augment, {"roll": 0.0, "scale": 0.12, "shift": 0.08})
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=DECAY)
    step, start, reported = 0, time.monotonic(), 0.0
    while (passed := (time.monotonic() - start) / 60) < minutes:
        images, elevation, roll = views(data[0], rng, generator)
        images = augment(images, augmentation, generator)
        rate = min(1.0, (step + 1) / 200) * (0.02 + 0.49 * (1 + math.cos(math.pi * passed / minutes)))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images)
        loss = attitude_loss(logits, elevation, roll)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        with torch.no_grad():
            share = min(AVERAGE, step / (step + 10))
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - share)
        if passed - reported > report:
            reported = passed
            scores = "  ".join(f"{value:.2f}" for value in validate(average, data[1]))
            print(f"step {step}  {passed:.1f} min  loss {loss.item():.2f}  validation {scores}", flush=True)
            save(average, folder)
    save(average, folder)
    print("loss, elevation, median roll, mean roll:", validate(average, data[1]))


def save(model: Attitude, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors({name: value.half().contiguous() for name, value in model.state_dict().items()}, folder / FILE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--folder", type=Path, default=WEIGHTS, help="where the weights go")
    arguments = parser.parse_args()
    data = tuple(TrainingViews(root_dir() / "runs/views", split) for split in ("train", "val"))
    train(arguments.minutes, data, arguments.folder)


if __name__ == "__main__":
    with one_line_errors():
        main()
