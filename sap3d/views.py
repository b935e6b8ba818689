"""The views of a scene folder: photos with their foregrounds, and ground-truth cameras (docs/DATASET.md)."""

import json
import math
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch
from torch import Tensor

from sap3d import images
from sap3d.cameras import maths as cameras
from sap3d.cameras.poses import read_kept
from sap3d.errors import UserError
from sap3d.scene import Scene, image_paths

# Keys of photos.json: an image's field of view, the tangent of its half over that of the photo's longer side, and
# whether the former is known.
FOV, SHARE, FOV_KNOWN = "image_fov_deg", "share", "fov_known"
ROLLED = 1e-2  # in an entry of a rotation matrix: half a degree


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


def read_kept_images(scene: Scene, poses: Path) -> list[np.ndarray]:
    """The input images but for those that a pose file leaves out; see `read_images` and `read_kept`."""
    images = read_images(scene)
    return [images[view] for view in read_kept(poses, scene.views)]


def read_fields_of_view(scene: Scene, given: float | None = None) -> tuple[Tensor, bool]:
    """Vertical fields of view of the first `scene.views` images in radians, [N], and whether they are known.

    Where they are not, they are right but for a common factor of focal lengths; without a record all are the usual one.

    Args:
        given: the photos' own along their longer sides, degrees; it goes before what import knows.

    Raises:
        UserError: photos.json is not import's.
    """
    usual, whole = torch.full((scene.views,), cameras.FIELD_OF_VIEW), torch.ones(scene.views)
    try:
        record = json.loads(scene.photo_record.read_text())
        views, known = record.get("views", [])[: scene.views], record.get(FOV_KNOWN) is True
        if len(views) == scene.views and all(FOV in view and SHARE in view for view in views):
            usual = torch.tensor([float(view[FOV]) for view in views]).deg2rad()
            whole = torch.tensor([float(view[SHARE]) for view in views])
    except FileNotFoundError:
        known = False
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{scene.photo_record}: not a record of photos ({error}); import them again") from error
    if given is None:
        return usual, known
    return 2 * (whole * math.tan(math.radians(given) / 2)).atan(), True


def read_poses(folder: Path, views: int | None = None) -> Tensor:
    """Ground-truth cameras (elevation, azimuth, radius) of a scene folder's poses/*.npy, [N, 3]; [N, 7] where one has
    roll.

    Matrices tell no field of view; it is taken to be the usual one.
    Only dataset and evaluation code may call this; stages 1–3 never do.

    Raises:
        UserError: a missing or malformed pose file.
    """
    paths = sorted((folder / "poses").glob("*.npy"))[:views]
    if not paths or (views is not None and len(paths) < views):
        raise UserError(f"{folder / 'poses'}: {len(paths)} poses")
    matrices = torch.stack([_read_pose(path) for path in paths])
    spherical = cameras.w2c_to_spherical(matrices)
    rolled = (cameras.spherical_to_w2c(spherical) - matrices)[..., :3].abs().amax() > ROLLED
    return cameras.w2c_to_rolled(matrices) if rolled else spherical


def _read_pose(path: Path) -> Tensor:
    """A 3×4 world-to-camera matrix of a camera that looks at the origin.

    Raises:
        UserError: no such matrix.
    """
    try:
        matrix = np.load(path, allow_pickle=False)
    except Exception as error:  # numpy's reader fails on damaged headers in many ways
        raise UserError(f"{path}: not a readable matrix ({error})") from error
    if isinstance(matrix, np.ndarray) and matrix.shape == (3, 4) and matrix.dtype.kind in "fiu":
        with np.errstate(over="ignore"):
            tensor = torch.from_numpy(matrix.astype(np.float32))
        if cameras.w2c_to_spherical(tensor).isfinite().all():  # of an infinite or undefined entry the radius is so, too
            return tensor
    raise UserError(f"{path}: not a finite 3×4 matrix")


def write_view(folder: Path, index: int, rgba: np.ndarray, camera: Tensor) -> None:
    """Write images/NNN.png and poses/NNN.npy (3×4 world-to-camera) into a scene folder."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "poses").mkdir(parents=True, exist_ok=True)
    imageio.imwrite(folder / "images" / f"{index:03d}.png", rgba)
    np.save(folder / "poses" / f"{index:03d}.npy", cameras.spherical_to_w2c(camera).numpy().astype(np.float32))
