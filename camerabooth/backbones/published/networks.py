"""The networks of Zero-1-to-3 (arXiv 2303.11328), diffusers' and transformers' own, and the folder they are kept in.

On disk a model is a diffusers folder: unet, vae, image_encoder, cc_projection, scheduler and model_index.json.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from sap3d.files import save_tensors, write_json

POSE_NUMBERS = 4  # of T, see sap3d.cameras.maths.relative_pose


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


def write_networks(folder: Path, networks: dict[str, nn.Module], states: dict[str, dict[str, Tensor]]) -> None:
    """Write a diffusers folder's components with fp16 weights.

    Args:
        folder: is there.
        networks: named as in COMPONENTS; only their configs are read, they may lie on the meta device.
        states: the weights, by network.
    """
    libraries = {"unet": "diffusers", "vae": "diffusers", "image_encoder": "transformers"}
    index = {"_class_name": "Zero1to3StableDiffusionPipeline", "scheduler": ["diffusers", "DDIMScheduler"]}
    for name, module in networks.items():
        transformer = libraries.get(name) == "transformers"
        (module.config.save_pretrained if transformer else module.save_config)(folder / name)
        file = "model.safetensors" if transformer else "diffusion_pytorch_model.safetensors"
        weights = {key: value.detach().half().cpu().contiguous() for key, value in states[name].items()}
        save_tensors(weights, folder / name / file, metadata={"format": "pt"})
        # diffusers' community pipeline of that name defines the projection.
        index[name] = [libraries.get(name, "pipeline_zero1to3"), type(module).__name__]
    make_scheduler().save_pretrained(folder / "scheduler")
    write_json(folder / "model_index.json", index)


def read_network(folder: Path, kind: type[nn.Module]) -> nn.Module:
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
