"""Train the embedded model on toys and modelled objects.

    nice -n 10 python camerabooth/pretrain.py max_minutes=600            # goes on from the last checkpoint
    python camerabooth/pretrain.py processes=2 threads=1                 # two cores: faster than two threads
    python camerabooth/pretrain.py device=0 workers=12 objects=32        # the same on a CUDA card
    python camerabooth/pretrain.py export=camerabooth/weights/embedded   # EMA weights → a model folder below ROOT_DIR

Training views come from dataset/training_views.py. Checkpoint and curve lie in ROOT_DIR/runs/camerabooth. Without a
checkpoint, training begins from the weights in `start`, if that is given.
"""

import csv
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm

from camerabooth.backbones.embedded.losses import denoising_losses, total_loss, volume_losses
from camerabooth.backbones.embedded.model import EmbeddedDiffusion
from camerabooth.backbones.embedded.network import EmbeddedConfig, Reconstructor
from camerabooth.backbones.embedded.rendering import render
from dataset.training_views import DEPTH_SIZE, Batch, TrainingViews
from sap3d.cameras import maths as cam
from sap3d.errors import one_line_errors
from sap3d.files import atomic_file, root_dir
from sap3d.runs.devices import choose_device
from sap3d.runs.options import merge_overrides

DEFAULTS = {
    "data": "runs/views",  # below ROOT_DIR
    "output": "runs/camerabooth",
    "device": "cpu",
    "model": asdict(EmbeddedConfig()),
    "processes": 1,  # that average their gradients: as many cards from `device` on, or processes on the CPU
    "objects": 4,  # a step and process
    "targets": 4,  # of each object
    "rays": 768,  # of each target
    "source_counts": [0.3, 0.25, 0.2, 0.1, 0.15],  # probability of 1, 2, … source views
    "denoise_every": 0,  # steps, one of which renders whole views and trains the denoiser on them; 0: never
    "denoised": 2,  # targets of each object in such a step
    "pure_noise": 0.3,  # share of them at the last time step, where the conditional mean is learned
    "drop": 0.1,  # share of them that are told nothing, for classifier-free guidance
    "denoising_weight": 0.1,
    "mask_weight": 0.5,
    "depth_weight": 0.05,
    "learning_rate": 5e-4,
    "warmup_steps": 200,
    "decay": 0.15,  # last share of the minutes, in which the learning rate falls to zero
    "ema": 0.999,
    "max_minutes": 2400.0,  # of training in all, over all sittings
    "checkpoint_minutes": 5.0,
    "validate_steps": 250,
    "threads": 0,  # 0: torch's default
    "workers": 0,  # processes that read batches; a CPU needs none, a card about twelve
    "seed": 0,
    "start": None,  # a folder of exported weights, for a run without a checkpoint
    "export": None,  # a folder that the averaged model is written to; nothing is trained then
    "max_steps": 0,  # 0: as many as fit; tests set it
}


REFRESH = 200  # batches between looks for new shards


