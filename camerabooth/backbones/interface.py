"""What a view-conditioned diffusion model is to tuning, novel views and distillation, whatever its networks are.

A backbone is a folder beside this file: a subclass of `DiffusionModel` and its `Settings`, which travel with the
weights in a saved model's settings.json. `load_model` tells from a folder's files whose it is.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camerabooth.backbones.settings import Settings
from sap3d.cameras.maths import full_cameras

if TYPE_CHECKING:
    from diffusers import DDIMScheduler

TRAIN_TIMESTEPS = 1000


@dataclass
class Prepared:
    """What can be said of views [..., 4, S, S] without any weight that is tuned: once for all steps."""

    latents: Tensor  # [..., 4, s, s]
    images: Tensor | None = None  # where sources are embedded from them at each step
    features: Tensor | None = None  # [..., C], where they do not change

    def __getitem__(self, index: Any) -> "Prepared":
        parts = (getattr(self, each.name) for each in fields(self))
        return Prepared(*(part if part is None else part[index] for part in parts))


@dataclass
class Sources:
    """Posed source views, embedded once for all targets. B objects of N views each."""

    images: Tensor  # what the network sees of them directly, [B, N, 4, s, s]
    cameras: Tensor  # [B, N, 3]
    features: Tensor  # [B, N, C] or [B, N, C, s, s]
    instance: Tensor | None = None  # what tuning has learned of the object, in the world's frame, [C, R, R, R]

    def select(self, views: Tensor) -> "Sources":
        """Only some of the views; `views` is an index tensor [K]."""
        parts = (part[:, views] for part in (self.images, self.cameras, self.features))
        return type(self)(*parts, self.instance)

    def joined(self, other: "Sources") -> "Sources":
        """These views and the other's, of the same objects."""
        cameras = self.cameras, other.cameras
        if self.cameras.shape[-1] != other.cameras.shape[-1]:
            cameras = tuple(full_cameras(each) for each in cameras)
        pairs = (self.images, other.images), cameras, (self.features, other.features)
        return type(self)(*(torch.cat(pair, 1) for pair in pairs), self.instance)


@dataclass
class Condition:
    """What the denoising network is told about B · M targets: tensors of a row each, which backbones add."""

    cameras: Tensor  # of the targets, [B · M, 3]

    def dropped(self, drop: Tensor) -> "Condition":
        """With all but the cameras zero for the targets marked in `drop` [B · M], for classifier-free guidance."""
        told = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "cameras"}
        return replace(self, **{name: part * (~drop).to(part).view(-1, *[1] * (part.dim() - 1)) for name, part in
                                told.items()})  # fmt: skip

    def rows(self, chosen: Tensor) -> "Condition":
        """The targets `chosen` [K], any of them several times."""
        return replace(self, **{each.name: getattr(self, each.name)[chosen] for each in fields(self)})

    @classmethod
    def joined(cls, conditions: "list[Condition]") -> "Condition":
        """All rows of several, one after the other."""
        first = conditions[0]
        parts = {each.name: torch.cat([getattr(c, each.name) for c in conditions]) for each in fields(first)}
        return replace(first, **parts)

    @classmethod
    def gathered(cls, conditions: "list[Condition]", chosen: Tensor) -> "Condition":
        """Row m of the condition `chosen[m]`, for every m."""
        if len(conditions) == 1:
            return conditions[0]
        first, rows = conditions[0], torch.arange(len(chosen))
        chosen = chosen.to(first.cameras.device)
        parts = {each.name: torch.stack([getattr(c, each.name) for c in conditions]) for each in fields(first)}
        return replace(first, **{name: part[chosen, rows] for name, part in parts.items()})


