"""The embedded model behind the interface that tuning, sampling and distillation are written against.

On disk it is a folder: config.json, settings.json and model.safetensors, as diffusers has it.
"""

import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from camerabooth.backbones.embedded.denoiser import Guide
from camerabooth.backbones.embedded.guide import guide
from camerabooth.backbones.embedded.instance import InstanceFit, fit_instance
from camerabooth.backbones.embedded.network import EmbeddedConfig, Reconstructor, noise_schedule
from camerabooth.backbones.embedded.rendering import render_image
from camerabooth.backbones.embedded.volume import Field, raw_grid
from camerabooth.backbones.interface import DiffusionModel, Sources
from camerabooth.backbones.settings import Settings
from sap3d.errors import UserError
from sap3d.files import atomic_folder, save_tensors

if TYPE_CHECKING:
    from diffusers import DDIMScheduler

EMBEDDED_WEIGHTS = Path(__file__).parents[2] / "weights" / "embedded"
RENDER_WEIGHT = 2.5  # of a render's error beside the denoiser's, about as in pretraining
SETTINGS = Settings(
    image_size=128,
    knows_mask=True,
    dtype="auto",
    energy_of="mean",
    energy_timesteps=(),
    guidance_scale=1.0,
    contrast=2.0,
    tuning={"steps": 0, "learning_rate": 2e-4, "batch": 4, "prior_batch": 2, "pure_noise": 0.3},
    sampling={"steps": 0, "conditioning": "joint"},
)


@dataclass
class LiftedSources(Sources):
    """Sources, and the field of them once a target has asked for it."""

    field: Field | None = None
    sharp: Tensor | None = None  # sources in [−1, 1] that are larger than the network's, [B, N, 4, S, S]

    def select(self, views: Tensor) -> "LiftedSources":
        """Only some of the views; `views` is an index tensor [K]."""
        return replace(super().select(views), sharp=self.sharp if self.sharp is None else self.sharp[:, views])


