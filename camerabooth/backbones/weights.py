"""Where the backbones' weights are."""

from pathlib import Path

from camerabooth.diffusion import EMBEDDED_WEIGHTS
from sap3d.files import root_dir

WEIGHTS = {
    "embedded": EMBEDDED_WEIGHTS,
    "published": "camerabooth/weights/zero123-xl.ckpt",  # below ROOT_DIR
}


def model_folder(backbone: str, checkpoint: str | None = None) -> Path:
    """Folder of the model that tuning starts from; an original .ckpt is converted to one beside it.

    Args:
        checkpoint: a model's folder or an original .ckpt, absolute or below ROOT_DIR; None: the backbone's.

    Raises:
        UserError: no such checkpoint, or not Zero-1-to-3's.
    """
    path = root_dir() / (checkpoint or WEIGHTS[backbone])
    if path.suffix != ".ckpt":
        return path
    from camerabooth.backbones.published.convert import converted  # transformers is slow to import

    return converted(path)
