"""The view-conditioned diffusion model behind one interface; tuning, sampling and SDS are written against it.

On disk a model is a folder: config.json and model.safetensors, as diffusers has it.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from camerabooth.backbones.embedded.model import noise_schedule
from camerabooth.backbones.interface import TRAIN_TIMESTEPS, DiffusionModel, Settings, Sources
from camerabooth.conditioning import FrustumCondition, Lifting, SourceEncoder
from camerabooth.instance_field import InstanceField
from camerabooth.network import DenoisingUNet
from sap3d.errors import UserError
from sap3d.files import atomic_folder, save_tensors
from sap3d.runs.devices import autocast

EMBEDDED_WEIGHTS = Path(__file__).parent / "weights" / "embedded"


@dataclass(frozen=True)
class DiffusionConfig:
    """The embedded model's size."""

    image_size: int = 64
    feature_channels: int = 48
    volume_channels: int = 32
    depths: int = 16
    collapsed_channels: int = 64
    unet_channels: tuple[int, int, int] = (64, 128, 256)
    instance_resolution: int = 0  # of a tuned model's instance volume; 0: it has none
    field: tuple[int, int, int] | None = None  # `InstanceField.shape` of a tuned model's


# One step of sampling: blurred, but until the model has been trained for much longer, what DDIM adds to the conditional
# mean in 20 steps is noise (21.9 against 18.8 dB on held-out toys, five sources).
EMBEDDED = Settings(
    image_size=64,
    knows_mask=True,
    dtype="auto",
    energy_of="clean",
    # The target itself tells too much at low noise; the last is pure noise, where only the sources speak.
    energy_timesteps=(500, 700, 850, 999),
    guidance_scale=1.0,
    contrast=2.0,
    tuning={"learning_rate": 2e-4, "synthesised": 48, "pure_noise": 0.3},
    sampling={"steps": 1, "conditioning": "joint"},
)


class ViewConditionedDiffusion(DiffusionModel):
    """Novel views of an object from any number of posed source views.

    It denoises colour and foreground mask together, [4, S, S] in [−1, 1], and predicts v (arXiv 2202.00512) on a
    schedule whose last step is pure noise (arXiv 2305.08891): there, one step gives the conditional mean.
    """

    remembers = True

    def __init__(self, config: DiffusionConfig = DiffusionConfig(), settings: Settings = EMBEDDED):
        super().__init__()
        self.config, self.settings = config, replace(settings, image_size=config.image_size)
        self.encoder = SourceEncoder(config.feature_channels)
        self.lifting = Lifting(
            config.feature_channels, config.volume_channels, config.depths, config.collapsed_channels
        )
        self.unet = DenoisingUNet(tuple(config.unet_channels), self.lifting.out_channels)
        self.field = InstanceField(*config.field) if config.field else None
        self.register_parameter("instance", None)
        if config.instance_resolution:
            self.add_instance_volume(config.instance_resolution)
        self.scheduler = noise_schedule()
        # Channels-last weights keep oneDNN from reordering activations at every layer.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)
            elif isinstance(module, nn.Conv3d):
                module.to(memory_format=torch.channels_last_3d)

    @property
    def latent_size(self) -> int:
        """Side of the latents, here the images'."""
        return self.config.image_size

    def add_instance_volume(self, resolution: int) -> None:
        """Features in the world's frame, zero at first, that are added to what the sources show at each point."""
        self.config = replace(self.config, instance_resolution=resolution)
        volume = torch.zeros(self.config.feature_channels, resolution, resolution, resolution, device=self.device)
        self.instance = nn.Parameter(volume)

    def add_field(self, field: InstanceField) -> None:
        """Let `recall` weigh voxels of the object against the network."""
        self.config, self.field = replace(self.config, field=field.shape), field

    def recall(self, noisy: Tensor, timesteps: Tensor, prediction: Tensor, cameras: Tensor) -> Tensor:
        """The v-prediction of the network's clean estimate combined with the instance field, if there is one."""
        if self.field is None:
            return prediction
        clean = self.encode(self.field.combine(self.decode(self.clean_estimate(noisy, timesteps, prediction)), cameras))
        signal, noise_level = self.noise_coefficients(timesteps)
        return (signal * noisy - clean) / noise_level

    def forget_object(self) -> None:
        """Drop the instance volume and the instance field."""
        self.config = replace(self.config, instance_resolution=0, field=None)
        self.instance = self.field = None

    # Latents. The embedded model works on pixels, so these only change the range.

    def encode(self, images: Tensor) -> Tensor:
        """Colour on white and alpha in [0, 1], [..., 4, S, S] → latents of the same shape."""
        return images * 2 - 1

    def decode(self, latents: Tensor) -> Tensor:
        """Inverse of `encode`, clipped to [0, 1]."""
        return (latents / 2 + 0.5).clamp(0, 1)

    # Conditioning.

    def embed_sources(self, images: Tensor, cameras: Tensor) -> Sources:
        """Embed source views once for all targets.

        Args:
            images: colour on white and alpha in [0, 1], [N, 4, S, S] or [B, N, 4, S, S].
            cameras: [N, 3] or [B, N, 3]; gradients flow into them.
        """
        if images.dim() == 4:
            images, cameras = images[None], cameras[None]
        latents = self.encode(images)
        with autocast(latents.device):
            features = self.encoder(latents.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        return Sources(latents, cameras, features.to(latents.dtype).unflatten(0, latents.shape[:2]), self.instance)

    def condition(self, sources: Sources, targets: Tensor) -> FrustumCondition:
        """Condition for target cameras [M, 3] (one object) or [B, M, 3]."""
        targets = targets[None] if targets.dim() == 2 else targets
        with autocast(targets.device):
            return self.lifting(sources, targets)

    # Diffusion.

    def denoise(self, noisy: Tensor, timesteps: Tensor, condition: FrustumCondition) -> Tensor:
        """The network's v-prediction from noisy images [B, 4, S, S] at timesteps [B]."""
        with autocast(noisy.device):
            return self.unet(noisy, (timesteps / (TRAIN_TIMESTEPS - 1)).to(noisy.dtype), condition)

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
            (partial / "config.json").write_text(json.dumps(asdict(self.config), indent=2) + "\n")
            weights = {name: value.detach().half().cpu().contiguous() for name, value in self.state_dict().items()}
            save_tensors(weights, partial / "model.safetensors")

    @classmethod
    def from_pretrained(
        cls, folder: Path, device: torch.device | str = "cpu", **changes: Any
    ) -> "ViewConditionedDiffusion":
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
        settings = EMBEDDED.read(folder).changed(**changes)
        try:
            model = cls(DiffusionConfig(**json.loads((folder / "config.json").read_text())), settings)
            weights = load_file(folder / "model.safetensors")
            model.load_state_dict({name: value.float() for name, value in weights.items()})
        except Exception as error:
            raise UserError(f"{folder}: not a model of ours ({str(error).splitlines()[0]})") from error
        return model.to(device).eval()
