"""The view-conditioned diffusion model behind one interface; tuning, sampling and SDS are written against it.

On disk a model is a folder: config.json and model.safetensors, as diffusers has it.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from safetensors.torch import load_file
from torch import Tensor, nn

from camerabooth.conditioning import Condition, Lifting, SourceEncoder, Sources
from camerabooth.instance_field import InstanceField
from camerabooth.network import DenoisingUNet
from sap3d.errors import UserError
from sap3d.files import atomic_folder, save_tensors
from sap3d.runs.devices import autocast

EMBEDDED_WEIGHTS = Path(__file__).parent / "weights" / "embedded"
TRAIN_TIMESTEPS = 1000


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


class DiffusionModel(nn.Module):
    """What the embedded and the published model share: noise, guidance and the loss, on top of a `scheduler`.

    A model adds `encode`, `decode`, `embed_sources`, `condition`, `denoise`, `training_target`, `clean_estimate`,
    `distillation_gradient`, `image_size`, `latent_size`, `save_pretrained` and `from_pretrained`.
    """

    scheduler: DDIMScheduler
    sampling: dict[str, float | str]  # options of `camerabooth.sampling.sample` that suit it

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def add_instance_volume(self, resolution: int) -> None:
        """Give tuning a place for what it learns of one object; a model that lifts nothing has none."""

    def add_field(self, field: InstanceField) -> None:
        """Remember voxels of one object; a model whose latents are no pixels has none."""

    def recall(self, noisy: Tensor, timesteps: Tensor, prediction: Tensor, cameras: Tensor) -> Tensor:
        """The network's prediction for target cameras [B, 3], as what is remembered of the object changes it."""
        return prediction

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

    def training_loss(
        self,
        sources: Sources,
        target_images: Tensor,
        target_cameras: Tensor,
        timesteps: Tensor,
        noise: Tensor,
        drop: Tensor | None = None,
    ) -> Tensor:
        """Error of each target's prediction, averaged over its latents, [B · M].

        Args:
            target_images: [B, M, 4, S, S] in [0, 1]; target_cameras: [B, M, 3].
            timesteps: [B · M]; noise: [B · M, 4, s, s].
            drop: targets whose condition is dropped, [B · M].
        """
        with torch.no_grad():
            latents = self.encode(target_images).flatten(0, 1)
        condition = self.condition(sources, target_cameras)
        if drop is not None:
            condition = condition.dropped(drop)
        prediction = self.predict(self.add_noise(latents, noise, timesteps), timesteps, condition)
        target = self.training_target(latents, noise, timesteps)
        return F.mse_loss(prediction, target, reduction="none").mean((1, 2, 3))

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


class ViewConditionedDiffusion(DiffusionModel):
    """Novel views of an object from any number of posed source views.

    It denoises colour and foreground mask together, [4, S, S] in [−1, 1], and predicts v (arXiv 2202.00512) on a
    schedule whose last step is pure noise (arXiv 2305.08891): there, one step gives the conditional mean.
    """

    # One step: blurred, but until the model has been trained for much longer, what DDIM adds to the conditional mean in
    # 20 steps is noise (21.9 against 18.8 dB on held-out toys, five sources).
    sampling = {"steps": 1, "conditioning": "joint"}

    def __init__(self, config: DiffusionConfig = DiffusionConfig()):
        super().__init__()
        self.config = config
        self.encoder = SourceEncoder(config.feature_channels)
        self.lifting = Lifting(
            config.feature_channels, config.volume_channels, config.depths, config.collapsed_channels
        )
        self.unet = DenoisingUNet(tuple(config.unet_channels), self.lifting.out_channels)
        self.field = InstanceField(*config.field) if config.field else None
        self.register_parameter("instance", None)
        if config.instance_resolution:
            self.add_instance_volume(config.instance_resolution)
        self.scheduler = DDIMScheduler(
            num_train_timesteps=TRAIN_TIMESTEPS,
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            clip_sample=True,
        )
        # Channels-last weights keep oneDNN from reordering activations at every layer.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)
            elif isinstance(module, nn.Conv3d):
                module.to(memory_format=torch.channels_last_3d)

    @property
    def image_size(self) -> int:
        return self.config.image_size

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

    def condition(self, sources: Sources, targets: Tensor) -> Condition:
        """Condition for target cameras [M, 3] (one object) or [B, M, 3]."""
        targets = targets[None] if targets.dim() == 2 else targets
        with autocast(targets.device):
            return self.lifting(sources, targets)

    # Diffusion.

    def denoise(self, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
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
        """Write config.json and fp16 weights; the folder appears whole or not at all."""
        with atomic_folder(folder) as partial:
            (partial / "config.json").write_text(json.dumps(asdict(self.config), indent=2) + "\n")
            weights = {name: value.detach().half().cpu().contiguous() for name, value in self.state_dict().items()}
            save_tensors(weights, partial / "model.safetensors")

    @classmethod
    def from_pretrained(cls, folder: Path, device: torch.device | str = "cpu") -> "ViewConditionedDiffusion":
        """Load a folder written by `save_pretrained`.

        Raises:
            UserError: missing or unreadable files.
        """
        folder = Path(folder)
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).exists():
                raise UserError(f"{folder / name}: missing weights; train them with camerabooth/pretrain.py")
        try:
            model = cls(DiffusionConfig(**json.loads((folder / "config.json").read_text())))
            weights = load_file(folder / "model.safetensors")
            model.load_state_dict({name: value.float() for name, value in weights.items()})
        except Exception as error:
            raise UserError(f"{folder}: not a model of ours ({str(error).splitlines()[0]})") from error
        return model.to(device).eval()


def load_model(folder: Path, device: torch.device | str = "cpu", **published: str | int | bool) -> DiffusionModel:
    """The model in a folder, embedded or published (a diffusers folder), behind the same interface.

    `published` are options of `camerabooth.published.PublishedConfig`; the embedded model has none.

    Raises:
        UserError: missing or unreadable files.
    """
    if (Path(folder) / "model_index.json").exists():
        from camerabooth.published import PublishedConfig, PublishedDiffusion  # transformers is slow to import

        return PublishedDiffusion.from_pretrained(folder, device, PublishedConfig(**published))
    return ViewConditionedDiffusion.from_pretrained(folder, device)
