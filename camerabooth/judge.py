"""Two judges of poses: the pretrained diffusion model, and voxels fitted at them."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from camerabooth.backbones.interface import DiffusionModel
from camerabooth.tuning import clearly_lower, leave_one_out
from sap3d.cameras.framing import upright
from sap3d.field.synthesis import unexplained

ENERGY_DRAWS = 4  # of noise, at each of the model's time steps
# Middle noise levels tell right configurations from wrong more often than those near pure noise, but two views lack the
# sources for it (docs/CHOICES.md).
CHOICE_TIMESTEPS, CHOICE_TIMESTEPS_OF_TWO, CHOICE_DRAWS = [400, 500, 600], [700, 850, 999], 2
# Moved cameras must lower the synthesis loss by this share. Where they lower it by less they have moved within what the
# photos leave open, and mostly away from the truth (docs/CHOICES.md).
SYNTHESIS_DROP = 0.25


@dataclass
class Judged:
    """Poses, and what speaks for them."""

    cameras: Tensor  # [N, 3] or [N, 7]
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


def judge(model: DiffusionModel, cameras: Tensor, photos: list[np.ndarray], sharp: Tensor) -> Judged:
    """Examine cameras [N, ≥ 3] of photos with the object in the middle, uint8 RGBA; `sharp` are these for the
    synthesis."""
    errors = leave_one_out(model, *upright(photos, cameras, model.image_size), draws=ENERGY_DRAWS)
    return Judged(cameras, errors, unexplained(sharp, cameras))


def energy(model: DiffusionModel, photos: list[np.ndarray], cameras: Tensor) -> float:
    """The model's mean error when each of the photos of `judge` is denoised given the others, at cameras [N, ≥ 3]."""
    timesteps = CHOICE_TIMESTEPS if len(photos) > 2 else CHOICE_TIMESTEPS_OF_TWO
    views = upright(photos, cameras, model.image_size)
    return leave_one_out(model, *views, timesteps, CHOICE_DRAWS).mean().item()