class EmbeddedDiffusion(DiffusionModel):
    """Novel views of an object from any number of posed source views, which are lifted into one volume in the world.

    The field's renders are its conditional mean. It denoises colour and foreground mask together, [4, S, S] in [−1, 1],
    and predicts v (arXiv 2202.00512) on a schedule whose last step is pure noise (arXiv 2305.08891).
    """

    remembers = knows_field = True

    def __init__(self, network: Reconstructor, settings: Settings = SETTINGS):
        super().__init__()
        self.network, self.settings = network, replace(settings, image_size=network.config.image_size)
        self.register_parameter("instance", None)

    @cached_property
    def scheduler(self) -> "DDIMScheduler":
        """Made when it is asked for."""
        return noise_schedule()

    @property
    def latent_size(self) -> int:
        """Side of the latents, here the images'."""
        return self.image_size

    def fit_instance(self, images: Tensor, cameras: Tensor, order: int, options: dict[str, Any], seed: int) -> Tensor:
        """Learn features of one object; see `camerabooth.backbones.embedded.instance`."""
        self.requires_grad_(False)
        features, way = fit_instance(self.network, images, cameras, order, InstanceFit(**options), seed)
        self.instance = nn.Parameter(features, requires_grad=False)
        return way

    def forget_object(self) -> None:
        """Drop the object's features."""
        self.instance = None

    # Latents. The embedded model works on pixels, so these only change the range.

    def encode(self, images: Tensor) -> Tensor:
        """Colour on white and alpha in [0, 1], [..., 4, S, S] → latents of the same shape."""
        return images * 2 - 1

    def decode(self, latents: Tensor) -> Tensor:
        """Inverse of `encode`, clipped to [0, 1]."""
        return (latents / 2 + 0.5).clamp(0, 1)

    # Conditioning.

    def embed_sources(self, images: Tensor, cameras: Tensor) -> LiftedSources:
        """Embed source views once for all targets.

        Args:
            images: colour on white and alpha in [0, 1], [N, 4, S, S] or [B, N, 4, S, S]; of larger ones than the
                network's the conditional mean has its colours.
            cameras: [N, ≥ 3] or [B, N, ≥ 3]; gradients flow into them.
        """
        if images.dim() == 4:
            images, cameras = images[None], cameras[None]
        latents, sharp = self.encode(images), None
        if images.shape[-1] > self.image_size:
            shape, sharp = images.shape[:2], latents
            latents = F.interpolate(latents.flatten(0, 1), size=(self.image_size,) * 2, mode="area").unflatten(0, shape)
        return LiftedSources(latents, cameras, self.network.encode(latents), self.instance, sharp=sharp)

    def condition(self, sources: LiftedSources, targets: Tensor) -> Guide:
        """Condition for target cameras [M, ≥ 3] (one object) or [B, M, ≥ 3]."""
        targets = targets[None] if targets.dim() == 2 else targets
        field, samples = self.lift(sources), self.network.config.samples
        return guide(field, targets, samples)[0]

    def lift(self, sources: LiftedSources) -> Field:
        """The field of the sources, made when it is first asked for."""
        if sources.field is None:
            parts = sources.images, sources.cameras, sources.features
            sources.field = self.network.volume(*parts, instance=sources.instance)
        return sources.field

    def conditional_mean(
        self, sources: LiftedSources, targets: Tensor, generator: torch.Generator, size: int | None = None
    ) -> Tensor:
        """The field's renders at targets [M, ≥ 3] of one object: colour on white and alpha in [0, 1], [M, 4, S, S].

        S is the model's image size, or `size`.
        """
        field = self.lift(sources)
        field = field if sources.sharp is None else replace(field, images=sources.sharp)
        size, samples = size or self.image_size, self.network.config.samples
        return torch.stack([render_image(field, camera, size, samples) for camera in targets]).clamp(0, 1)

    def raw_field(self, sources: LiftedSources, resolution: int) -> Tensor:
        """The field at the nodes of a dense grid, raw density and colour, [4, R, R, R] (`sap3d.field.grid`)."""
        return raw_grid(self.lift(sources), resolution)

    # Diffusion.

    def denoising_error(self, latents: Tensor, condition: Guide, timesteps: Tensor, noise: Tensor) -> Tensor:
        """The denoiser's error, and with it that of the render that it is told: the two are learned together."""
        render = condition.rendered[:, :4]
        error = (render - F.interpolate(latents, size=render.shape[-1], mode="area")).square().mean((1, 2, 3))
        return super().denoising_error(latents, condition, timesteps, noise) + RENDER_WEIGHT * error

    def denoise(self, noisy: Tensor, timesteps: Tensor, condition: Guide) -> Tensor:
        """The network's v-prediction from noisy images [B, 4, S, S] at timesteps [B]."""
        return self.network.denoise(noisy, timesteps, condition)

    def training_target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """v = √ᾱ ε − √(1 − ᾱ) x_0."""
        return self.scheduler.get_velocity(latents, noise, timesteps)

    def clean_estimate(self, noisy: Tensor, timesteps: Tensor, prediction: Tensor) -> Tensor:
        """x_0 from a v-prediction: √ᾱ x_t − √(1 − ᾱ) v."""
        signal, noise_level = self.noise_coefficients(timesteps)
        return signal * noisy - noise_level * prediction

    def distillation_gradient(
        self, latents: Tensor, noise: Tensor, noisy: Tensor, timesteps: Tensor, prediction: Tensor
    ) -> Tensor:
        """(x − x̂_0) / 4, so that an image's gradient is its difference from the clean estimate, in its own units.

        It stays finite at pure noise: for the same noise, ε̂ − ε = √ᾱ/√(1 − ᾱ) · (x − x̂_0), so the weight is
        w(t) = √(1 − ᾱ)/√ᾱ. Latents are twice the image, and so is their derivative: hence 4.
        """
        return (latents - self.clean_estimate(noisy, timesteps, prediction).clamp(-1, 1)) / 4

    # On disk.

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json, settings and fp16 weights; the folder appears whole or not at all."""
        with atomic_folder(folder) as partial:
            self.settings.save(partial)
            (partial / "config.json").write_text(json.dumps(asdict(self.network.config), indent=2) + "\n")
            weights = {name: value.detach().half().cpu().contiguous() for name, value in self.state_dict().items()}
            save_tensors(weights, partial / "model.safetensors")

    @classmethod
    def from_pretrained(cls, folder: Path, device: torch.device | str = "cpu", **changes: Any) -> "EmbeddedDiffusion":
        """Load a folder written by `save_pretrained`.

        Args:
            changes: of the settings; see `Settings.changed`.

        Raises:
            UserError: missing or unreadable files, or an unknown setting.
        """
        folder = Path(folder)
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).exists():
                raise UserError(f"{folder / name}: missing weights; train them with camerabooth/pretrain.py")
        settings = SETTINGS.read(folder).changed(**changes)
        try:
            model = cls(Reconstructor(EmbeddedConfig(**json.loads((folder / "config.json").read_text()))), settings)
            weights = load_file(folder / "model.safetensors")
            if "instance" in weights:
                model.instance = nn.Parameter(torch.empty_like(weights["instance"], dtype=torch.float32))
            model.load_state_dict({name: value.float() for name, value in weights.items()})
        except Exception as error:
            raise UserError(f"{folder}: not a model of ours ({str(error).splitlines()[0]})") from error
        return model.to(device).eval()
