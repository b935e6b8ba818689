"""The command line that the stages share: --type --object --views --device --seed, and key=value for the config."""

import argparse
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sap3d.errors import UserError
from sap3d.scene import Scene, check_views


def stage_options(
    description: str, config_path: Path, add_flags: Callable[[argparse.ArgumentParser], None] | None = None
) -> tuple[argparse.Namespace, DictConfig]:
    """Parse a stage's command line.

    Args:
        description: the program's docstring.
        config_path: YAML of defaults; overrides may only name keys that it has.
        add_flags: adds the stage's own flags.

    Returns:
        Arguments (scene: Scene, device: str, seed: int) and the merged config.

    Raises:
        UserError: VIEWS is not a positive number, or an override names an unknown key.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--type", required=True)
    parser.add_argument("--object", required=True)
    parser.add_argument("--views", required=True, help="number of input images")
    parser.add_argument("--device", default="0", help="CUDA index, or cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=f"overrides {config_path.name}")
    if add_flags is not None:
        add_flags(parser)
    arguments = parser.parse_args()
    arguments.scene = Scene(arguments.type, arguments.object, check_views(arguments.views))
    return arguments, merge_overrides(OmegaConf.load(config_path), arguments.overrides)


def apply_flags(config: DictConfig, arguments: argparse.Namespace, names: tuple[str, ...]) -> None:
    """Put the flags that were given in the place of the config's values of the same names."""
    for name in names:
        if getattr(arguments, name) is not None:
            config[name] = getattr(arguments, name)


def filled(config: DictConfig, defaults: dict) -> DictConfig:
    """A block with the defaults of what is null in it."""
    return OmegaConf.merge(config, {name: value for name, value in defaults.items() if config[name] is None})


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
