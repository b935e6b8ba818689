"""Train stage 1's network on toys and modelled objects.

    python dataset/training_views.py toys                       # once: the training views
    nice python relposepp/train.py max_minutes=75 threads=1     # resumes where it was stopped
    python relposepp/train.py --export                          # averaged weights of the latest checkpoint

Settings: configs/train.yaml. The curve is runs/relposepp/curve.csv; the averaged weights go to relposepp/weights/.
"""

import argparse
import csv
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from dataset.training_views import TrainingViews
from relposepp.attitude import attitude_loss, bin_labels, expected
from relposepp.correlation import azimuth_labels
from relposepp.model import ModelConfig, RelativePose, load_model, save_model
from relposepp.training_sets import augment, turned_views, view_sets
from sap3d.cameras import maths as cam
from sap3d.errors import UserError, one_line_errors
from sap3d.files import atomic_file, root_dir
from sap3d.runs import devices
from sap3d.runs.options import merge_overrides

CONFIG = Path(__file__).parent / "configs/train.yaml"
CURVE = ("step", "minutes", "train_loss", "val_loss", "val_azimuth_median", "val_rotation_median", "val_acc30",
         "val_elevation_mean", "val_radius_mean", "val_roll_median")  # fmt: skip


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean divergence from soft labels, so that 0 is perfect."""
    return F.kl_div(logits.log_softmax(-1), labels, reduction="batchmean")


@dataclass
class Outputs:
    """What `sets_forward` finds out about O sets of N views, P = N · (N − 1) / 2 pairs each."""

    pairs: Tensor  # azimuth logits, [O, P, bins]
    elevation: Tensor  # logits, [O · N, …]
    radius: Tensor  # logits, [O · N, …]
    astray: Tensor | None = None  # pairs (0, 1) … (0, N − 1) with view 0's elevation far off, [O, N − 1, bins]


def sets_forward(
    model: RelativePose, images: Tensor, cameras: Tensor | None, config: DictConfig, generator: torch.Generator
) -> Outputs:
    """Run the network on sets of views.

    Args:
        images: [O, N, 4, 128, 128].
        cameras: what the lifting is told, up to noise: [O, N, 3]; None takes the network's own estimates.
    """
    count, views = images.shape[:2]
    encoding, elevation_logits, radius_logits = model.encode(images.flatten(0, 1))
    if cameras is None:
        elevation, radius = model.expected_elevation(elevation_logits), model.expected_radius(radius_logits)
    else:
        noise = torch.randn(2, count * views, generator=generator).to(images.device)
        elevation = cameras[..., 0].flatten() + noise[0] * math.radians(config.elevation_noise)
        radius = cameras[..., 2].flatten() * (1 + noise[1] * config.radius_noise)
    signature = model.signatures(encoding, elevation, radius)
    sets = torch.arange(count)[:, None] * views
    first, second = ((sets + view).flatten() for view in torch.triu_indices(views, views, 1))
    logits = model.pair_logits(signature[first], signature[second])
    outputs = Outputs(logits.unflatten(0, (count, -1)), elevation_logits, radius_logits)
    if cameras is not None:
        amount = torch.empty(count).uniform_(*config.astray, generator=generator)
        sign = torch.randint(2, (count,), generator=generator) * 2 - 1
        wrong = cameras[:, 0, 0] + torch.deg2rad(amount * sign).to(images.device)
        astray = model.signatures(encoding[::views], wrong, radius[::views])
        others = (sets + torch.arange(1, views)).flatten()
        logits = model.pair_logits(astray[others // views], signature[others])
        outputs.astray = logits.unflatten(0, (count, -1))
    return outputs


def losses(model: RelativePose, outputs: Outputs, cameras: Tensor, config: DictConfig) -> Tensor:
    """Weighted loss of `sets_forward`'s outputs against true cameras [O, N, 3]."""
    views = cameras.shape[1]
    first, second = torch.triu_indices(views, views, 1)
    delta = cameras[:, second, 1] - cameras[:, first, 1]
    labels = azimuth_labels(delta, outputs.pairs.shape[-1], math.radians(config.label_sigma))
    flat = cameras.flatten(0, 1)
    loss = (
        cross_entropy(outputs.pairs.flatten(0, 1), labels.flatten(0, 1))
        + config.elevation_weight * cross_entropy(outputs.elevation, bin_labels(flat[:, 0], model.elevations))
        + config.radius_weight * cross_entropy(outputs.radius, bin_labels(flat[:, 2], model.radii))
    )
    if outputs.astray is not None:
        # View 0's pairs come first. Over azimuths at both its elevations, all the probability belongs to the right one:
        # this makes the evidence of `joint_elevations` comparable between elevations.
        both = torch.cat([outputs.pairs[:, : views - 1], outputs.astray], -1).flatten(0, 1)
        joint = cross_entropy(both, F.pad(labels[:, : views - 1], (0, labels.shape[-1])).flatten(0, 1))
        loss = loss + config.joint_weight * joint
    return loss


