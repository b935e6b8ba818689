"""Zero-1-to-3 (arXiv 2303.11328) from its published weights, behind the backbones' interface."""

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_fill_holes
from torch import Tensor, nn

from camerabooth.backbones.interface import Condition, DiffusionModel, Prepared, Settings, Sources
from camerabooth.backbones.published.lora import add_lora, merged_state
from camerabooth.backbones.published.networks import COMPONENTS, make_scheduler, read_network, write_networks
from sap3d.cameras import maths as cam
from sap3d.errors import UserError
from sap3d.files import atomic_folder
from sap3d.runs.devices import has_fast_bf16

PREPARED_AT_ONCE = 16  # images through the autoencoder and CLIP
DROPPED = 0.05  # of training's examples, each: the embedding alone, both, and the latent alone
BACKGROUND = 0.02  # from white: what is nearer and joins the border is no object
# What CLIP's training images were normalised by (arXiv 2103.00020).
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class PublishedSettings(Settings):
    """Those of the original where it has such; `--preset gpu` has more (configs/gpu.yaml)."""

    image_size: int = 256
    knows_mask: bool = False
    dtype: str = "bfloat16"  # float16, which GPUs before Ampere get in its place, or float32
    energy_of: str = "noise"
    energy_timesteps: tuple[int, ...] = (200, 350, 500)
    guidance_scale: float = 3.0
    contrast: float = 1.0
    # LoRA's usual rate; trainable=full has the original's.
    tuning: dict[str, Any] = field(
        default_factory=lambda: {
            "steps": 60,
            "learning_rate": 1e-4,
            "batch": 8,
            "prior_batch": 4,
            "pure_noise": 0.0,
        }
    )
    # SAP3D's (arXiv 2404.03652): the model takes one source at a time.
    sampling: dict[str, Any] = field(
        default_factory=lambda: {
            "steps": 50,
            "skipped": 1,  # its loop leaves out the first of its time steps: 49 evaluations, from 961 on
            "guidance_scale": 3.0,
            "eta": 1.0,
            "conditioning": "stochastic",
        }
    )
    trainable: str = "lora"  # or "full": the UNet and the projection, kept in fp32
    lora_rank: int = 16
    attention_slicing: bool = False  # less memory, slower
    gradient_checkpointing: bool = True  # likewise, in training
    compile: bool = False  # the UNet, on a GPU: it pays in runs that are longer than one object's (docs/CHOICES.md)


@dataclass
class TokenCondition(Condition):
    """The UNet's, of one source a target."""

    token: Tensor  # its one context token, [B · M, 768]
    latent: Tensor  # the source's unscaled latent, [B · M, 4, s, s]


