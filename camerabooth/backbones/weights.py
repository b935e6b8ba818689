"""Where the backbones' weights are."""

from pathlib import Path

from omegaconf import DictConfig

from sap3d.runs.options import weights_path


def model_folder(config: DictConfig) -> Path:
    """Folder of the model that tuning starts from; an original .ckpt is converted to one beside it.

    Args:
        config: with `backbone`, `checkpoint` and `pretrained` (camerabooth/configs/sap3d.yaml).

    Raises:
        UserError: no such backbone, no such checkpoint, or not Zero-1-to-3's.
    """
    path = weights_path(config)
    if path.suffix != ".ckpt":
        return path
    from camerabooth.backbones.published.convert import converted  # transformers is slow to import

    return converted(path)
