"""Train both networks on a borrowed card, side by side, on views that it renders meanwhile (benchmarks/card.sh).

    python benchmarks/card.py OUT seconds=480

Each goes on from its committed weights. What they have learned comes to OUT, as the folders `prior` and `poses`, with a
curve, a picture of some of the training's views, and what each had of the time.
"""

import sys
import threading
import time
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from camerabooth import pretrain
from dataset.rendered_views import RenderedViews
from dataset.training_views import VIEWS
from relposepp import train as pose_training
from relposepp.model import save_model
from relposepp.training_sets import augment, turned_views, view_sets
from sap3d.errors import one_line_errors
from sap3d.files import atomic_file
from sap3d.images import sheet
from sap3d.runs.options import merge_overrides

DEFAULTS = {
    "device": "0",
    "seconds": 480.0,  # of training, from the first batch on
    "workers": 13,  # processes that make objects
    "capacity": 70_000,  # objects at most
    "first": 600,  # objects that are there when training begins
    "held_out": 96,  # objects that the curve is of
    "share": 0.25,  # of the time, for the pose network
    "curve_seconds": 40.0,  # between rows
    "prior": {  # camerabooth/pretrain.py's settings
        "start": "camerabooth/weights/embedded",
        "objects": 48,
        "targets": 6,
        "denoise_every": 2,
        "learning_rate": 1e-3,
        "warmup_steps": 200,
        "decay": 0.6,
    },
    "poses": {  # relposepp/train.py's
        "start": "relposepp/weights",
        "objects": 32,
        "turned": 64,
        "learning_rate": 1.5e-3,
    },
}


class Prior:
    """Stage 2's model in training."""

    def __init__(self, config: DictConfig):
        settings = merge_overrides(OmegaConf.create(pretrain.DEFAULTS), [])
        settings = OmegaConf.merge(settings, config.prior, {"device": config.device})
        settings.max_minutes = config.seconds / 60
        self.trainer = pretrain.Trainer(settings)
        self.trainer.load()
        self.rng = np.random.default_rng(0)
        self.generator = torch.Generator(self.trainer.device).manual_seed(0)
        self.losses = []

    def step(self, views: RenderedViews, minutes: float) -> None:
        config, self.trainer.minutes = self.trainer.config, minutes
        sources = 1 + self.rng.choice(len(config.source_counts), p=list(config.source_counts))
        batch = views.batch(self.rng, config.objects, sources, config.targets)
        self.losses.append(self.trainer.train_step(batch, self.generator))

    def row(self, held_out: RenderedViews) -> dict[str, float]:
        losses, self.losses = self.losses, []
        return pretrain.curve_row(self.trainer, losses, held_out)


class Poses:
    """Stage 1's network in training."""

    def __init__(self, config: DictConfig):
        settings = OmegaConf.merge(OmegaConf.load(pose_training.CONFIG), config.poses)
        settings.max_minutes = config.seconds / 60
        self.config, self.device = settings, pretrain.choose_device(config.device)
        self.run = pose_training.Run(settings, self.device)
        self.rng = np.random.default_rng(1)
        self.generators = torch.Generator().manual_seed(1), torch.Generator(self.device).manual_seed(1)
        self.losses = []

    def step(self, views: RenderedViews, minutes: float) -> None:
        self.run.seconds = 60 * minutes
        images, cameras, rolls = view_sets(views, self.rng, self.config)
        on_cpu, on_device = self.generators
        flat = augment(images.flatten(0, 1), self.config.augment, on_device)
        turned = turned_views(flat, cameras[..., 0].flatten(), rolls.flatten(), self.config.turned, on_device)
        self.losses.append(self.run.train_step(flat.view_as(images), cameras, turned, on_cpu))

    def row(self) -> dict[str, float]:
        losses, self.losses = self.losses, []
        return {"pose_steps": self.run.step, "pose_loss": round(float(np.mean(losses or [np.nan])), 4)}

    def export(self, folder: Path) -> None:
        save_model(self.run.average, folder)


def train(config: DictConfig, out: Path) -> None:
    """Train for `config.seconds`; the network that has had less than its share of the time has the next step."""
    device = pretrain.choose_device(config.device)
    held_out = RenderedViews(device, config.held_out, workers=2, held_out=True)
    views = RenderedViews(device, config.capacity, config.workers)
    held_out.fill(config.held_out)
    views.fill(config.first)
    painter = threading.Thread(target=views.fill, args=(config.capacity,), daemon=True)
    painter.start()
    prior, poses = Prior(config), Poses(config)
    shares, used = {prior: 1 - config.share, poses: config.share}, {prior: 0.0, poses: 0.0}
    start = now = time.monotonic()

    def log_row() -> None:
        row = {"seconds": round(now - start), "rendered": views.count} | prior.row(held_out) | poses.row()
        pretrain.log_row(out / "curve.csv", row)

    out.mkdir(parents=True, exist_ok=True)
    next_row = start + config.curve_seconds
    while now - start < config.seconds:
        network = min(shares, key=lambda each: used[each] / max(shares[each], 1e-9))
        network.step(views, (now - start) / 60)
        then, now = now, time.monotonic()
        used[network] += now - then
        if now > next_row:
            log_row()
            next_row, now = now + config.curve_seconds, time.monotonic()
    views.stop()
    prior.trainer.export(out / "prior")
    poses.export(out / "poses")
    log_row()
    shown = views.images[:64:7, :: VIEWS // 8].flatten(0, 1).cpu().numpy()
    with atomic_file(out / "views.png") as partial:
        iio.imwrite(partial, sheet(shown, 8), extension=".png")
    painter.join(20)


def main() -> None:
    train(merge_overrides(OmegaConf.create(DEFAULTS), sys.argv[2:]), Path(sys.argv[1]))


if __name__ == "__main__":
    with one_line_errors():
        main()
