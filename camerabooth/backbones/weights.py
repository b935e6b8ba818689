"""Where the backbones' weights are."""

from pathlib import Path

from sap3d.runs.options import weights_path


def model_folder(backbone: str, checkpoint: str | None = None) -> Path:
    """Folder of a model that tuning starts from; an original .ckpt is fetched if it is missing, and converted.

    Args:
        checkpoint: a model's folder or an original .ckpt, absolute or below ROOT_DIR; None: the backbone's
            (`pretrained` of camerabooth/configs/sap3d.yaml).

    Raises:
        UserError: no such backbone, no such checkpoint, or not Zero-1-to-3's.
    """
    path = weights_path(backbone, checkpoint)
    if path.suffix != ".ckpt":
        return path
    from camerabooth.backbones.published.convert import converted  # transformers is slow to import

    return converted(path)
