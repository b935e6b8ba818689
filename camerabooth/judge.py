"""Two judges of poses: the pretrained diffusion model, and voxels fitted at them."""

from dataclasses import dataclass

from torch import Tensor

from camerabooth.backbones.interface import DiffusionModel
from camerabooth.tuning import clearly_lower, leave_one_out
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
    return leave_one_out(model, images, cameras, timesteps, CHOICE_DRAWS).mean().item()
