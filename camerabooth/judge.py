"""Two judges of poses: the pretrained diffusion model, and voxels fitted at them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from camerabooth.backbones.interface import Condition, DiffusionModel, Prepared
from sap3d.field.synthesis import unexplained

ENERGY_DRAWS = 4  # of noise, at each of the model's time steps
# Of a model that judges by its clean estimates: middle noise levels tell right configurations from wrong more often
# than those near pure noise, but two views lack the sources for it (docs/CHOICES.md).
CHOICE_TIMESTEPS, CHOICE_TIMESTEPS_OF_TWO, CHOICE_DRAWS = [400, 500, 600], [700, 850, 999], 2
# Moved cameras must lower the synthesis loss by this share. Where they lower it by less they have moved within what the
# photos leave open, and mostly away from the truth (docs/CHOICES.md).
SYNTHESIS_DROP = 0.25


@dataclass
class Judged:
    """Poses, and what speaks for them."""

    cameras: Tensor  # [N, 3]
    errors: Tensor  # the pretrained model's when each view is denoised given the others, [T · draws, N]
    synthesis: float  # `sap3d.field.synthesis.unexplained` at these cameras

    def better_than(self, other: "Judged") -> bool:
        """Both must say so, and clearly: near the optimum the energy is flat within a degree or two, where the images'
        own agreement is sharper."""
        agree = self.synthesis < (1 - SYNTHESIS_DROP) * other.synthesis
        return agree and clearly_lower(self.errors, than=other.errors)

    def summary(self) -> dict[str, float]:
        """For poses.json."""
        return {"energy": self.errors.mean().item(), "synthesis": self.synthesis}


def judge(model: DiffusionModel, cameras: Tensor, images: Tensor, photos: Tensor) -> Judged:
    """Examine cameras [N, 3]; the views are `images` at the model's size and `photos` at that of the synthesis."""
    return Judged(cameras, leave_one_out(model, images, cameras, draws=ENERGY_DRAWS), unexplained(photos, cameras))


def energy(model: DiffusionModel, images: Tensor, cameras: Tensor) -> float:
    """The model's mean error when each of the images [N, 4, S, S] is denoised given the others, at cameras [N, 3]."""
    timesteps = CHOICE_TIMESTEPS if len(images) > 2 else CHOICE_TIMESTEPS_OF_TWO
    if model.settings.energy_of == "noise":  # which near pure noise is nearly known
        timesteps = None
    return leave_one_out(model, images, cameras, timesteps, CHOICE_DRAWS).mean().item()


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


def others(view: int, count: int) -> Tensor:
    """Numbers of all of `count` views but one; of one alone, its own."""
    return torch.tensor([other for other in range(count) if other != view or count == 1])


def clearly_lower(errors: Tensor, than: Tensor) -> bool:
    """Whether paired errors are lower by more than two standard errors of their mean difference.

    A configuration that is better by less is as likely worse: noise and pixels differ from view to view.
    """
    drop = (than - errors).flatten()
    return bool(drop.mean() > 2 * drop.std() / len(drop) ** 0.5)