@torch.no_grad()
def validate(model: RelativePose, data: TrainingViews, config: DictConfig, device: torch.device) -> list[float]:
    """Loss, median azimuth and rotation error (°), accuracy at 30°, mean elevation (°) and radius error; median error
    of the rolls of turned views (°).

    The same view sets each time; pairs on their own, without global inference.
    """
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    found = {name: [] for name in ("loss", "azimuth", "rotation", "elevation", "radius", "roll")}
    first, second = torch.triu_indices(config.views, config.views, 1)
    for _ in range(max(1, config.validation_objects // config.objects)):
        images, cameras, rolls = view_sets(data, rng, config)
        turned = turned_views(
            images.flatten(0, 1), cameras[..., 0].flatten(), rolls.flatten(), rolls.numel(), generator
        )
        found["roll"].append(expected(model.attitude(turned[0].to(device)).cpu())[1] - turned[2])
        images, cameras = images.to(device), cameras.to(device)
        with devices.autocast(device):
            outputs = sets_forward(model, images, None, config, generator)
        found["loss"].append(losses(model, outputs, cameras, config)[None])
        elevation, radius = model.expected_elevation(outputs.elevation), model.expected_radius(outputs.radius)
        delta = outputs.pairs.argmax(-1) * (2 * math.pi / outputs.pairs.shape[-1])
        found["azimuth"].append(cam.wrap_angle(delta - (cameras[:, second, 1] - cameras[:, first, 1])).flatten())
        elevation = elevation.view(cameras.shape[:2])
        found["rotation"].append(pair_rotation_errors(elevation, delta, cameras, first, second).flatten())
        found["elevation"].append((elevation - cameras[..., 0]).flatten())
        found["radius"].append(radius - cameras[..., 2].flatten())
    errors = {name: torch.cat(parts).abs() for name, parts in found.items()}
    degrees = {name: errors[name].rad2deg() for name in ("azimuth", "rotation", "elevation", "roll")}
    medians = [degrees[name].median().item() for name in ("azimuth", "rotation", "roll")]
    near = (degrees["rotation"] < 30).float().mean().item()
    return [errors["loss"].mean().item(), *medians[:2], near, degrees["elevation"].mean().item(),
            errors["radius"].mean().item(), medians[2]]  # fmt: skip


def pair_rotation_errors(elevation: Tensor, delta: Tensor, cameras: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Angles in radians between estimated and true relative rotations of pairs, [O, P].

    Args:
        elevation: estimates, [O, N].
        delta: estimated azimuth differences, [O, P].
        cameras: truth, [O, N, 3].
        first, second: view indices of the pairs, [P].
    """
    zero = torch.zeros_like(delta)
    axes_first = cam.camera_axes(torch.stack([elevation[:, first], zero, zero], -1))
    axes_second = cam.camera_axes(torch.stack([elevation[:, second], delta, zero], -1))
    axes = cam.camera_axes(cameras)
    estimate = axes_first.transpose(-1, -2) @ axes_second
    truth = axes[:, first].transpose(-1, -2) @ axes[:, second]
    return cam.rotation_angle(estimate.transpose(-1, -2) @ truth)


class Run:
    """Model, averaged model and optimizer, with where they stand in time."""

    def __init__(self, config: DictConfig, device: torch.device):
        self.config, self.device = config, device
        self.model_config = ModelConfig(**OmegaConf.to_container(config.model))
        if config.start:
            self.model = load_model(root_dir() / config.start, device)
        else:
            self.model = RelativePose(self.model_config).to(device, memory_format=torch.channels_last)
        self.model.train().requires_grad_(True)
        self.average = RelativePose(self.model_config).to(device, memory_format=torch.channels_last)
        self.average.load_state_dict(self.model.state_dict())
        self.average.requires_grad_(False)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        decay = [p for p in trained if p.ndim > 1]
        rest = [p for p in trained if p.ndim <= 1]
        groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))
        self.step, self.seconds = 0, 0.0
        self.folder = root_dir() / config.run

    def learning_rate(self) -> float:
        """Linear warm-up in steps, cosine in elapsed time: the schedule ends when the time is up."""
        warmup = min(1.0, (self.step + 1) / self.config.warmup_steps)
        elapsed = min(1.0, max(self.seconds / (60 * self.config.max_minutes), self.step / self.config.max_steps))
        return self.config.learning_rate * warmup * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * elapsed)))

    def train_step(
        self, images: Tensor, cameras: Tensor, turned: tuple[Tensor, Tensor, Tensor], generator: torch.Generator
    ) -> float:
        """One optimizer step on sets [O, N, …], and on views of `turned_views`; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        with devices.autocast(self.device):
            outputs = sets_forward(self.model, images, cameras, self.config, generator)
            attitude = self.model.attitude(turned[0])
        loss = losses(self.model, outputs, cameras, self.config)
        loss = loss + self.config.attitude_weight * attitude_loss(attitude, *turned[1:])
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        self.step += 1
        return loss.item()

    def save(self) -> None:
        """Write the checkpoint atomically."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        with atomic_file(self.folder / "checkpoint.pt") as partial:
            torch.save(state, partial)

    def resume(self) -> bool:
        """Load the checkpoint if there is one."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        return True


def log_curve(path: Path, row: list[float]) -> None:
    """Append a row to the CSV curve."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(CURVE)
        writer.writerow([f"{value:.4g}" if isinstance(value, float) else value for value in row])


def train(config: DictConfig) -> None:
    """Train until the time or the steps are up, then export the averaged weights."""
    torch.set_num_threads(config.threads)
    devices.seed_everything(config.seed)
    device = devices.choose_device(str(config.device))
    run = Run(config, device)
    print(f"resumed at step {run.step}" if run.resume() else "from scratch", flush=True)
    run.folder.mkdir(parents=True, exist_ok=True)
    data, held_out = (TrainingViews(root_dir() / config.data, split) for split in ("train", "val"))
    rng = np.random.default_rng([config.seed, run.step])
    generator = torch.Generator().manual_seed(config.seed + run.step)
    recent, last_save, clock = [], run.seconds, time.monotonic()
    while run.seconds < 60 * config.max_minutes and run.step < config.max_steps:
        images, cameras, rolls = view_sets(data, rng, config)
        flat = augment(images.flatten(0, 1), config.augment, generator)
        turned = turned_views(flat, cameras[..., 0].flatten(), rolls.flatten(), config.turned, generator)
        turned = tuple(part.to(device) for part in turned)
        recent.append(run.train_step(flat.view_as(images).to(device), cameras.to(device), turned, generator))
        now = time.monotonic()
        run.seconds, clock = run.seconds + now - clock, now
        if run.step % 50 == 0:
            minutes, rate = run.seconds / 60, run.learning_rate()
            print(f"step {run.step}  {minutes:.1f} min  loss {np.mean(recent[-50:]):.3f}  lr {rate:.1e}", flush=True)
        done = run.seconds >= 60 * config.max_minutes or run.step >= config.max_steps
        if done or run.seconds - last_save > 60 * config.checkpoint_minutes:
            scores = validate(run.average, held_out, config, device)
            run.save()
            log_curve(run.folder / "curve.csv", [run.step, run.seconds / 60, float(np.mean(recent)), *scores])
            print("validation  " + "  ".join(f"{k[4:]} {v:.3g}" for k, v in zip(CURVE[3:], scores)), flush=True)
            recent, last_save = [], run.seconds
            data.refresh()
    save_model(run.average, root_dir() / config.weights)


def export(config: DictConfig) -> None:
    """Write the latest checkpoint's averaged weights.

    Raises:
        UserError: no checkpoint.
    """
    run = Run(config, torch.device("cpu"))
    if not run.resume():
        raise UserError(f"{run.folder / 'checkpoint.pt'}: no checkpoint; train first")
    save_model(run.average, root_dir() / config.weights)
    print(f"step {run.step} → {root_dir() / config.weights}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", action="store_true", help="only write the latest checkpoint's averaged weights")
    parser.add_argument("overrides", nargs="*", help="key=value of configs/train.yaml")
    arguments = parser.parse_args()
    config = merge_overrides(OmegaConf.load(CONFIG), arguments.overrides)
    export(config) if arguments.export else train(config)


if __name__ == "__main__":
    with one_line_errors():
        main()
