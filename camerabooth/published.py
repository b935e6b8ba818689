"""Zero-1-to-3 (arXiv 2303.11328) from its published weights, behind the embedded model's interface.

The networks are diffusers' and transformers' own; camerabooth/convert.py makes the folder that they are read from. On
disk a model is a diffusers folder: unet, vae, image_encoder, cc_projection, scheduler and model_index.json.
"""

import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from camerabooth.conditioning import Condition, Sources
from camerabooth.diffusion import DiffusionModel
from sap3d.cameras import maths as cam
from sap3d.errors import UserError
from sap3d.files import atomic_folder, save_tensors, write_json

POSE_NUMBERS = 4  # of T, see sap3d.cameras.maths.relative_pose
# What CLIP's training images were normalised by (arXiv 2103.00020).
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class CCProjection(ModelMixin, ConfigMixin):
    """Image embedding and relative pose [..., 768 + 4] → the UNet's one context token [..., 768]."""

    @register_to_config
    def __init__(self, in_channel: int = 772, out_channel: int = 768):
        super().__init__()
        self.projection = nn.Linear(in_channel, out_channel)

    def forward(self, values: Tensor) -> Tensor:
        return self.projection(values)


# The folder's networks: its subfolders, our attributes, and the libraries that define them.
COMPONENTS = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "image_encoder": CLIPVisionModelWithProjection,
    "cc_projection": CCProjection,
}


@dataclass(frozen=True)
class Architecture:
    """Sizes of the networks; the defaults are Zero-1-to-3's (Stable Diffusion 1.x, CLIP ViT-L/14, 256×256 images)."""

    image_size: int = 256
    unet_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    vae_channels: tuple[int, ...] = (128, 256, 512, 512)
    norm_groups: int = 32
    heads: int = 8  # of the UNet's attention
    context: int = 768  # size of CLIP's embedding
    clip_width: int = 1024
    clip_layers: int = 24
    clip_heads: int = 16
    clip_patch: int = 14
    clip_image_size: int = 224


@dataclass(frozen=True)
class PublishedConfig:
    """How the networks are run and tuned."""

    dtype: str = "bfloat16"  # of frozen weights and of the arithmetic; float16 for GPUs before Ampere, or float32
    trainable: str = "lora"  # or "full": the UNet and the projection, kept in fp32
    lora_rank: int = 16
    attention_slicing: bool = False  # less memory, slower
    gradient_checkpointing: bool = False  # likewise, in training


class LoRA(nn.Module):
    """A frozen linear layer plus a trainable product of low rank that starts at zero (arXiv 2106.09685)."""

    def __init__(self, base: nn.Linear, rank: int):
        super().__init__()
        self.base = base.requires_grad_(False)
        # In fp32 whatever the base's type: an optimiser's small steps are lost in 16 bits.
        self.lora_down = nn.Linear(base.in_features, rank, bias=False)
        self.lora_up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.lora_up.weight)

    def forward(self, values: Tensor) -> Tensor:
        return self.base(values) + self.lora_up(self.lora_down(values))

    def merged(self) -> Tensor:
        """The one weight that does the same, fp32."""
        return self.base.weight.float() + self.lora_up.weight @ self.lora_down.weight


