"""Two judges of poses: the pretrained diffusion model, and voxels fitted at them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from camerabooth.backbones.interface import Condition, DiffusionModel, Prepared
from camerabooth.sampling import sample
from sap3d.cameras.framing import upright
from sap3d.field.synthesis import unexplained

ENERGY_DRAWS = 4  # of noise, at each time step of a model that is judged by it
CHOICE_DRAWS = 2  # likewise, where configurations are compared
RENDERED = 64  # pixels a side, at most, of the conditional means that are judged


@dataclass
class Judged:
    """Poses, and what speaks for them."""

    cameras: Tensor  # [N, 3] or [N, 7]
    errors: Tensor  # the pretrained model's when each view is denoised given the others, [T · draws, N]
    synthesis: float  # `sap3d.field.synthesis.unexplained` at these cameras

    def better_than(self, other: "Judged") -> bool:
        """By the sum of both judges' logarithms."""
        return self.loss() < other.loss()

    def loss(self) -> float:
        """Logarithm of the synthesis loss, and the mean one of the model's errors; differences are what counts."""
        return math.log(max(self.synthesis, 1e-6)) + log_error(self.errors)

    def summary(self) -> dict[str, float]:
        """For poses.json."""
        return {"energy": self.errors.mean().item(), "synthesis": self.synthesis}


def judge(model: DiffusionModel, cameras: Tensor, photos: list[np.ndarray], sharp: Tensor) -> Judged:
    """Examine cameras [N, ≥ 3] of photos with the object in the middle, uint8 RGBA; `sharp` are these for the
    synthesis."""
    errors = leave_one_out(model, *upright(photos, cameras, model.image_size), draws=ENERGY_DRAWS)
    return Judged(cameras, errors, unexplained(sharp, cameras))


def surprise(model: DiffusionModel, photos: list[np.ndarray], cameras: Tensor) -> float:
    """The mean logarithm of the errors when each of the photos of `judge` is made of the others, at cameras [N, ≥ 3].

    Differences between configurations of the same photos are what counts: they depend neither on the object's size nor
    on its contrast.
    """
    errors = leave_one_out(model, *upright(photos, cameras, model.image_size), draws=CHOICE_DRAWS)
    return log_error(errors)


def log_error(errors: Tensor) -> float:
    """Mean logarithm of the views' errors [T · draws, N], each averaged over time steps and draws."""
    return errors.mean(0).clamp(min=1e-6).log().mean().item()


def leave_one_out(
    model: DiffusionModel, images: Tensor, cameras: Tensor, timesteps: Sequence[int] | None = None, draws: int = 1
) -> Tensor:
    """How well the views explain each other (ID-Pose's objective, arXiv 2306.17140, over joint sources).

    Every view is made of all others. Models that are judged by their noise predictions denoise it, with fixed noise, so
    that configurations can be compared error by error.

    Args:
        timesteps: by default the model's own.

    Returns:
        `DiffusionModel.energy`, [T · draws, N], or `errors_on_object` of the conditional means, [1, N]. The mean is the
        energy of the configuration.
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
    if model.settings.energy_of == "mean":
        size = min(RENDERED, model.image_size)
        means = [
            model.conditional_mean(embedded.select(others(view, count)), cameras[view : view + 1], generator, size)
            for view in range(count)
        ]
        images = F.interpolate(model.decode(views.latents), size=(size, size), mode="area")
        return errors_on_object(torch.cat(means), images)[None]
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


def errors_on_object(estimates: Tensor, images: Tensor) -> Tensor:
    """Squared errors of colour on white and alpha of views [N, 4, S, S] in [0, 1], over the object's pixels, [N].

    These are in the mean as many as either shows. Everywhere else all is white: a mean over all pixels would say how
    small the object is.
    """
    shown = torch.maximum(estimates[:, 3], images[:, 3]).clamp(0, 1)
    return ((estimates - images).square().mean(1) * shown).sum((1, 2)) / shown.sum() * len(images)


def others(view: int, count: int) -> Tensor:
    """Numbers of all of `count` views but one; of one alone, its own."""
    return torch.tensor([other for other in range(count) if other != view or count == 1])
