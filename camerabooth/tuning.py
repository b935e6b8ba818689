"""Test-time training: the diffusion model and the pose table learn an object together (SAP3D, arXiv 2404.03652, §3.2).

Each input view is denoised given others at the current poses; gradients reach the network, the cameras, and a volume
of features in the world's frame that belongs to the object. Views between the inputs, to which voxels fitted to the
inputs have contributed, are denoised given all inputs. Procedural objects with known cameras are denoised beside them,
so that the model keeps what it knew (prior preservation, DreamBooth, arXiv 2208.12242).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytorch_lightning as lightning
import torch
from omegaconf import DictConfig
from torch import Tensor

from camerabooth.backbones.interface import TRAIN_TIMESTEPS, Condition, DiffusionModel, Prepared, Sources
from camerabooth.instance_field import InstanceField
from camerabooth.sampling import sample
from sap3d.cameras.maths import plain, wrap_angle
from sap3d.cameras.poses import PoseTable
from sap3d.runs.devices import step_generator

# Noise levels of their own, with noise that training never draws: when tuning no longer helps there, it has learned
# what it can.
HELD_OUT_TIMESTEPS = [650, 900]
SYNTHESISED_ELEVATIONS = (math.radians(-15), math.radians(60))


class TestTimeTraining(lightning.LightningModule):
    """Two parameter groups, network and poses, each with its own learning rate.

    Args:
        images: input views in [0, 1], [N, 4, S, S].
        poses: their cameras. Where they go is written into `trajectory`, [steps + 1, N, 3].
        regularisation: images [K, V, 4, S, S] and cameras [K, V, 3] of procedural objects.
        synthesised: `synthesised_views`, images [V, 4, S, S] and cameras [V, 3]; V may be 0.
    """

    __test__ = False  # not a pytest class, whatever its name

    def __init__(
        self,
        model: DiffusionModel,
        poses: PoseTable,
        images: Tensor,
        regularisation: tuple[Tensor, Tensor],
        synthesised: tuple[Tensor, Tensor],
        config: DictConfig,
        seed: int,
    ):
        super().__init__()
        self.model, self.poses, self.config = model, poses, config
        with torch.no_grad():
            self.views, self.prior = model.prepare(images), model.prepare(regularisation[0])
            self.synthesised = model.prepare(synthesised[0]) if len(synthesised[0]) else None
        self.register_buffer("prior_cameras", regularisation[1], persistent=False)
        self.register_buffer("synthesised_cameras", synthesised[1], persistent=False)
        self.seed, self.generator = seed, step_generator(seed, 0)
        self.register_buffer("trajectory", poses.cameras().expand(config.steps + 1, -1, -1).clone())
        if config.poses_only:
            model.requires_grad_(False)

    def configure_optimizers(self):
        config = self.config
        trained = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        instance = [trained.pop("instance")] if "instance" in trained else []
        optimizer = torch.optim.AdamW(
            [
                {"params": list(trained.values()), "lr": config.learning_rate},
                {"params": instance, "lr": config.instance_learning_rate},
                {"params": self.poses.parameters(), "lr": config.pose_learning_rate},
            ],
            weight_decay=0.0,
            betas=(0.9, 0.99),
        )

        def ramp(step: int) -> float:  # linear warm-up, then linear decay
            return min(1.0, (step + 1) / config.warmup_steps) * (1 - step / config.steps)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, ramp)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, _, step: int) -> Tensor:
        self.generator = step_generator(self.seed, step)
        loss = self._instance_loss()
        synthesised, prior = loss.new_zeros(()), loss.new_zeros(())
        if self.synthesised is not None:
            synthesised = self._synthesised_loss()
        if self.config.prior_weight > 0 and not self.config.poses_only:
            prior = self._prior_loss()
        self.log_dict({"loss": loss, "synthesised_loss": synthesised, "prior_loss": prior}, prog_bar=True)
        return loss + self.config.synthesised_weight * synthesised + self.config.prior_weight * prior

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
        """Denoise random inputs, each given a random subset of the others (of itself when it is alone)."""
        cameras, count = self.poses(), self.config.batch
        views = len(cameras)
        sources = 1 + int(torch.randint(max(views - 1, 1), (1,), generator=self.generator))
        order = torch.stack([torch.randperm(views, generator=self.generator) for _ in range(count)])
        target, chosen = order[:, 0], order[:, 1 : 1 + sources] if views > 1 else order
        subset = self.model.embed(self.views, cameras).select(chosen)
        return self._denoising_loss(subset, self.views[target][:, None], cameras[target][:, None])

    def _synthesised_loss(self) -> Tensor:
        """Denoise views between the inputs, given all inputs."""
        rows = torch.randint(len(self.synthesised_cameras), (self.config.batch,), generator=self.generator)
        # The voxels know only where the cameras were when they were fitted.
        sources = self.model.embed(self.views, self.poses().detach())
        return self._denoising_loss(sources, self.synthesised[rows][None], self.synthesised_cameras[rows][None])

    def _prior_loss(self) -> Tensor:
        """Denoise procedural objects at their true cameras."""
        objects, views = self.prior_cameras.shape[:2]
        rows = torch.randint(objects, (self.config.prior_batch,), generator=self.generator)
        order = torch.randperm(views, generator=self.generator)
        count = 1 + int(torch.randint(min(3, views - 1), (1,), generator=self.generator))
        shown, cameras = self.prior[rows][:, order], self.prior_cameras[rows][:, order]
        sources = replace(self.model.embed(shown[:, :count], cameras[:, :count]), instance=None)
        return self._denoising_loss(sources, shown[:, count : count + 1], cameras[:, count : count + 1])

    def _denoising_loss(self, sources: Sources, targets: Prepared, cameras: Tensor) -> Tensor:
        latents = targets.latents.flatten(0, 1)
        count, device = len(latents), latents.device
        timesteps = torch.randint(TRAIN_TIMESTEPS, (count,), generator=self.generator)
        timesteps[torch.rand(count, generator=self.generator) < self.config.pure_noise] = TRAIN_TIMESTEPS - 1
        noise = torch.randn(latents.shape, generator=self.generator)
        condition = self.model.training_condition(sources, cameras, torch.rand(count, generator=self.generator))
        return self.model.denoising_error(latents, condition, timesteps.to(device), noise.to(device)).mean()


@torch.no_grad()
def synthesised_views(
    model: DiffusionModel, images: Tensor, cameras: Tensor, field: InstanceField | None, count: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Views from all around, at the inputs' mean radius: half voxels fitted to the inputs, half the model's own.

    Voxels are right where inputs agree and wrong where nothing was seen; the embedded model's mean is blurred
    everywhere. Their errors have little in common, so their average is nearer to the truth than either, or not far from
    the better one.

    Args:
        model: as pretrained.
        images: input views in [0, 1], [N, 4, S, S]; cameras: [N, 3].
        field: of the inputs; there is none, nor are there views, for one or two, whose voxels have no back.
        count: how many.

    Returns:
        Images [count, 4, S, S] and cameras [count, 3].
    """
    if field is None or count == 0:
        return images[:0], cameras[:0]
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(count, 2, generator=generator)
    low, high = SYNTHESISED_ELEVATIONS
    elevation, azimuth = low + (high - low) * draw[:, 0], wrap_angle(2 * math.pi * draw[:, 1])
    radius = plain(cameras)[:, 2].mean().cpu().expand(count)
    targets = torch.stack([elevation, azimuth, radius], -1).to(cameras)
    rendered = field.render(targets, model.image_size)
    own = sample(model, model.embed_sources(images, cameras), targets, generator, **model.sampling)
    return (rendered + own) / 2, targets


