"""Original Zero-1-to-3 checkpoint → the folder that the published backbone is read from.

    python camerabooth/backbones/published/convert.py --checkpoint zero123-xl.ckpt --output FOLDER

Reads 105000.ckpt or zero123-xl.ckpt as published (CompVis layout, https://github.com/cvlab-columbia/zero123), averaged
weights (EMA) where there are any; writes 2.6 GB of fp16. Nothing in the file is run: it is read as weights only.
Stage 2 does this by itself, to a folder beside the checkpoint, once for each content.
"""

import argparse
import json
import pickle
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from camerabooth.backbones.published.download import XL, fetch
from camerabooth.backbones.published.names import averaged_name, is_convolution, original_name
from camerabooth.backbones.published.networks import Architecture, build_networks, make_scheduler, write_networks
from sap3d.errors import UserError, one_line_errors
from sap3d.files import atomic_folder, digest, exclusive, write_json

SOURCE = "source.json"  # of a converted folder: the checkpoint's SHA-256

# What the original holds beside the four networks: its schedule, counters of the EMA, and remains of CLIP's text side.
UNUSED = re.compile(
    r"betas|alphas_cumprod(_prev)?|(sqrt|log)_\w+_cumprod|posterior_\w+|model_ema\.(decay|num_updates)"
    r"|cond_stage_model\.model\.(positional_embedding|text_projection|logit_scale|token_embedding\..*|ln_final\..*)"
)
# Old Lightning names its callback's state by the callback's class, which reading weights only would refuse.
CALLBACK = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"


class _Placeholder:
    """Stands for CALLBACK's class."""


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
            key = averaged_name(original) if averaged and component == "unet" else original
            if key not in checkpoint:
                raise UserError(f"not a Zero-1-to-3 checkpoint: {key} is missing")
            value = checkpoint[key] if third is None else checkpoint[key].chunk(3)[third]
            value = value[:, :, 0, 0] if is_convolution(original) and value.dim() == 4 else value
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
            value = value[:, :, None, None] if is_convolution(original) else value
            checkpoint[original] = value.T if name == "visual_projection.weight" else value
    return checkpoint | {original: torch.cat(thirds) for original, thirds in stacked.items()}


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict of an original checkpoint; tensors are read from the file as they are used.

    Raises:
        UserError: missing, unreadable, or of another noise schedule.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; zero123-xl.ckpt is at {XL}")
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


def architecture_of(checkpoint: dict[str, Tensor]) -> Architecture:
    """Sizes that the shapes in an original state dict tell; image size, heads and groups are Zero-1-to-3's.

    Raises:
        UserError: not such a checkpoint.
    """

    def widths(pattern: str) -> tuple[int, ...]:
        """First dimensions of the weights of that name for levels 0, 1, … as far as there are any."""
        found: list[int] = []
        while (name := pattern.format(level=len(found), block=1 + 3 * len(found))) in checkpoint:
            found.append(checkpoint[name].shape[0])
        return tuple(found)

    visual = "cond_stage_model.model.visual."
    try:
        width, patch = (checkpoint[visual + "conv1.weight"].shape[axis] for axis in (0, 2))
        patches = checkpoint[visual + "positional_embedding"].shape[0] - 1
        context = checkpoint["cc_projection.weight"].shape[0]
    except KeyError as error:
        raise UserError(f"not a Zero-1-to-3 checkpoint: {error.args[0]} is missing") from error
    return Architecture(
        unet_channels=widths("model.diffusion_model.input_blocks.{block}.0.in_layers.2.weight"),
        vae_channels=widths("first_stage_model.encoder.down.{level}.block.0.conv1.weight"),
        context=context,
        clip_width=width,
        clip_layers=len(widths(visual + "transformer.resblocks.{level}.ln_1.weight")),
        clip_heads=max(1, width // 64),
        clip_patch=patch,
        clip_image_size=patch * round(patches**0.5),
    )


def convert(path: Path, folder: Path) -> None:
    """Write an original checkpoint as a diffusers folder; it appears whole or not at all.

    Raises:
        UserError: not Zero-1-to-3's weights.
    """
    checkpoint = read_checkpoint(path)
    with torch.device("meta"):
        networks = build_networks(architecture_of(checkpoint))
    states = to_diffusers(checkpoint, networks)
    with atomic_folder(folder) as partial:
        write_networks(partial, networks, states)
        write_json(partial / SOURCE, {"checkpoint": path.name, "sha256": digest(path)})


def converted(path: Path) -> Path:
    """The folder beside a checkpoint that it is converted to, made anew when the checkpoint's content has changed.

    Of two processes one converts, the other waits. Where the checkpoint has been removed, what it was converted to is
    taken as it is.

    Raises:
        UserError: no such checkpoint, not Zero-1-to-3's, or a folder of that name that was not made of it.
    """
    folder = path.with_suffix("")
    if not path.exists() and (folder / SOURCE).exists():
        return folder
    if not path.is_file():
        fetch(path)
    if folder.exists() and not (folder / SOURCE).exists():
        raise UserError(f"{folder}: was not made of {path.name}; give it to --checkpoint itself, or rename one of them")
    with exclusive(folder):
        if not folder.exists() or json.loads((folder / SOURCE).read_text())["sha256"] != digest(path):
            print(f"converting {path}", flush=True)
            convert(path, folder)
    return folder


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