class DiffusionModel(nn.Module):
    """Noise, guidance, losses and energies, on top of a `scheduler` and `settings`.

    A backbone adds `encode`, `decode`, `embed_sources`, `condition`, `denoise`, `training_target`, `clean_estimate`,
    `distillation_gradient`, `latent_size`, `save_pretrained` and `from_pretrained`.
    """

    scheduler: "DDIMScheduler"
    settings: Settings
    remembers = False  # whether `fit_instance` does anything
    knows_field = False  # whether it has `raw_field`

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def image_size(self) -> int:
        return self.settings.image_size

    @property
    def sampling(self) -> dict[str, Any]:
        """Options of `camerabooth.sampling.sample` that suit it."""
        return self.settings.sampling

    @property
    def tuning(self) -> dict[str, Any]:
        """Values of `tuning` (camerabooth/configs/sap3d.yaml) that suit it."""
        return self.settings.tuning

    def prepare_tuning(self) -> None:
        """Make what is tuned trainable, and nothing else; by default everything is."""

    def prepare(self, images: Tensor) -> Prepared:
        """What is said of views in [0, 1], [..., 4, S, S], once for all steps of tuning."""
        images = images.to(self.device)
        return Prepared(self.encode(images), images)

    def embed(self, views: Prepared, cameras: Tensor) -> Sources:
        """`embed_sources` of prepared views."""
        return self.embed_sources(views.images, cameras)

    def training_condition(self, sources: Sources, targets: Tensor, rows: Tensor, draw: Tensor) -> Condition:
        """`condition` of some targets of one object, [M, 3], any of them several times: `rows` [K] says which.

        Without the parts that this model's training drops for draws [K] from [0, 1).
        """
        return self.condition(sources, targets).rows(rows)

    def fit_instance(self, images: Tensor, cameras: Tensor, order: int, options: dict[str, Any], seed: int) -> Tensor:
        """Learn what belongs to one object beside the weights, from all its photos; a model that lifts nothing cannot.

        Args:
            images: views in [0, 1], [N, 4, S, S]; cameras: theirs, [N, ≥ 3].
            order: of the object's symmetry (`sap3d.cameras.symmetry`).
            options: `tuning.instance` of configs/sap3d.yaml.

        Returns:
            The cameras before every step and after the last, where they fit best, [steps + 1, N, ≥ 3].
        """
        return cameras[None]

    def conditional_mean(
        self, sources: Sources, targets: Tensor, generator: torch.Generator, size: int | None = None
    ) -> Tensor:
        """What is expected before anything is seen of the targets [M, 3] of one object, in [0, 1], [M, 4, S, S].

        One step of sampling, from pure noise; shrunk to `size`, if that is given.
        """
        condition = self.condition(sources, targets)
        shape = (len(condition.cameras), 4, self.latent_size, self.latent_size)
        noise = torch.randn(shape, generator=generator).to(self.device)
        timesteps = torch.full((len(noise),), TRAIN_TIMESTEPS - 1, device=self.device)
        mean = self.decode(self.clean_estimate(noise, timesteps, self.predict(noise, timesteps, condition)))
        return mean if size is None else F.interpolate(mean, size=(size, size), mode="area")

    def forget_object(self) -> None:
        """Drop what is remembered of one object beside the weights, if there is any."""

    def predict(self, noisy: Tensor, timesteps: Tensor, condition: Condition, guidance_scale: float = 1.0) -> Tensor:
        """The network's prediction (v or ε) with classifier-free guidance (arXiv 2207.12598).

        Args:
            noisy: latents, [B, 4, s, s].
            timesteps: integers in [0, 999], [B].
        """
        conditional = self.denoise(noisy, timesteps, condition)
        if guidance_scale == 1:
            return conditional
        none = condition.dropped(torch.ones(len(noisy), dtype=torch.bool, device=noisy.device))
        unconditional = self.denoise(noisy, timesteps, none)
        return unconditional + guidance_scale * (conditional - unconditional)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Forward process q(x_t | x_0)."""
        return self.scheduler.add_noise(latents, noise, timesteps)

    def noise_coefficients(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ and √(1 − ᾱ) of timesteps [B], each [B, 1, 1, 1]."""
        alpha = self.scheduler.alphas_cumprod.to(timesteps.device)[timesteps][:, None, None, None]
        return alpha.sqrt(), (1 - alpha).sqrt()

    def denoising_error(self, latents: Tensor, condition: Condition, timesteps: Tensor, noise: Tensor) -> Tensor:
        """Squared error of the prediction (v or ε) for latents [B, 4, s, s], averaged over each, [B]."""
        prediction = self.predict(self.add_noise(latents, noise, timesteps), timesteps, condition)
        target = self.training_target(latents, noise, timesteps)
        return F.mse_loss(prediction, target, reduction="none").mean((1, 2, 3))

    def energy(self, latents: Tensor, condition: Condition, timesteps: Tensor, noise: Tensor) -> Tensor:
        """Error of ε for latents [B, 4, s, s], [B], by which poses are judged (ID-Pose, arXiv 2306.17140).

        A clean estimate's is (1 − ᾱ)/ᾱ times that, 211 times at the last step, which would decide alone.
        """
        prediction = self.predict(self.add_noise(latents, noise, timesteps), timesteps, condition)
        return (prediction - noise).square().mean((1, 2, 3))

    def sds_gradient(
        self,
        rendered: Tensor,
        cameras: Tensor,
        sources: Sources,
        noise_level: Tensor,
        guidance_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Score distillation gradient with respect to rendered images (DreamFusion, arXiv 2209.14988, eq. 3).

        The model's `distillation_gradient` of the latents, pulled back through `encode`, and scaled by the number of
        image values to a latent value, so that its product with an image, averaged over the image, weighs as much as
        an average over the latents.

        Args:
            rendered: colour on white and opacity in [0, 1], [B, 4, S, S].
            cameras: [B, 3].
            noise_level: in (0, 1), [B]; time steps are its multiples of 999.

        Returns:
            Gradient with the shape of `rendered`; not part of any graph. That of the opacity is zero where `encode`
            drops it.
        """
        with torch.enable_grad():
            images = rendered.detach().requires_grad_()
            latents = self.encode(images)
        with torch.no_grad():
            timesteps = (noise_level * (TRAIN_TIMESTEPS - 1)).round().long()
            noise = torch.randn(latents.shape, generator=generator, device="cpu").to(latents.device)
            noisy = self.add_noise(latents, noise, timesteps)
            prediction = self.predict(noisy, timesteps, self.condition(sources, cameras), guidance_scale)
            weighted = self.distillation_gradient(latents, noise, noisy, timesteps, prediction)
        (gradient,) = torch.autograd.grad(latents, images, weighted)
        return gradient * (images.numel() / latents.numel())


def load_model(folder: Path, device: torch.device | str = "cpu", **changes: Any) -> DiffusionModel:
    """The model in a folder, with its settings, whichever backbone it is of.

    Args:
        changes: settings to change; those that are None stay as they are.

    Raises:
        UserError: missing or unreadable files, or no such setting.
    """
    # Imported here: backbones import this file, and transformers is slow to import.
    if (Path(folder) / "model_index.json").exists():
        from camerabooth.backbones.published.model import PublishedDiffusion

        return PublishedDiffusion.from_pretrained(folder, device, **changes)
    from camerabooth.backbones.embedded.model import EmbeddedDiffusion

    return EmbeddedDiffusion.from_pretrained(folder, device, **changes)