def leave_one_out(
    model: DiffusionModel, images: Tensor, cameras: Tensor, timesteps: Sequence[int] | None = None, draws: int = 1
) -> Tensor:
    """How well the views explain each other (ID-Pose's objective, arXiv 2306.17140, over joint sources).

    Every view is denoised given all others, with fixed noise, so that configurations can be compared error by error.

    Args:
        timesteps: by default the model's own.

    Returns:
        `DiffusionModel.energy`, [T · draws, N], whose mean is the energy of the configuration.
    """
    timesteps = model.settings.energy_timesteps if timesteps is None else timesteps
    return prepared_energies(model, model.prepare(images), cameras, timesteps, draws)


@torch.no_grad()
def prepared_energies(
    model: DiffusionModel, views: Prepared, cameras: Tensor, timesteps: Sequence[int], draws: int = 1
) -> Tensor:
    """`leave_one_out` of prepared views."""
    generator = torch.Generator().manual_seed(0)
    embedded, count = model.embed(views, cameras), len(cameras)
    condition = Condition.joined(
        [model.condition(embedded.select(others(view, count)), cameras[view : view + 1]) for view in range(count)]
    )
    latents, energies = views.latents, []
    for timestep in [timestep for timestep in timesteps for _ in range(draws)]:
        steps = torch.full((count,), timestep, device=latents.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        energies.append(model.energy(latents, condition, steps, noise))
    return torch.stack(energies)


@torch.no_grad()
def seen_from_others(model: DiffusionModel, images: Tensor, cameras: Tensor, seed: int = 0) -> Tensor:
    """Each of the views [N, 4, S, S] as the model makes it of all others, in [0, 1], [N, 4, S, S]."""
    embedded, count, generator = model.embed_sources(images, cameras), len(images), torch.Generator().manual_seed(seed)
    views = [
        sample(model, embedded.select(others(view, count)), cameras[view : view + 1], generator, **model.sampling)
        for view in range(count)
    ]
    return torch.cat(views)


def others(view: int, count: int) -> Tensor:
    """Numbers of all of `count` views but one; of one alone, its own."""
    return torch.tensor([other for other in range(count) if other != view or count == 1])


def clearly_lower(errors: Tensor, than: Tensor) -> bool:
    """Whether paired errors are lower by more than two standard errors of their mean difference.

    A configuration that is better by less is as likely worse: noise and pixels differ from view to view.
    """
    drop = (than - errors).flatten()
    return bool(drop.mean() > 2 * drop.std() / len(drop) ** 0.5)
