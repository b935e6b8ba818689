"""The command line that the stages share: --type --object --views --device --seed, and key=value for the config."""

import argparse
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

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
        return OmegaConf.merge(config, OmegaConf.from_dotlist(overrides))
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{' '.join(overrides)}: {str(error).splitlines()[0]}") from error