class PublishedDiffusion(DiffusionModel):
    """Zero-1-to-3: novel views of an object from one posed source view, by diffusion in an autoencoder's latents.

    The UNet predicts the noise ε in [4, S/8, S/8] latents. It sees the source as four more input channels (the mean of
    its latent distribution, not scaled, as in training) and as one context token, a projection of CLIP's image
    embedding and T. The published model knows no alpha and takes one source: of several, a target gets the one
    whose line of sight is nearest to its own.
    """

    # SAP3D's (arXiv 2404.03652): the model takes one source at a time.
    sampling = {"steps": 50, "guidance_scale": 3.0, "eta": 1.0, "conditioning": "stochastic"}

    def __init__(self, networks: dict[str, nn.Module], config: PublishedConfig = PublishedConfig()):
        """`networks` are named as in COMPONENTS, as `build_networks` makes them; they become this model's own.

        Raises:
            UserError: an unknown `trainable` or `dtype`.
        """
        super().__init__()
        if config.trainable not in ("lora", "full"):
            raise UserError(f"trainable must be lora or full, not '{config.trainable}'")
        if config.dtype not in ("bfloat16", "float16", "float32"):
            raise UserError(f"dtype must be bfloat16, float16 or float32, not '{config.dtype}'")
        self.config, self.dtype = config, getattr(torch, config.dtype)
        self.unet, self.vae = networks["unet"], networks["vae"]
        self.image_encoder, self.cc_projection = networks["image_encoder"], networks["cc_projection"]
        self.scheduler = make_scheduler()
        self.vae.enable_slicing()  # one image at a time: decoding 84 views at once would take 10 GB
        self._prepare_training()
        if config.attention_slicing:
            self.unet.set_attention_slice("auto")
        if config.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    def _prepare_training(self) -> None:
        """Freeze what is not tuned, in `dtype`; leave what is tuned in fp32."""
        self.requires_grad_(False).to(self.dtype)
        self.cc_projection.float()  # tiny, and the poses' gradients pass through it
        if self.config.trainable == "full":
            self.unet.float().requires_grad_(True)
            self.cc_projection.requires_grad_(True)
            return
        for name, module in list(self.unet.named_modules()):
            if name.endswith((".attn1", ".attn2")):
                for layer in ("to_q", "to_k", "to_v"):
                    setattr(module, layer, LoRA(getattr(module, layer), self.config.lora_rank))
                module.to_out[0] = LoRA(module.to_out[0], self.config.lora_rank)

    @property
    def image_size(self) -> int:
        return self.vae.config.sample_size

    @property
    def latent_size(self) -> int:
        """Side of the latents, image_size / 8."""
        return self.unet.config.sample_size

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

        The model knows no alpha: this one is the distance from white, 1 − min(r, g, b), the least with which the
        colour can be composited on white. What is white in the object comes out transparent.
        """
        flat = latents.reshape(-1, *latents.shape[-3:]) / self.vae.config.scaling_factor
        with self._autocast():
            color = self.vae.decode(flat).sample
        color = (color.to(latents.dtype) / 2 + 0.5).clamp(0, 1)
        images = torch.cat([color, 1 - color.amin(1, keepdim=True)], 1)
        return images.reshape(*latents.shape[:-3], *images.shape[1:])

    # Conditioning.

    def embed_sources(self, images: Tensor, cameras: Tensor) -> Sources:
        """Embed source views once for all targets.

        Args:
            images: colour on white and alpha in [0, 1], [N, 4, S, S] or [B, N, 4, S, S].
            cameras: [N, 3] or [B, N, 3]; gradients flow into them (not into the images).

        Returns:
            Sources whose images are unscaled latents, [B, N, 4, S/8, S/8], and whose features are CLIP's image
            embeddings, [B, N, 768].
        """
        if images.dim() == 4:
            images, cameras = images[None], cameras[None]
        with torch.no_grad():
            return Sources(self._posterior_mean(images), cameras, self._clip_embedding(images))

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

    def condition(self, sources: Sources, targets: Tensor) -> Condition:
        """Condition for target cameras [M, 3] (one object) or [B, M, 3]; differentiable in all cameras.

        Returns:
            Condition whose `lifted` is the context token, [B · M, 768, 1, 1], and whose `warped` is the nearest
            source's unscaled latent, [B · M, 4, S/8, S/8]. `dropped` zeroes both, the original's unconditional input.
        """
        targets = targets[None] if targets.dim() == 2 else targets
        nearest = _nearest(sources.cameras, targets)
        rows = torch.arange(len(targets), device=targets.device)[:, None]
        pose = cam.relative_pose(sources.cameras[rows, nearest], targets)
        token = self.cc_projection(torch.cat([sources.features[rows, nearest], pose], -1))
        return Condition(
            token.flatten(0, 1)[..., None, None], sources.images[rows, nearest].flatten(0, 1), targets.reshape(-1, 3)
        )

    # Diffusion.

    def denoise(self, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """The UNet's noise prediction from noisy latents [B, 4, S/8, S/8] at timesteps [B]."""
        context = condition.lifted.flatten(2).transpose(1, 2)  # [B, 1, 768]
        with self._autocast():
            prediction = self.unet(torch.cat([noisy, condition.warped], 1), timesteps, context).sample
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
        """Write a diffusers folder in fp16, LoRA merged into the UNet; it appears whole or not at all."""
        networks = {name: getattr(self, name) for name in COMPONENTS}
        states = {name: module.state_dict() for name, module in networks.items()} | {"unet": merged_state(self.unet)}
        write_folder(folder, networks, states)

    @classmethod
    def from_pretrained(
        cls, folder: Path, device: torch.device | str = "cpu", config: PublishedConfig = PublishedConfig()
    ) -> "PublishedDiffusion":
        """Load a folder written by `save_pretrained` or by camerabooth/convert.py.

        Raises:
            UserError: missing or unreadable files.
        """
        folder = Path(folder)
        if not (folder / "model_index.json").exists():
            raise UserError(
                f"{folder}: no published model; make it by "
                f"camerabooth/convert.py --checkpoint zero123-xl.ckpt --output {folder}"
            )
        try:
            networks = {name: _read_network(folder / name, kind) for name, kind in COMPONENTS.items()}
        except Exception as error:
            raise UserError(f"{folder}: not a Zero-1-to-3 folder ({str(error).splitlines()[0]})") from error
        return cls(networks, config).to(device).eval()


