"""The options of all stages: one tree of settings, presets that change it, and the command line that the stages share.

    --preset fast --backbone published --checkpoint PATH --pose-checkpoint PATH poses.candidates=120 tuning.steps=240

The tree is camerabooth/configs/sap3d.yaml (backbone, checkpoint, model, tuning, novel_views, …) with two more blocks:
`poses`, relposepp/configs/infer.yaml, and `reconstruction`, 3D_Recon/threestudio/configs/sap3d.yaml. A preset,
configs/NAME.yaml, changes some of it, flags more, and stage.key=value comes last. Every stage takes all of these and
reads what is its own; its own keys it also takes without the stage's name.
"""

import argparse
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sap3d.errors import UserError
from sap3d.files import REPOSITORY, find_below
from sap3d.scene import Scene, check_views

PRESETS = ("fast", "standard", "best", "gpu")
ROOT, POSES, RECONSTRUCTION = "", "poses", "reconstruction"  # the tree's blocks, by their files
FILES = {
    ROOT: "camerabooth/configs/sap3d.yaml",
    POSES: "relposepp/configs/infer.yaml",
    RECONSTRUCTION: "3D_Recon/threestudio/configs/sap3d.yaml",
}
# Flags and the keys that they set.
FLAGS = {
    "--preset": (),
    "--backbone": ("backbone", "poses.backbone"),
    "--checkpoint": ("checkpoint",),
    "--pose-checkpoint": ("poses.checkpoint",),
    "--fov": ("poses.fov",),
    "--size-mm": ("reconstruction.size_mm",),
}
FIELDS_OF_VIEW = (5, 130)  # that --fov may be, in degrees
SIZES_MM = (1, 100_000)  # that --size-mm may be
STAGES = ("poses", "tuning", "novel_views", "reconstruction")


def add_shared_flags(parser: argparse.ArgumentParser) -> None:
    """Flags and key=value of the tree."""
    parser.add_argument("--preset", choices=PRESETS, help="by default gpu with published weights on a GPU, or standard")
    parser.add_argument("--backbone", help="embedded, or published: Zero-1-to-3 and RelPose++")
    checkpoint = "a model's folder or Zero-1-to-3's .ckpt, absolute or below ROOT_DIR"
    parser.add_argument("--checkpoint", metavar="PATH", help=checkpoint)
    parser.add_argument("--pose-checkpoint", metavar="PATH", help="RelPose++'s .pth, absolute or below ROOT_DIR")
    fov = "field of view of the whole photos along their longer sides; by default EXIF's, else it is estimated"
    parser.add_argument("--fov", metavar="DEGREES", help=fov)
    size = "the object's longest side in millimetres: the mesh's files have that size, else they are in a unit cube"
    parser.add_argument("--size-mm", metavar="LENGTH", help=size)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="see sap3d/runs/options.py")


def stage_options(
    description: str, block: str, add_flags: Callable[[argparse.ArgumentParser], None] | None = None
) -> tuple[argparse.Namespace, DictConfig]:
    """Parse a stage's command line.

    Args:
        description: the program's docstring.
        block: the stage's part of the tree.
        add_flags: adds the stage's own flags.

    Returns:
        Arguments (scene: Scene, device: str, seed: int) and the block.

    Raises:
        UserError: VIEWS is not a positive number, or an override names an unknown key.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--type", required=True)
    parser.add_argument("--object", required=True)
    parser.add_argument("--views", required=True, help="number of input images")
    parser.add_argument("--device", default="0", help="CUDA index, or cpu")
    parser.add_argument("--seed", type=int, default=0)
    add_shared_flags(parser)
    if add_flags is not None:
        add_flags(parser)
    arguments = parser.parse_intermixed_args()
    arguments.scene = Scene(arguments.type, arguments.object, check_views(arguments.views))
    tree = read_tree(shared_words(arguments), arguments.device, block)
    return arguments, tree[block] if block else tree


def shared_words(arguments: argparse.Namespace) -> list[str]:
    """What of parsed arguments is for the tree, as words of a command line."""
    given = {flag: getattr(arguments, flag[2:].replace("-", "_")) for flag in FLAGS}
    return [word for flag, value in given.items() if value is not None for word in (flag, value)] + arguments.overrides


def split_words(words: Iterable[str], block: str = ROOT) -> tuple[dict[str, str], list[str], list[str]]:
    """The flags among words, the key=value for the tree with full keys, and all other words.

    Args:
        block: whose own keys may lack its name.
    """
    own, tops = set(read_block(block)), set(read_block(ROOT)) | {POSES, RECONSTRUCTION}
    flags, overrides, rest, queue = {}, [], [], iter(words)
    for word in queue:
        key = re.match(r"(\w+)[.\w]*=", word)
        if word in FLAGS:
            flags[word] = next(queue, "")
        elif key and block and key[1] in own:
            overrides.append(f"{block}.{word}")
        elif key and key[1] in tops:
            overrides.append(word)
        else:
            rest.append(word)
    return flags, overrides, rest


def read_block(block: str) -> DictConfig:
    return OmegaConf.load(REPOSITORY / FILES[block])


def read_tree(words: Iterable[str], device: str, block: str = ROOT) -> DictConfig:
    """The tree with its changes.

    Args:
        words: flags and key=value; where keys lack a name they are `block`'s.
        device: a CUDA index or cpu; it may choose the preset.

    Raises:
        UserError: an unknown preset, an unknown key, or a value of the wrong type. What is within `reconstruction` is
            checked by that stage, whose components know their keys.
    """
    flags, overrides, rest = split_words(words, block)
    tree = read_block(ROOT)
    for name in (POSES, RECONSTRUCTION):
        tree[name] = read_block(name)
    set_by_flags = [f"{key}={value}" for flag, value in flags.items() for key in FLAGS[flag]]
    changed = merge_overrides(OmegaConf.merge(tree, preset_changes(flags, device)), rest)
    fields = [word for word in overrides if word.startswith(f"{RECONSTRUCTION}.")]
    changed = merge_overrides(changed, set_by_flags + [word for word in overrides if word not in fields])
    OmegaConf.set_struct(changed, False)
    changed = OmegaConf.merge(changed, OmegaConf.from_dotlist(fields))
    check_size(changed[RECONSTRUCTION].size_mm)
    return changed


def check_size(size_mm: object) -> None:
    """
    Raises:
        UserError: neither null nor a length that an object can have.
    """
    number = isinstance(size_mm, int | float) and not isinstance(size_mm, bool)
    if size_mm is not None and not (number and SIZES_MM[0] <= size_mm <= SIZES_MM[1]):
        raise UserError(f"--size-mm must be from {SIZES_MM[0]} to {SIZES_MM[1]} millimetres, not {size_mm}")


def preset_changes(flags: dict[str, str], device: str) -> DictConfig:
    """What the preset changes; by default that is gpu where published weights run on a GPU, and else standard.

    Raises:
        UserError: no such preset.
    """
    preset = flags.get("--preset")
    if preset is None:
        preset = "gpu" if flags.get("--backbone") == "published" and device != "cpu" and has_cuda() else "standard"
    if preset not in PRESETS:
        raise UserError(f"no preset '{preset}' (there are {', '.join(PRESETS)})")
    return OmegaConf.load(REPOSITORY / "configs" / f"{preset}.yaml")


def preset_block(flags: dict[str, str], device: str, block: str) -> DictConfig:
    """Of the preset's changes those of a block."""
    return OmegaConf.create(OmegaConf.to_container(preset_changes(flags, device)).get(block, {}))