class Trainer:
    """Model, its exponential moving average, optimiser and progress: everything a checkpoint holds."""

    def __init__(self, config: DictConfig, rank: int = 0):
        self.config = config
        self.device = choose_device("cpu" if config.device == "cpu" else str(int(config.device) + rank))
        torch.manual_seed(config.seed)
        self.model = Reconstructor(EmbeddedConfig(**OmegaConf.to_container(config.model))).to(self.device)
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.02
        )
        self.step, self.minutes, self.objects = 0, 0.0, 0
        self.path = root_dir() / config.output / "checkpoint.pt"

    def __str__(self) -> str:
        return f"{self.step} steps, {self.objects} objects, {self.minutes:.1f} minutes"

    def load(self) -> None:
        """Go on from the last checkpoint, if there is one; layers that it does not know begin anew."""
        if not self.path.exists():
            if self.config.start:
                start = EmbeddedDiffusion.from_pretrained(root_dir() / self.config.start)
                self.model.load_state_dict(start.network.state_dict())
                self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
            return
        state = torch.load(self.path, weights_only=True, map_location=self.device)
        self.model.load_state_dict(state["model"], strict=False)
        self.average |= {name: value for name, value in state["average"].items() if name in self.average}
        for name, parameter in self.model.named_parameters():
            if name in state["moments"]:
                self.optimizer.state[parameter] = state["moments"][name]
        self.step, self.minutes, self.objects = state["step"], state["minutes"], state["objects"]

    def save(self) -> None:
        named = self.model.named_parameters()
        state = {
            "model": self.model.state_dict(),
            "moments": {name: self.optimizer.state[p] for name, p in named if p in self.optimizer.state},
            "average": self.average,
            "step": self.step,
            "minutes": self.minutes,
            "objects": self.objects,
        }
        with atomic_file(self.path) as partial:
            torch.save(state, partial)

    def averaged_model(self) -> Reconstructor:
        model = Reconstructor(self.model.config).to(self.device)
        model.load_state_dict(self.average)
        return model.eval()

    def export(self, folder: Path) -> None:
        """Write the averaged model as a model folder.

        Convolutions run in bf16, so that their weights need no more precision; git packs them a sixth smaller.
        """
        model = self.averaged_model().cpu()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.copy_(parameter.bfloat16())
        EmbeddedDiffusion(model).save_pretrained(folder)

    def learning_rate(self) -> float:
        """Warm-up, then constant, then linear to zero over the last share of the minutes."""
        config = self.config
        left = (1 - self.minutes / config.max_minutes) / max(config.decay, 1e-9)
        return config.learning_rate * min(1.0, (self.step + 1) / config.warmup_steps, max(left, 0.0))

    def train_step(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """One update; the last `config.targets` views of the batch are the targets."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        config = self.config
        denoise = config.denoise_every and self.step % config.denoise_every == 0
        losses = (denoising_losses if denoise else volume_losses)(self.model, batch, config, generator)
        self.optimizer.zero_grad(set_to_none=True)
        total_loss(losses, config).backward()
        self.average_gradients()
        if torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0).isfinite():
            self.optimizer.step()
        self.step += 1
        self.objects += len(batch.images) * config.processes
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.model.state_dict().values()), 1 - decay)
        return {name: value.detach().mean() for name, value in losses.items()}

    def average_gradients(self) -> None:
        """Gradients become their means over the processes, and minutes the first's: all stay alike."""
        if self.config.processes == 1:
            return
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        minutes = torch.tensor([self.minutes if dist.get_rank() == 0 else 0.0], device=self.device)
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), minutes])
        dist.all_reduce(flat)
        *sums, minutes = flat.split([gradient.numel() for gradient in gradients] + [1])
        for gradient, total in zip(gradients, sums, strict=True):
            gradient.copy_(total.view_as(gradient) / self.config.processes)
        self.minutes = minutes.item()


