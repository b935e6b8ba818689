"""Test-time training: the diffusion model and the pose table learn an object together (SAP3D, arXiv 2404.03652, §3.2).

Each input view is denoised given others at the current poses; gradients reach the network and the cameras. Procedural
objects with known cameras are denoised beside them, so that the model keeps what it knew (prior preservation,
DreamBooth, arXiv 2208.12242).
"""

import pytorch_lightning as lightning
import torch
from omegaconf import DictConfig
from torch import Tensor

from camerabooth.backbones.interface import TRAIN_TIMESTEPS, DiffusionModel, Prepared, Sources
from camerabooth.judge import prepared_energies
from sap3d.cameras.poses import PoseTable
from sap3d.runs.devices import step_generator

# Noise levels of their own, with noise that training never draws: when tuning no longer helps there, it has learned
# what it can.
HELD_OUT_TIMESTEPS = [650, 900]
PRIOR_SOURCES = 3  # at most, of a procedural object


class TestTimeTraining(lightning.LightningModule):
    """Two parameter groups, network and poses, each with its own learning rate.

    Args:
        images: input views in [0, 1], [N, 4, S, S].
        poses: their cameras. Where they go is written into `trajectory`, [steps + 1, N, 3].
        regularisation: images [K, V, 4, S, S] and cameras [K, V, 3] of procedural objects.
    """

    __test__ = False  # not a pytest class, whatever its name

    def __init__(
        self,
        model: DiffusionModel,
        poses: PoseTable,
        images: Tensor,
        regularisation: tuple[Tensor, Tensor],
        config: DictConfig,
        seed: int,
    ):
        super().__init__()
        self.model, self.poses, self.config = model, poses, config
        with torch.no_grad():
            self.views, self.prior = model.prepare(images), model.prepare(regularisation[0])
        self.register_buffer("prior_cameras", regularisation[1], persistent=False)
        self.seed, self.generator = seed, step_generator(seed, 0)
        self.register_buffer("trajectory", poses.cameras().expand(config.steps + 1, -1, -1).clone())
        if config.poses_only:
            model.requires_grad_(False)

    def configure_optimizers(self):
        config = self.config
        trained = [value for value in self.model.parameters() if value.requires_grad]
        optimizer = torch.optim.AdamW(
            [
                {"params": trained, "lr": config.learning_rate},
                {"params": self.poses.parameters(), "lr": config.pose_learning_rate},
            ],
            weight_decay=0.0,
            betas=(0.9, 0.99),
            fused=self.device.type == "cuda",  # else torch's way on GPUs takes as much memory again as what is trained
        )

        def ramp(step: int) -> float:  # linear warm-up, then linear decay
            return min(1.0, (step + 1) / config.warmup_steps) * (1 - step / config.steps)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, ramp)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, _, step: int) -> Tensor:
        self.generator = step_generator(self.seed, step)
        loss = self._instance_loss()
        prior = loss.new_zeros(())
        if self.config.prior_weight > 0 and not self.config.poses_only:
            prior = self._prior_loss()
        self.log_dict({"loss": loss, "prior_loss": prior}, prog_bar=True)
        return loss + self.config.prior_weight * prior

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Leave out what is held: it is on disk already, and of a large model it is nearly everything."""
        held = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if name not in held}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["state_dict"] = self.state_dict() | checkpoint["state_dict"]

    def optimizer_step(self, *arguments, **options) -> None:
        super().optimizer_step(*arguments, **options)
        self.poses.project()
        self.trajectory[self.global_step + 1 :] = self.poses.cameras().to(self.trajectory)

    def validation_step(self, *_) -> None:
        energy = prepared_energies(self.model, self.views, self.poses().detach(), HELD_OUT_TIMESTEPS).mean()
        self.log("held_out", energy, prog_bar=True)

    def _instance_loss(self) -> Tensor:
        """Denoise inputs, given a random subset of the others (of itself when it is alone)."""
        cameras = self.poses()
        shown, hidden = self._split(len(cameras), len(cameras) - 1)
        sources = self.model.embed(self.views[shown], cameras[shown])
        return self._denoising_loss(sources, self.views[hidden], cameras[hidden], self.config.batch)

    def _prior_loss(self) -> Tensor:
        """Denoise views of a procedural object at its true cameras."""
        objects, views = self.prior_cameras.shape[:2]
        row = int(torch.randint(objects, (1,), generator=self.generator))
        shown, hidden = self._split(views, PRIOR_SOURCES)
        cameras, count = self.prior_cameras[row], self.config.prior_batch
        sources = self.model.embed(self.prior[row][shown], cameras[shown])
        hidden = hidden[:count]
        return self._denoising_loss(sources, self.prior[row][hidden], cameras[hidden], count)

    def _split(self, views: int, most: int) -> tuple[Tensor, Tensor]:
        """Random views that are shown, `most` or fewer, and all others; one view alone is both."""
        order = torch.randperm(views, generator=self.generator)
        if views == 1:
            return order, order
        shown = 1 + int(torch.randint(min(most, views - 1), (1,), generator=self.generator))
        return order[:shown], order[shown:]

    def _denoising_loss(self, sources: Sources, targets: Prepared, cameras: Tensor, count: int) -> Tensor:
        """Mean error of `count` noisy versions of target views [M, …] at cameras [M, 3]; M may be less."""
        rows = torch.arange(count) % len(cameras)
        latents, device = targets.latents[rows], targets.latents.device
        timesteps = torch.randint(TRAIN_TIMESTEPS, (count,), generator=self.generator)
        timesteps[torch.rand(count, generator=self.generator) < self.config.pure_noise] = TRAIN_TIMESTEPS - 1
        noise = torch.randn(latents.shape, generator=self.generator)
        condition = self.model.training_condition(sources, cameras, rows, torch.rand(count, generator=self.generator))
        return self.model.denoising_error(latents, condition, timesteps.to(device), noise.to(device)).mean()
