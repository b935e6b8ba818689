"""Training runs that a kill does not undo: Lightning with checkpoints, resumed when it is the same run again."""

import hashlib
import logging
import pickle
import shutil
import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor
from torch.utils.data import DataLoader

from sap3d.files import atomic_file, disk_errors

CHECKPOINT = "checkpoint"  # name in a run's folder, with .ckpt
CHECKPOINT_STEPS = 20


class Fingerprint(Callback):
    """Writes into each checkpoint what run it is of."""

    def __init__(self, fingerprint: str):
        self.fingerprint = fingerprint

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict) -> None:
        checkpoint["fingerprint"] = self.fingerprint


class TrainedAverage(Callback):
    """Exponential average of what is trained, and of nothing else: validation sees it, and it is left at the end.

    What is frozen, of a large model nearly everything, is not copied, as Lightning's own would.
    """

    def __init__(self, decay: float):
        self.decay, self.average = decay, None

    def on_train_start(self, trainer, module) -> None:
        if self.average is None:
            self.average = [parameter.detach().clone() for parameter in self._trained(module)]
        self.average = [mean.to(module.device) for mean in self.average]

    def on_train_batch_end(self, trainer, module, *_) -> None:
        share = 1 - self.decay if trainer.global_step > 1 else 1.0
        for mean, parameter in zip(self.average, self._trained(module)):
            mean.lerp_(parameter.detach(), share)

    def on_validation_start(self, trainer, module) -> None:
        self._swap(module)

    def on_validation_end(self, trainer, module) -> None:
        self._swap(module)

    def on_train_end(self, trainer, module) -> None:
        self._swap(module)

    def state_dict(self) -> dict:
        return {"average": self.average}

    def load_state_dict(self, state: dict) -> None:
        self.average = state["average"]

    def _trained(self, module: pl.LightningModule) -> list[Tensor]:
        return [parameter for parameter in module.parameters() if parameter.requires_grad]

    @torch.no_grad()
    def _swap(self, module: pl.LightningModule) -> None:
        for mean, parameter in zip(self.average, self._trained(module)):
            held = parameter.clone()
            parameter.copy_(mean)
            mean.copy_(held)


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints beside their place: Lightning's own way leads over TMPDIR, and a kill leaves them there."""

    def save_checkpoint(self, checkpoint: dict, path: str, storage_options: object = None) -> None:
        with atomic_file(Path(path)) as partial:
            torch.save(checkpoint, partial)


def fingerprint(*parts: object) -> str:
    """SHA-256 of tensors, by their bytes, of files, by their content, and of other objects, by their repr."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):  # as bytes: numpy has no bfloat16
            digest.update(part.detach().cpu().reshape(-1).view(torch.uint8).numpy())
        else:
            digest.update(part.read_bytes() if isinstance(part, Path) else repr(part).encode())
    return digest.hexdigest()


def fit(
    module: pl.LightningModule,
    steps: int,
    device: torch.device,
    folder: Path,
    run: str,
    callbacks: tuple[Callback, ...] = (),
    log_every: int = 5,
    validate_every: int | None = None,
    scaled: bool = False,
) -> None:
    """Train `module`, whose batches are nothing but the numbers of the steps; its training_step must draw by them.

    A run that was killed goes on from its last checkpoint to the result it would have had. At the end the checkpoint is
    removed.

    Args:
        folder: of the checkpoint and the logs (log/from_step_N, CSV and TensorBoard).
        run: fingerprint; the checkpoint of another run is not resumed.
        validate_every: steps; the module's validation_step then gets one batch.
        scaled: float16 arithmetic, whose gradients must be scaled: below 6e-8 they are zero.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for hint in ("pytorch_lightning", "lightning_fabric"):  # about hardware, loaders and existing folders
        warnings.filterwarnings("ignore", module=hint)
    path = folder / f"{CHECKPOINT}.ckpt"
    first = resumed_step(path, run)
    if first is None:
        path.unlink(missing_ok=True)
        shutil.rmtree(folder / "log", ignore_errors=True)
    else:
        print(f"resuming from step {first}", flush=True)
    logs = {"save_dir": folder, "name": "log", "version": f"from_step_{first or 0}"}
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=1,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=[device.index] if device.type == "cuda" else 1,
        plugins=[WholeCheckpoints(), *([MixedPrecision("16-mixed", device.type)] if scaled else [])],
        logger=[CSVLogger(**logs), TensorBoardLogger(**logs)],
        log_every_n_steps=log_every,
        callbacks=[
            TQDMProgressBar(refresh_rate=5),
            Fingerprint(run),
            ModelCheckpoint(
                folder,
                filename=CHECKPOINT,
                every_n_train_steps=CHECKPOINT_STEPS,
                enable_version_counter=False,
                save_on_train_epoch_end=False,
            ),
            *callbacks,
        ],
        val_check_interval=validate_every,
        check_val_every_n_epoch=None if validate_every else 1,
        limit_val_batches=1 if validate_every else 0,
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    loaders = DataLoader(range(steps)), DataLoader(range(1))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with disk_errors(folder / "log"):
            trainer.fit(module, *loaders, ckpt_path=None if first is None else path, weights_only=True)
    except Exception:
        print(file=sys.stderr)  # so that an error does not stand behind the bar
        raise
    path.unlink(missing_ok=True)


def resumed_step(path: Path, run: str) -> int | None:
    """The step that a checkpoint of this run goes on from, or None."""
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError):
        return None  # not whole, or not ours: the run starts anew
    return state["global_step"] if state.get("fingerprint") == run else None
