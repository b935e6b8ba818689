"""The embedded model's networks together."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file
from torch import Tensor, nn

from camerabooth.backbones.embedded.denoiser import Denoiser, Guide
from camerabooth.backbones.embedded.volume import Field, SourceEncoder, Volume
from sap3d.errors import UserError
from sap3d.files import atomic_folder, save_tensors
from sap3d.runs.devices import autocast


@dataclass(frozen=True)
class EmbeddedConfig:
    """The embedded model's size."""

    image_size: int = 128
    encoder_widths: tuple[int, int, int] = (48, 96, 192)
    source_channels: int = 48
    volume_widths: tuple[int, ...] = (48, 96, 192, 256)
    resolution: int = 24  # of the coarse grid; the field has twice as many nodes a side
    field_features: int = 8
    samples: int = 48  # of a ray
    denoiser_widths: tuple[int, int, int] = (64, 128, 256)


TIMESTEPS = 1000


def noise_schedule() -> DDIMScheduler:
    """v-prediction (arXiv 2202.00512) on a schedule whose last step is pure noise (arXiv 2305.08891)."""
    return DDIMScheduler(
        num_train_timesteps=TIMESTEPS,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=True,
    )


class Reconstructor(nn.Module):
    """Sources → Field, by encoder and volume; Guide and noisy targets → v-prediction, by the denoiser."""

    def __init__(self, config: EmbeddedConfig = EmbeddedConfig()):
        super().__init__()
        self.config = config
        self.encoder = SourceEncoder(config.source_channels, tuple(config.encoder_widths))
        self.volume = Volume(
            config.source_channels, tuple(config.volume_widths), config.resolution, config.field_features
        )
        self.denoiser = Denoiser(tuple(config.denoiser_widths), config.field_features)
        # Channels-last weights keep oneDNN from reordering activations at every layer.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)
            elif isinstance(module, nn.Conv3d):
                module.to(memory_format=torch.channels_last_3d)

    def forward(self, images: Tensor, cameras: Tensor, with_features: bool = True) -> Field:
        """Images in [0, 1], colour on white and alpha, [B, N, 4, S, S]; cameras [B, N, ≥ 3]."""
        latents = images * 2 - 1
        with autocast(images.device):
            features = self.encoder(latents.flatten(0, 1))
        return self.volume(latents, cameras, features.float().unflatten(0, images.shape[:2]), with_features)

    def denoise(self, noisy: Tensor, timesteps: Tensor, guide: Guide) -> Tensor:
        """The v-prediction from noisy targets [T, 4, S, S] in [−1, 1] at timesteps [T]."""
        with autocast(noisy.device):
            return self.denoiser(noisy, (timesteps / (TIMESTEPS - 1)).to(noisy.dtype), guide)

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and fp16 weights; the folder appears whole or not at all."""
        with atomic_folder(folder) as partial:
            (partial / "config.json").write_text(json.dumps(asdict(self.config), indent=2) + "\n")
            weights = {name: value.detach().half().cpu().contiguous() for name, value in self.state_dict().items()}
            save_tensors(weights, partial / "model.safetensors")

    @classmethod
    def from_pretrained(cls, folder: Path) -> "Reconstructor":
        """Load a folder written by `save_pretrained`.

        Raises:
            UserError: missing or unreadable files.
        """
        try:
            model = cls(EmbeddedConfig(**json.loads((folder / "config.json").read_text())))
            weights = load_file(folder / "model.safetensors")
            model.load_state_dict({name: value.float() for name, value in weights.items()})
        except Exception as error:
            raise UserError(f"{folder}: not a model of ours ({str(error).splitlines()[0]})") from error
        return model.eval()