@torch.no_grad()
def validate(model: Reconstructor, data: TrainingViews, device: torch.device, objects: int = 24) -> dict[str, float]:
    """PSNR in dB at 64×64 of renders from 1, 2, 3 and 5 sources, on unseen objects of each kind."""
    scores = {}
    pixels = cam.pixel_grid(DEPTH_SIZE, device)
    for kind in data.kinds:
        of_kind = data.of_kind(kind)
        for sources in (1, 2, 3, 5):
            rng, values = np.random.default_rng(0), []
            for _ in range(objects // 4):
                batch = of_kind.batch(rng, 4, sources, targets=2).to(device)
                field = model(batch.images[:, :sources], batch.cameras[:, :sources], with_features=False)
                image = render(field, batch.cameras[:, sources:], pixels, model.config.samples).image[..., :3]
                truth = F.interpolate(batch.images[:, sources:].flatten(0, 1), size=(DEPTH_SIZE,) * 2, mode="area")
                errors = (image.flatten(0, 1).transpose(1, 2) - truth[:, :3].flatten(2)).square().mean((1, 2))
                values.append(-10 * errors.clamp(min=1e-10).log10())
            scores[f"{kind}_{sources}"] = round(torch.cat(values).mean().item(), 3)
    return scores


def mean_loss(losses: list[dict[str, Tensor]], name: str) -> float:
    """Of the steps that have it; NaN if none has."""
    values = [loss[name] for loss in losses if name in loss]
    return round(torch.stack(values).mean().item(), 5) if values else float("nan")


def log_row(path: Path, row: dict[str, float]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)


class Batches(IterableDataset):
    """Endless training batches, other ones in each process and worker; shards that appear meanwhile are picked up."""

    def __init__(self, folder: Path, config: DictConfig, step: int, rank: int = 0):
        self.folder, self.config, self.step, self.rank = folder, config, step, rank

    def __iter__(self) -> Iterator[Batch]:
        config, worker = self.config, get_worker_info()
        data = TrainingViews(self.folder, "train")
        rng = np.random.default_rng([config.seed, self.step, self.rank, worker.id if worker else 0])
        for count in itertools.count(1):
            sources = 1 + rng.choice(len(config.source_counts), p=list(config.source_counts))
            yield data.batch(rng, config.objects, sources, config.targets)
            if count % REFRESH == 0:
                data.refresh()


def train(config: DictConfig, rank: int = 0) -> Trainer:
    """Train until the minutes are used up; a killed run goes on from its last checkpoint.

    Args:
        rank: which of `config.processes` this one is; the first writes the checkpoint and the curve.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    trainer = Trainer(config, rank)
    trainer.load()
    folder = root_dir() / config.data
    held_out = TrainingViews(folder, "val")
    loader = DataLoader(Batches(folder, config, trainer.step, rank), batch_size=None, num_workers=config.workers)
    generator = torch.Generator(trainer.device).manual_seed(config.seed + trainer.step + 10**6 * rank)
    losses, last = [], time.monotonic()
    saved = last
    bar = tqdm(initial=trainer.step, unit="step", desc="training", mininterval=10, disable=rank > 0)
    for batch in loader:
        if trainer.minutes >= config.max_minutes or (config.max_steps and trainer.step >= config.max_steps):
            break
        now = time.monotonic()
        trainer.minutes, last = trainer.minutes + (now - last) / 60, now
        losses.append(trainer.train_step(batch.to(trainer.device), generator))
        bar.update()
        if rank > 0:
            continue
        if time.monotonic() - saved > 60 * config.checkpoint_minutes:
            trainer.save()
            saved = time.monotonic()
        if trainer.step % config.validate_steps == 0:
            log_row(trainer.path.with_name("curve.csv"), curve_row(trainer, losses, held_out))
            losses, last = [], time.monotonic()
    if rank == 0:
        trainer.save()
        print(trainer)
    return trainer


def curve_row(trainer: Trainer, losses: list[dict[str, Tensor]], held_out: TrainingViews) -> dict[str, float]:
    """Where training stands: mean losses since the last row, and scores of the averaged model."""
    row = {"step": trainer.step, "objects": trainer.objects, "minutes": round(trainer.minutes, 2)}
    row |= {name: mean_loss(losses, name) for name in ("colour", "mask", "depth", "denoising")}
    row |= validate(trainer.averaged_model(), held_out, trainer.device)
    tqdm.write(str(row))
    return row


def train_in_process(rank: int, config: DictConfig, meeting: str) -> None:
    """One of several processes, which find each other by the file `meeting`."""
    backend = "gloo" if config.device == "cpu" else "nccl"
    dist.init_process_group(backend, init_method=f"file://{meeting}", rank=rank, world_size=config.processes)
    try:
        train(config, rank)
    finally:
        dist.destroy_process_group()


def main() -> None:
    config = merge_overrides(OmegaConf.create(DEFAULTS), sys.argv[1:])
    if config.export:
        trainer = Trainer(config)
        trainer.load()
        trainer.export(root_dir() / config.export)
        print(trainer)
    elif config.processes > 1:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(train_in_process, args=(config, str(Path(folder) / "meeting")), nprocs=config.processes)
    else:
        train(config)


if __name__ == "__main__":
    with one_line_errors():
        main()
