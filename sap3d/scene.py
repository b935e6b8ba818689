"""The scene folder: what an object's photos are called, and where every stage's files lie (docs/DATASET.md)."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from sap3d.errors import UserError
from sap3d.files import root_dir
from sap3d.names import check_name

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Scene:
    """Paths of one object at one number of views, all below `root`: the environment's ROOT_DIR if nothing else is said.

    Raises:
        UserError: a type or an object that is not a plain name.
    """

    type: str
    object: str
    views: int
    root: Path = field(default_factory=root_dir)

    def __post_init__(self) -> None:
        for name in (self.type, self.object):
            check_name(name)

    @property
    def train(self) -> Path:
        """images/, optional masks/, and ground-truth poses/ that only evaluation reads."""
        return self.root / "dataset/data/train" / self.type / self.object

    @property
    def photo_record(self) -> Path:
        """What `sap3d.photos.import_photos` writes beside the images; there only if it has framed them."""
        return self.train / "photos.json"

    @property
    def test(self) -> Path:
        """The 84 held-out views: images/ and poses/."""
        return self.root / "dataset/data/test" / self.type / self.object

    @property
    def mesh_folder(self) -> Path:
        """The ground-truth mesh, when there is one."""
        return self.root / "dataset/3d_models" / self.type / self.object

    @property
    def name(self) -> str:
        return f"{self.object}_view_{self.views}"

    @property
    def initial_poses(self) -> Path:
        """Stage 1's output (JSON)."""
        return self.root / "relposepp/experiments" / self.type / self.name / "poses.json"

    @property
    def diffusion(self) -> Path:
        """Stage 2's folder: tuned model, refined poses.json, novel views in preds/."""
        return self.root / "camerabooth/experiments_nvs" / self.type / self.name

    @property
    def reconstruction(self) -> Path:
        """Stage 3's folder: field, poses.json, turntable, mesh."""
        folder = f"experiments_{self.type}_view_{self.views}_nerf"
        return self.root / "3D_Recon/threestudio" / folder / self.object

    @property
    def results(self) -> Path:
        return self.root / "results" / self.type / self.object / str(self.views)


def image_paths(folder: Path) -> list[Path]:
    """Images below `folder`/images in order of their names."""
    return sorted(p for p in (folder / "images").glob("*") if p.suffix.lower() in IMAGE_SUFFIXES)


def check_views(views: str | int) -> int:
    """The number of views as an integer of at least 1.

    Raises:
        UserError: not a number, or below 1.
    """
    if not re.fullmatch("[0-9]{1,9}", str(views)) or int(views) < 1:
        raise UserError(f"VIEWS must be a whole number of at least 1, not '{views}'")
    return int(views)