def build_networks(architecture: Architecture = Architecture()) -> dict[str, nn.Module]:
    """Networks with random weights, named as in COMPONENTS; under `torch.device("meta")`, their shapes alone."""
    size, levels = architecture, len(architecture.unet_channels)
    unet = UNet2DConditionModel(
        sample_size=size.image_size // 2 ** (len(size.vae_channels) - 1),
        in_channels=8,  # the noisy latent and the source's
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
        block_out_channels=size.unet_channels,
        norm_num_groups=size.norm_groups,
        cross_attention_dim=size.context,
        attention_head_dim=size.heads,  # the number of heads: a misnomer of diffusers'
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(size.vae_channels),
        up_block_types=("UpDecoderBlock2D",) * len(size.vae_channels),
        block_out_channels=size.vae_channels,
        layers_per_block=2,
        norm_num_groups=size.norm_groups,
        sample_size=size.image_size,
        scaling_factor=0.18215,
    )
    clip = CLIPVisionConfig(
        hidden_size=size.clip_width,
        intermediate_size=4 * size.clip_width,
        projection_dim=size.context,
        num_hidden_layers=size.clip_layers,
        num_attention_heads=size.clip_heads,
        image_size=size.clip_image_size,
        patch_size=size.clip_patch,
        hidden_act="quick_gelu",
    )
    projection = CCProjection(size.context + POSE_NUMBERS, size.context)
    return dict(zip(COMPONENTS, (unet, vae, CLIPVisionModelWithProjection(clip), projection)))


def make_scheduler() -> DDIMScheduler:
    """The published schedule, with the original sampler's choice of time steps (1, 1 + 1000/n, …)."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="epsilon",
        timestep_spacing="leading",
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
    )


def merged_state(unet: nn.Module) -> dict[str, Tensor]:
    """The UNet's weights under diffusers' own names, with every LoRA merged into its layer."""
    state = {
        name.replace(".base.", "."): value
        for name, value in unet.state_dict().items()
        if ".lora_up." not in name and ".lora_down." not in name
    }
    adapters = {name: module for name, module in unet.named_modules() if isinstance(module, LoRA)}
    return state | {f"{name}.weight": module.merged().detach() for name, module in adapters.items()}


def write_folder(folder: Path, networks: dict[str, nn.Module], states: dict[str, dict[str, Tensor]]) -> None:
    """Write a diffusers folder with fp16 weights; it appears whole or not at all.

    Args:
        networks: named as in COMPONENTS; only their configs are read, they may lie on the meta device.
        states: the weights, by network.
    """
    libraries = {"unet": "diffusers", "vae": "diffusers", "image_encoder": "transformers"}
    index = {"_class_name": "Zero1to3StableDiffusionPipeline", "scheduler": ["diffusers", "DDIMScheduler"]}
    with atomic_folder(folder) as partial:
        for name, module in networks.items():
            transformer = libraries.get(name) == "transformers"
            (module.config.save_pretrained if transformer else module.save_config)(partial / name)
            file = "model.safetensors" if transformer else "diffusion_pytorch_model.safetensors"
            weights = {key: value.detach().half().cpu().contiguous() for key, value in states[name].items()}
            save_tensors(weights, partial / name / file, metadata={"format": "pt"})
            # diffusers' community pipeline of that name defines the projection.
            index[name] = [libraries.get(name, "pipeline_zero1to3"), type(module).__name__]
        make_scheduler().save_pretrained(partial / "scheduler")
        write_json(partial / "model_index.json", index)


def _read_network(folder: Path, kind: type[nn.Module]) -> nn.Module:
    """One network of a folder, with its weights' stored type."""
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder.name}/config.json is missing")
    files = list(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise FileNotFoundError(f"{folder.name} must hold one .safetensors file, not {len(files)}")
    with torch.device("meta"):  # a billion random numbers would only be overwritten
        if kind is CLIPVisionModelWithProjection:
            network = kind(CLIPVisionConfig(**json.loads((folder / "config.json").read_text())))
        else:
            network = kind.from_config(kind.load_config(folder))
    network.load_state_dict(load_file(files[0]), assign=True)
    if kind is CLIPVisionModelWithProjection:  # its one buffer is not in the file
        embeddings = network.vision_model.embeddings
        embeddings.position_ids = torch.arange(embeddings.num_positions)[None]
    return network


def _nearest(sources: Tensor, targets: Tensor) -> Tensor:
    """Index of the source whose line of sight is nearest to each target's: [B, N, 3], [B, M, 3] → [B, M]."""
    return cam.sight_cosines(targets, sources).argmax(-1)