def has_cuda() -> bool:
    import torch  # slow to import, and seldom asked for here

    return torch.cuda.is_available()


def stage_config(stage: str, tree: DictConfig) -> dict:
    """What of the tree a stage reads, by which its results are told from others."""
    if stage == POSES:  # with what it takes from the tree's root
        return {stage: OmegaConf.to_container(tree[stage], resolve=True)}
    if stage != "tuning":
        return {stage: OmegaConf.to_container(tree[stage])}
    others = {name for name in STAGES if name != "tuning"}
    return {name: value for name, value in OmegaConf.to_container(tree).items() if name not in others}


def weights_path(backbone: str, checkpoint: str | None = None) -> Path:
    """Where a model that tuning starts from is, or was converted to, or will be.

    Args:
        checkpoint: its folder or .ckpt; None: where the backbone's are looked for.

    Raises:
        UserError: no such backbone.
    """
    pretrained = read_block(ROOT).pretrained
    if backbone not in pretrained:
        raise UserError(f"no backbone '{backbone}' (there are {', '.join(pretrained)})")
    paths = [find_below(path) for path in ([checkpoint] if checkpoint else pretrained[backbone])]
    return next((path for path in paths if path.exists() or path.with_suffix("").exists()), paths[0])


def filled(config: DictConfig, block: str, defaults: dict) -> DictConfig:
    """`config` with defaults for what is null in one of its blocks.

    Raises:
        UserError: what is not null is of another kind than its default.
    """
    given = {f"{block}.{name}": config[block][name] for name in defaults if config[block][name] is not None}
    overrides = [f"{key}={value}" for key, value in given.items()]
    check_types(OmegaConf.create({block: defaults}), config, overrides)
    missing = {name: value for name, value in defaults.items() if f"{block}.{name}" not in given}
    return OmegaConf.merge(config, {block: missing})


def merge_overrides(config: DictConfig, overrides: list[str]) -> DictConfig:
    """`config` with key=value overrides.

    Raises:
        UserError: an override without "=", of an unknown key, or of the wrong type.
    """
    OmegaConf.set_struct(config, True)
    for override in overrides:
        if "=" not in override:
            raise UserError(f"'{override}': overrides are written key=value")
    try:
        merged = OmegaConf.merge(config, OmegaConf.from_dotlist(overrides))
    except (OmegaConfBaseException, ValueError, YAMLError) as error:
        raise UserError(f"{' '.join(overrides)}: {str(error).splitlines()[0]}") from error
    check_types(config, merged, overrides)
    return merged


def check_types(config: DictConfig, merged: DictConfig, overrides: list[str]) -> None:
    """Refuse values of another kind than the default's; a number may become a list (a schedule), and the reverse.

    Raises:
        UserError: such a value.
    """
    numbers = (bool, int, float, ListConfig)
    for override in reversed(overrides):
        key = override.partition("=")[0]
        old, new = (OmegaConf.select(part, key) for part in (config, merged))
        same = isinstance(new, type(old)) or (isinstance(old, numbers) and isinstance(new, numbers))
        # A name may look like a number.
        if not (same or old is None or new is None or (isinstance(old, str) and isinstance(new, numbers))):
            raise UserError(f"{override}: the default is {old}, a value of another kind")
