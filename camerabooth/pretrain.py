"""Train the embedded view-conditioned diffusion model on procedural objects.

    nice -n 15 python camerabooth/pretrain.py max_minutes=75 threads=1      # goes on from the last checkpoint
    python camerabooth/pretrain.py export=true                              # EMA weights → camerabooth/weights/embedded

Training views come from dataset/toy_views.py. Checkpoint and curve lie in ROOT_DIR/runs/camerabooth.
"""

import csv
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from camerabooth.backbones.interface import TRAIN_TIMESTEPS
from camerabooth.diffusion import EMBEDDED_WEIGHTS, DiffusionConfig, ViewConditionedDiffusion
from camerabooth.evaluate import psnr
from camerabooth.sampling import conditional_mean
from dataset.toy_views import ToyViews
from sap3d.errors import one_line_errors
from sap3d.files import atomic_file, root_dir
from sap3d.runs.devices import seed_everything
from sap3d.runs.options import merge_overrides

DEFAULTS = {
    "data": "runs/toy_views",  # below ROOT_DIR
    "output": "runs/camerabooth",
    "objects": 8,  # a step
    "targets": 2,  # of each object
    "source_counts": [0.35, 0.25, 0.15, 0.1, 0.15],  # probability of 1, 2, … source views
    "drop": 0.1,  # condition dropped, for classifier-free guidance
    "pure_noise": 0.15,  # share of targets at the last time step, where the conditional mean is learned
    "learning_rate": 5e-4,
    "warmup_steps": 200,
    "ema": 0.999,
    "max_minutes": 75.0,  # of training in all, over all sittings; the learning rate falls to zero by then
    "checkpoint_minutes": 3.0,
    "validate_steps": 500,
    "threads": 0,  # 0: torch's default
    "seed": 0,
    "export": False,
    "max_steps": 0,  # 0: as many as fit; tests set it
}


class Trainer:
    """Model, its exponential moving average, optimiser and progress: everything a checkpoint holds."""

    def __init__(self, config: DictConfig):
        self.config = config
        self.model = ViewConditionedDiffusion(DiffusionConfig(**config.get("model", {})))
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.learning_rate, weight_decay=0.01)
        self.step, self.minutes = 0, 0.0
        self.path = root_dir() / config.output / "checkpoint.pt"

    def load(self) -> None:
        """Go on from the last checkpoint, if there is one."""
        if not self.path.exists():
            return
        state = torch.load(self.path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.step, self.minutes = state["average"], state["step"], state["minutes"]

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
            "minutes": self.minutes,
        }
        with atomic_file(self.path) as partial:
            torch.save(state, partial)

    def averaged_model(self) -> ViewConditionedDiffusion:
        model = ViewConditionedDiffusion(self.model.config)
        model.load_state_dict(self.average)
        return model.eval()

    def train_step(self, images: Tensor, cameras: Tensor, generator: torch.Generator) -> float:
        """One update; images [B, N + M, 4, S, S] and cameras, sources first."""
        config = self.config
        rate = config.learning_rate * min(1.0, (self.step + 1) / config.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * (0.5 + 0.5 * math.cos(math.pi * min(1.0, self.minutes / config.max_minutes)))
        loss = denoising_loss(self.model, images, cameras, config, generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        decay = min(config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)
        return loss.item()


def denoising_loss(
    model: ViewConditionedDiffusion, images: Tensor, cameras: Tensor, config: DictConfig, generator: torch.Generator
) -> Tensor:
    """Mean training loss of a batch at random noise levels; the last `config.targets` views are the targets."""
    sources = images.shape[1] - config.targets
    embedded = model.embed_sources(images[:, :sources], cameras[:, :sources])
    count = len(images) * config.targets
    timesteps = torch.randint(TRAIN_TIMESTEPS, (count,), generator=generator)
    timesteps[torch.rand(count, generator=generator) < config.pure_noise] = TRAIN_TIMESTEPS - 1
    drop = torch.rand(count, generator=generator) < config.drop
    targets = images[:, sources:]
    noise = torch.randn(count, *targets.shape[2:], generator=generator)
    return model.training_loss(embedded, targets, cameras[:, sources:], timesteps, noise, drop).mean()


@torch.no_grad()
def validate(model: ViewConditionedDiffusion, data: ToyViews, batches: int = 8) -> dict[str, float]:
    """PSNR in dB of the conditional mean (one step from pure noise) from 1, 2, 3 and 5 sources, on unseen objects."""
    scores = {}
    for sources in (1, 2, 3, 5):
        rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
        values = []
        for _ in range(batches):
            images, cameras = data.batch(rng, 8, sources, targets=2)
            embedded = model.embed_sources(images[:, :sources], cameras[:, :sources])
            mean = conditional_mean(model, embedded, cameras[:, sources:], generator)
            target = images[:, sources:].flatten(0, 1)
            values.append(psnr(mean, target))
        scores[f"psnr_{sources}"] = round(torch.cat(values).mean().item(), 3)
    return scores


def log_row(path: Path, row: dict[str, float]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)


def train(config: DictConfig) -> Trainer:
    """Train until the minutes are used up; a killed run goes on from its last checkpoint."""
    if config.threads:
        torch.set_num_threads(config.threads)
    seed_everything(config.seed)
    torch.use_deterministic_algorithms(False)
    trainer = Trainer(config)
    trainer.load()
    folder = root_dir() / config.data
    data, held_out = ToyViews(folder, "train"), ToyViews(folder, "val")
    rng = np.random.default_rng([config.seed, trainer.step])
    generator = torch.Generator().manual_seed(config.seed + trainer.step)
    losses, last = [], time.monotonic()
    saved = last
    while trainer.minutes < config.max_minutes and not (config.max_steps and trainer.step >= config.max_steps):
        sources = 1 + rng.choice(len(config.source_counts), p=list(config.source_counts))
        losses.append(trainer.train_step(*data.batch(rng, config.objects, sources, config.targets), generator))
        now = time.monotonic()
        trainer.minutes, last = trainer.minutes + (now - last) / 60, now
        if now - saved > 60 * config.checkpoint_minutes:
            trainer.save()
            data.refresh()
            saved = now
        if trainer.step % config.validate_steps == 0:
            row = {"step": trainer.step, "minutes": round(trainer.minutes, 2), "loss": round(float(np.mean(losses)), 5)}
            row |= validate(trainer.averaged_model(), held_out)
            log_row(trainer.path.with_name("curve.csv"), row)
            print(row, flush=True)
            losses, last = [], time.monotonic()
    trainer.save()
    return trainer


def main() -> None:
    config = merge_overrides(OmegaConf.create(DEFAULTS), sys.argv[1:])
    if config.export:
        trainer = Trainer(config)
        trainer.load()
    else:
        trainer = train(config)
    trainer.averaged_model().save_pretrained(EMBEDDED_WEIGHTS)
    print(f"{trainer.step} steps, {trainer.minutes:.1f} minutes: weights in {EMBEDDED_WEIGHTS}")


if __name__ == "__main__":
    with one_line_errors():
        main()
