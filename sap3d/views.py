"""The views of a scene folder: photos with their foregrounds, and ground-truth cameras (docs/DATASET.md)."""

from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch
from torch import Tensor

from sap3d import images
from sap3d.cameras import maths as cameras
from sap3d.errors import UserError
from sap3d.scene import Scene, image_paths


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
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "poses").mkdir(parents=True, exist_ok=True)
    imageio.imwrite(folder / "images" / f"{index:03d}.png", rgba)
    np.save(folder / "poses" / f"{index:03d}.npy", cameras.spherical_to_w2c(camera).numpy().astype(np.float32))
