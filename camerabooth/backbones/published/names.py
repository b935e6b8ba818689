"""What the weights of diffusers' and transformers' networks are called in an original checkpoint (CompVis layout)."""

import re

from torch import nn

# Parts of names, diffusers' (or transformers') → the original's.
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
CLIP_ENDS = {
    "vision_model.embeddings.class_embedding": "class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "positional_embedding",
    "visual_projection.weight": "proj",
}
CLIP_NORMS = {"pre_layrnorm": "ln_pre", "post_layernorm": "ln_post"}  # (sic)
CLIP_LAYER = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def original_name(component: str, name: str, module: nn.Module) -> tuple[str, int | None]:
    """The original's name of a weight.

    Args:
        component: a key of networks.COMPONENTS; name: in the state dict of that network, `module`.

    Returns:
        The name and, where the original stacks query, key and value in one weight, the third that is meant.
    """
    if component == "unet":
        return "model.diffusion_model." + _unet_name(name, module.config), None
    if component == "vae":
        return "first_stage_model." + _vae_name(name, len(module.config.block_out_channels)), None
    if component == "image_encoder":
        clip_name, third = _clip_name(name)
        return "cond_stage_model.model.visual." + clip_name, third
    return "cc_projection." + name.removeprefix("projection."), None


def _unet_name(name: str, config) -> str:
    stem, leaf = name.rsplit(".", 1)
    if stem in UNET_ENDS:
        return f"{UNET_ENDS[stem]}.{leaf}"
    kind, layer, rest = re.search(r"(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)$", name).groups()
    layer, attention = int(layer), kind == "attentions"
    if kind == "resnets":
        part, leaf = rest.split(".")
        rest = f"{RESNET[part]}.{leaf}"
    if name.startswith("mid_block"):  # resnet, attention, resnet
        return f"middle_block.{1 if attention else 2 * layer}.{rest}"
    # The original numbers all blocks through: at each level as many as there are resnets, and one that resizes. On the
    # way up there is one resnet more, and the resizing follows in its block.
    block, per_level = int(name.split(".")[1]), config.layers_per_block + 1
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * per_level}.0.op.{leaf}"
    if kind == "upsamplers":
        after = 2 if "CrossAttn" in config.up_block_types[block] else 1
        return f"output_blocks.{(block + 1) * per_level - 1}.{after}.{rest}"
    number = block * per_level + layer
    way = f"input_blocks.{number + 1}" if name.startswith("down_blocks") else f"output_blocks.{number}"
    return f"{way}.{int(attention)}.{rest}"


def _vae_name(name: str, levels: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"down_blocks\.(\d+)\.", r"down.\1.", name)
    # The original counts the decoder's levels from the finest.
    name = re.sub(r"up_blocks\.(\d+)\.", lambda match: f"up.{levels - 1 - int(match[1])}.", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    name = name.replace("resnets.", "block.").replace("samplers.0.", "sample.")
    if match := re.fullmatch(r"(.*)mid_block\.attentions\.0\.(.+)\.(weight|bias)", name):
        return f"{match[1]}mid.attn_1.{VAE_ATTENTION[match[2]]}.{match[3]}"
    return name


def _clip_name(name: str) -> tuple[str, int | None]:
    if name in CLIP_ENDS:
        return CLIP_ENDS[name], None
    stem, leaf = name.removeprefix("vision_model.").rsplit(".", 1)
    if stem in CLIP_NORMS:
        return f"{CLIP_NORMS[stem]}.{leaf}", None
    layer, part = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", stem).groups()
    block = f"transformer.resblocks.{layer}"
    if match := re.fullmatch(r"self_attn\.([qkv])_proj", part):
        return f"{block}.attn.in_proj_{leaf}", "qkv".index(match[1])
    return f"{block}.{CLIP_LAYER[part]}.{leaf}", None


def is_convolution(original: str) -> bool:
    """Whether the original has as a 1×1 convolution what diffusers has as a linear layer."""
    return re.search(r"mid\.attn_1\.(q|k|v|proj_out)\.weight$", original) is not None


def averaged_name(original: str) -> str:
    """The name under which the EMA of a weight of the UNet is kept: without its dots."""
    return "model_ema." + original.removeprefix("model.").replace(".", "")
