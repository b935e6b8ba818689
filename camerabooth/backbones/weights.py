"""Where the backbones' weights are."""

from pathlib import Path

from omegaconf import DictConfig

from sap3d.errors import UserError
from sap3d.files import find_below


def model_folder(config: DictConfig) -> Path:
    """Folder of the model that tuning starts from; an original .ckpt is converted to one beside it.

    Args:
        config: with `backbone`, `checkpoint` and `pretrained` (camerabooth/configs/sap3d.yaml).

    Raises:
        UserError: no such backbone, no such checkpoint, or not Zero-1-to-3's.
    """
    if config.backbone not in config.pretrained:
        raise UserError(f"no backbone '{config.backbone}' (there are {', '.join(config.pretrained)})")
    path = find_below(config.checkpoint or config.pretrained[config.backbone])
    if path.suffix != ".ckpt":
        return path
    from camerabooth.backbones.published.convert import converted  # transformers is slow to import

    return converted(path)