class PublishedDiffusion(DiffusionModel):
    """Zero-1-to-3: novel views of an object from one posed source view, by diffusion in an autoencoder's latents.

    The UNet predicts the noise ε in [4, S/8, S/8] latents. It sees the source as four more input channels (the mean of
    its latent distribution, not scaled, as in training) and as one context token, a projection of CLIP's image
    embedding and T. The published model knows no alpha and takes one source: of several, a target gets the one
    whose line of sight is nearest to its own.
    """

    def __init__(self, networks: dict[str, nn.Module], settings: PublishedSettings = PublishedSettings()):
        """`networks` are named as in COMPONENTS, as `build_networks` makes them; they become this model's own.

        Raises:
            UserError: an unknown `trainable` or `dtype`.
        """
        super().__init__()
        if settings.trainable not in ("lora", "full"):
            raise UserError(f"model.trainable must be lora or full, not '{settings.trainable}'")
        if settings.dtype not in ("bfloat16", "float16", "float32"):
            raise UserError(f"model.dtype must be bfloat16, float16 or float32, not '{settings.dtype}'")
        self.settings, self.dtype = settings, getattr(torch, settings.dtype)
        self.unet, self.vae = networks["unet"], networks["vae"]
        self.image_encoder, self.cc_projection = networks["image_encoder"], networks["cc_projection"]
        self.scheduler = make_scheduler()
        self.vae.enable_slicing()  # one image at a time: decoding 84 views at once would take 10 GB
        self.requires_grad_(False).to(self.dtype)
        self.cc_projection.float()  # tiny, and the poses' gradients pass through it
        if settings.attention_slicing:
            self.unet.set_attention_slice("auto")

    @property
    def tuning(self) -> dict[str, Any]:
        """The settings'; of the whole UNet at the original's learning rate."""
        full = {"learning_rate": 1e-5} if self.settings.trainable == "full" else {}
        return self.settings.tuning | full

    def prepare_tuning(self) -> None:
        """Leave what is frozen in `dtype`, make what is tuned trainable, in fp32."""
        if self.settings.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        if self.settings.trainable == "full":
            self.unet.float().requires_grad_(True)
            self.cc_projection.requires_grad_(True)
        else:
            add_lora(self.unet, self.settings.lora_rank)

    def speed_up(self) -> None:
        """What a GPU's kernels like: the channels of convolutions' weights last, and the UNet compiled if so set."""
        for network in (self.unet, self.vae):
            network.to(memory_format=torch.channels_last)
        if self.settings.compile:
            self.unet.compile(dynamic=True)  # batches of many sizes go through it

    @property
    def latent_size(self) -> int:
        """Side of the latents, image_size / 8."""
        return self.image_size // 2 ** (len(self.vae.config.block_out_channels) - 1)

    def _autocast(self):
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)

    # Latents.

    def _posterior_mean(self, images: Tensor) -> Tensor:
        """The autoencoder's unscaled latents, [..., 4, s, s], of images [..., 4, S, S]; alpha is not looked at."""
        color = images.reshape(-1, *images.shape[-3:])[:, :3] * 2 - 1
        with self._autocast():
            mean = self.vae.encode(color).latent_dist.mode()
        return mean.to(images.dtype).reshape(*images.shape[:-3], *mean.shape[1:])

    def encode(self, images: Tensor) -> Tensor:
        """Colour on white and alpha in [0, 1], [..., 4, S, S] → latents [..., 4, S/8, S/8] of about unit variance.

        Alpha is dropped. Where the original draws from the posterior, this is its mean (the variance is minute).
        """
        return self._posterior_mean(images) * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [..., 4, S/8, S/8] → colour on white and alpha in [0, 1], [..., 4, S, S].

        The model knows no alpha. This one is 0 where white joins the image's border, and elsewhere 1, but for a seam
        whose alpha is the least with which its colour can be composited on white. So what is white within the object
        stays, and its holes are filled.
        """
        flat = latents.reshape(-1, *latents.shape[-3:]) / self.vae.config.scaling_factor
        with self._autocast():
            color = self.vae.decode(flat).sample
        color = (color.to(latents.dtype) / 2 + 0.5).clamp(0, 1)
        images = torch.cat([color, saliency(color)], 1)
        return images.reshape(*latents.shape[:-3], *images.shape[1:])

    # Conditioning.

    @torch.no_grad()
    def prepare(self, images: Tensor) -> Prepared:
        """Latents and CLIP's image embeddings [..., 768] of [..., 4, S, S]: neither changes in tuning, and they are the
        slowest part of a step."""
        flat = [image.to(self.device) for image in images.flatten(0, -4).split(PREPARED_AT_ONCE)]
        latents = torch.cat([self.encode(image) for image in flat])
        features = torch.cat([self._clip_embedding(image) for image in flat])
        shape = images.shape[:-3]
        return Prepared(latents.unflatten(0, shape), features=features.unflatten(0, shape))

    def embed(self, views: Prepared, cameras: Tensor) -> Sources:
        """Sources whose images are unscaled latents, [B, N, 4, S/8, S/8], and whose features are CLIP's embeddings.

        Args:
            views: of [N, …] or [B, N, …].
            cameras: [N, 3] or [B, N, 3]; gradients flow into them.
        """
        parts = views.latents / self.vae.config.scaling_factor, cameras, views.features
        return Sources(*(part[None] if cameras.dim() == 2 else part for part in parts))

    def embed_sources(self, images: Tensor, cameras: Tensor) -> Sources:
        """`embed` of images, colour on white and alpha in [0, 1], [N, 4, S, S] or [B, N, 4, S, S]."""
        return self.embed(self.prepare(images), cameras)

    def _clip_embedding(self, images: Tensor) -> Tensor:
        """CLIP's projected image embedding, not normalised, [..., 768] of [..., 4, S, S]."""
        size = self.image_encoder.config.image_size
        color = images.reshape(-1, *images.shape[-3:])[:, :3]
        # As the published model was trained: corners aligned, no antialiasing.
        color = F.interpolate(color, size=(size, size), mode="bicubic", align_corners=True)
        mean, std = (color.new_tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
        with self._autocast():
            embedding = self.image_encoder(pixel_values=(color - mean) / std).image_embeds
        return embedding.to(images.dtype).reshape(*images.shape[:-3], -1)

    def condition(self, sources: Sources, targets: Tensor) -> TokenCondition:
        """Condition for target cameras [M, 3] (one object) or [B, M, 3]; differentiable in all cameras.

        `dropped` zeroes token and latent, the original's unconditional input at sampling.
        """
        targets = targets[None] if targets.dim() == 2 else targets
        nearest = _nearest(sources.cameras, targets)
        rows = torch.arange(len(targets), device=targets.device)[:, None]
        pose = cam.relative_pose(sources.cameras[rows, nearest], targets)
        token = self.cc_projection(torch.cat([sources.features[rows, nearest], pose], -1))
        latent = sources.images[rows, nearest]
        return TokenCondition(targets.flatten(0, 1), token.flatten(0, 1), latent.flatten(0, 1))

    def training_condition(self, sources: Sources, targets: Tensor, rows: Tensor, draw: Tensor) -> TokenCondition:
        """`condition` of `targets[rows]` without what the original's training drops.

        Below 10 % that is CLIP's embedding, before the projection, which still sees T; from 5 to 15 % the latent.
        """
        targets, draw = targets[rows], draw.to(targets.device)
        without = self.condition(replace(sources, features=torch.zeros_like(sources.features)), targets)
        condition = self.condition(sources, targets)
        embedding = draw < 2 * DROPPED
        latent = (draw >= DROPPED) & (draw < 3 * DROPPED)
        return replace(
            condition,
            token=torch.where(embedding[:, None], without.token, condition.token),
            latent=condition.latent * (~latent).to(condition.latent)[:, None, None, None],
        )

    # Diffusion.

    def denoise(self, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """The UNet's noise prediction from noisy latents [B, 4, S/8, S/8] at timesteps [B]."""
        with self._autocast():
            prediction = self.unet(torch.cat([noisy, condition.latent], 1), timesteps, condition.token[:, None]).sample
        return prediction.to(noisy.dtype)

    def training_target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The noise ε itself."""
        return noise

    def clean_estimate(self, noisy: Tensor, timesteps: Tensor, prediction: Tensor) -> Tensor:
        """x_0 from a noise prediction: (x_t − √(1 − ᾱ) ε) / √ᾱ."""
        signal, noise_level = self.noise_coefficients(timesteps)
        return (noisy - noise_level * prediction) / signal

    def distillation_gradient(
        self, latents: Tensor, noise: Tensor, noisy: Tensor, timesteps: Tensor, prediction: Tensor
    ) -> Tensor:
        """w(t) (ε̂ − ε) with DreamFusion's w = 1 − ᾱ."""
        return self.noise_coefficients(timesteps)[1].square() * (prediction - noise)

    # On disk.

    def save_pretrained(self, folder: Path) -> None:
        """Write a diffusers folder in fp16, LoRA merged, and the settings; it appears whole or not at all."""
        networks = {name: getattr(self, name) for name in COMPONENTS}
        states = {name: module.state_dict() for name, module in networks.items()} | {"unet": merged_state(self.unet)}
        with atomic_folder(folder) as partial:
            write_networks(partial, networks, states)
            self.settings.save(partial)

    @classmethod
    def from_pretrained(cls, folder: Path, device: torch.device | str = "cpu", **changes: Any) -> "PublishedDiffusion":
        """Load a folder written by `save_pretrained` or by convert.py, or one of diffusers.

        Args:
            changes: of `PublishedSettings`; see `Settings.changed`.

        Raises:
            UserError: missing or unreadable files, or an unknown setting.
        """
        folder = Path(folder)
        if not (folder / "model_index.json").exists():
            raise UserError(
                f"{folder}: no published model; make it by "
                f"camerabooth/backbones/published/convert.py --checkpoint zero123-xl.ckpt --output {folder}"
            )
        settings = PublishedSettings().read(folder).changed(**changes)
        device = torch.device(device)
        if device.type == "cuda" and settings.dtype == "bfloat16" and not has_fast_bf16(device):
            settings = replace(settings, dtype="float16")  # cards before Ampere
        try:
            networks = {name: read_network(folder / name, kind) for name, kind in COMPONENTS.items()}
        except Exception as error:
            raise UserError(f"{folder}: not a Zero-1-to-3 folder ({str(error).splitlines()[0]})") from error
        model = cls(networks, settings).to(device).eval()
        if device.type != "cpu":
            model.speed_up()
        return model


def saliency(color: Tensor) -> Tensor:
    """Alpha [B, 1, S, S] of colours on white [B, 3, S, S] in [0, 1]; see `PublishedDiffusion.decode`."""
    distance = 1 - color.detach().amin(1)
    filled = [binary_fill_holes(image) for image in (distance > BACKGROUND).cpu().numpy()]
    inside = torch.from_numpy(np.stack(filled)).to(color)[:, None]
    core = -F.max_pool2d(-F.pad(inside, (1, 1, 1, 1)), 3, 1)  # without the seam, which may be mixed with the white
    return torch.maximum(core, (inside * distance[:, None]).clamp(0, 1))


def _nearest(sources: Tensor, targets: Tensor) -> Tensor:
    """Index of the source whose line of sight is nearest to each target's: [B, N, 3], [B, M, 3] → [B, M]."""
    return cam.sight_cosines(targets, sources).argmax(-1)
