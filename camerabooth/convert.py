"""Original Zero-1-to-3 checkpoint → the folder that the published backbone is read from.

    python camerabooth/convert.py --checkpoint zero123-xl.ckpt --output camerabooth/weights/zero123-xl

Reads 105000.ckpt or zero123-xl.ckpt as published (CompVis layout, https://github.com/cvlab-columbia/zero123), averaged
weights (EMA) where there are any; writes 2.6 GB of fp16. Nothing in the file is run: it is read as weights only.
"""

import argparse
import pickle
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from camerabooth.published import build_networks, make_scheduler, write_folder
from sap3d.errors import UserError, one_line_errors

# What the original holds beside the four networks: its schedule, counters of the EMA, and remains of CLIP's text side.
UNUSED = re.compile(
    r"betas|alphas_cumprod(_prev)?|(sqrt|log)_\w+_cumprod|posterior_\w+|model_ema\.(decay|num_updates)"
    r"|cond_stage_model\.model\.(positional_embedding|text_projection|logit_scale|token_embedding\..*|ln_final\..*)"
)
# Old Lightning names its callback's state by the callback's class, which reading weights only would refuse.
CALLBACK = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"

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


class _Placeholder:
    """Stands for CALLBACK's class."""


def original_name(component: str, name: str, module: nn.Module) -> tuple[str, int | None]:
    """The original's name of a weight.

    Args:
        component: a key of published.COMPONENTS; name: in the state dict of that network, `module`.

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


def _is_convolution(original: str) -> bool:
    """Whether the original has as a 1×1 convolution what diffusers has as a linear layer."""
    return re.search(r"mid\.attn_1\.(q|k|v|proj_out)\.weight$", original) is not None


def _averaged(original: str) -> str:
    """The name under which the EMA of a weight of the UNet is kept: without its dots."""
    return "model_ema." + original.removeprefix("model.").replace(".", "")


def to_diffusers(checkpoint: dict[str, Tensor], networks: dict[str, nn.Module]) -> dict[str, dict[str, Tensor]]:
    """The networks' state dicts from an original state dict; every weight is accounted for.

    Args:
        networks: as of `build_networks`; only names and shapes are looked at.

    Returns:
        State dicts by component, views of the checkpoint's tensors; of two versions of the UNet, the averaged one.

    Raises:
        UserError: a weight is missing, left over or of the wrong shape.
    """
    averaged = any(name.startswith("model_ema.diffusion_model") for name in checkpoint)
    states, left = {}, {name for name in checkpoint if not UNUSED.fullmatch(name)}
    if averaged:
        left = {name for name in left if not name.startswith("model.diffusion_model.")}
    for component, module in networks.items():
        states[component] = {}
        for name, expected in module.state_dict().items():
            original, third = original_name(component, name, module)
            key = _averaged(original) if averaged and component == "unet" else original
            if key not in checkpoint:
                raise UserError(f"not a Zero-1-to-3 checkpoint: {key} is missing")
            value = checkpoint[key] if third is None else checkpoint[key].chunk(3)[third]
            value = value[:, :, 0, 0] if _is_convolution(original) and value.dim() == 4 else value
            value = value.T if name == "visual_projection.weight" else value
            if value.shape != expected.shape:
                raise UserError(f"not a Zero-1-to-3 checkpoint: {key} has shape {tuple(checkpoint[key].shape)}")
            states[component][name] = value
            left.discard(key)
    if left:
        raise UserError(f"not a Zero-1-to-3 checkpoint: {min(left)} is not known ({len(left)} such)")
    return states


def to_original(states: dict[str, dict[str, Tensor]], networks: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Inverse of `to_diffusers`, without EMA."""
    checkpoint, stacked = {}, {}
    for component, state in states.items():
        for name, value in state.items():
            original, third = original_name(component, name, networks[component])
            if third is not None:
                stacked.setdefault(original, [None] * 3)[third] = value
                continue
            value = value[:, :, None, None] if _is_convolution(original) else value
            checkpoint[original] = value.T if name == "visual_projection.weight" else value
    return checkpoint | {original: torch.cat(thirds) for original, thirds in stacked.items()}


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict of an original checkpoint; tensors are read from the file as they are used.

    Raises:
        UserError: missing, unreadable, or of another noise schedule.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; zero123-xl.ckpt is linked at https://github.com/cvlab-columbia/zero123")
    try:
        with torch.serialization.safe_globals([(_Placeholder, CALLBACK)]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        state = content["state_dict"]
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL \S+", str(error))
        raise UserError(f"{path}: refused, not weights alone ({found[0] if found else 'damaged file'})") from error
    except Exception as error:
        raise UserError(f"{path}: not a checkpoint that can be read ({str(error).splitlines()[0]})") from error
    betas = make_scheduler().betas
    if not torch.allclose(state.get("betas", betas).float(), betas, atol=1e-6):
        raise UserError(f"{path}: another noise schedule than Zero-1-to-3's")
    return state


def convert(path: Path, folder: Path) -> None:
    """Write an original checkpoint as a diffusers folder.

    Raises:
        UserError: not Zero-1-to-3's weights.
    """
    with torch.device("meta"):
        networks = build_networks()
    write_folder(folder, networks, to_diffusers(read_checkpoint(path), networks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="zero123-xl.ckpt or 105000.ckpt")
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    arguments = parser.parse_args()
    if arguments.output.exists():
        raise UserError(f"{arguments.output}: exists already")
    convert(arguments.checkpoint, arguments.output)
    print(f"published model: {arguments.output}")


if __name__ == "__main__":
    with one_line_errors():
        main()
