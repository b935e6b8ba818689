"""The scene folder: what an object's photos are called, and where every stage's files lie (docs/DATASET.md)."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sap3d import cameras, images
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


def read_images(scene: Scene) -> list[np.ndarray]:
    """The first `scene.views` input images, square uint8 RGBA.

    Raises:
        UserError: no such scene folder, fewer images than views, or a bad image (see `images.read_rgba`).
    """
    paths = image_paths(scene.train)
    if not paths:
        raise UserError(f"no images in {scene.train / 'images'}: prepare the object first (docs/DATASET.md)")
    if len(paths) < scene.views:
        raise UserError(f"{scene.train / 'images'}: {len(paths)} images, but VIEWS is {scene.views}")
    return [
        images.to_square(images.read_rgba(path, scene.train / "masks" / f"{path.stem}.png"))
        for path in paths[: scene.views]
    ]


def read_poses(folder: Path, views: int | None = None) -> Tensor:
    """Ground-truth cameras (elevation, azimuth, radius) of a scene folder's poses/*.npy, [N, 3].

    Only dataset and evaluation code may call this; stages 1–3 never do.

    Raises:
        UserError: a missing or malformed pose file.
    """
    paths = sorted((folder / "poses").glob("*.npy"))[:views]
    if not paths or (views is not None and len(paths) < views):
        raise UserError(f"{folder / 'poses'}: {len(paths)} poses")
    return torch.stack([_read_pose(path) for path in paths])


def _read_pose(path: Path) -> Tensor:
    """The camera (elevation, azimuth, radius) of a 3×4 world-to-camera matrix, [3].

    Raises:
        UserError: no such matrix.
    """
    try:
        matrix = np.load(path, allow_pickle=False)
    except Exception as error:  # numpy's reader fails on damaged headers in many ways
        raise UserError(f"{path}: not a readable matrix ({error})") from error
    if isinstance(matrix, np.ndarray) and matrix.shape == (3, 4) and matrix.dtype.kind in "fiu":
        with np.errstate(over="ignore"):
            camera = cameras.w2c_to_spherical(torch.from_numpy(matrix.astype(np.float32)))
        if camera.isfinite().all():  # of an infinite or undefined entry the radius is so, too
            return camera
    raise UserError(f"{path}: not a finite 3×4 matrix")


def write_view(folder: Path, index: int, rgba: np.ndarray, camera: Tensor) -> None:
    """Write images/NNN.png and poses/NNN.npy (3×4 world-to-camera) into a scene folder."""
    import imageio.v3 as imageio

    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "poses").mkdir(parents=True, exist_ok=True)
    imageio.imwrite(folder / "images" / f"{index:03d}.png", rgba)
    np.save(folder / "poses" / f"{index:03d}.npy", cameras.spherical_to_w2c(camera).numpy().astype(np.float32))
