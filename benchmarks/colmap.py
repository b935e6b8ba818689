"""What COLMAP makes of the photos that SAP3D places: how many it registers, and how well, beside stage 1.

    python benchmarks/colmap.py --list dataset/benchmarks/scans8.txt --views 3 5 10
    python benchmarks/colmap.py --list dataset/benchmarks/models12.txt --views 3 5 10 --skip-ours

COLMAP gets the same photos, their masks and their true focal length: SIFT, all pairs, incremental mapping. A scene may
fall apart into several models; the largest counts. Rotation errors are over the pairs of photos that are registered.
Prints a line an object and the means, and writes ROOT_DIR/results/colmap.json.
"""

import argparse
import tempfile
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pycolmap
import torch
from omegaconf import DictConfig
from torch import Tensor

from relposepp.decide import decide
from relposepp.infer import load_models
from sap3d.cameras import maths as cam
from sap3d.errors import UserError, one_line_errors
from sap3d.files import root_dir, write_json
from sap3d.images import to_tensor
from sap3d.runs.options import POSES, read_tree
from sap3d.scene import Scene
from sap3d.scores.metrics import rotation_error
from sap3d.views import image_paths, read_images, read_poses


def registered(photos: list[np.ndarray], folder: Path, seed: int = 0) -> dict[int, Tensor]:
    """World-to-camera rotations [3, 3] of the photos, uint8 RGBA [S, S, 4], that COLMAP registers."""
    pycolmap.set_random_seed(seed)
    pycolmap.logging.minloglevel = pycolmap.logging.Level.FATAL.value
    for name in ("images", "masks", "models"):
        (folder / name).mkdir()
    size = photos[0].shape[0]
    white = to_tensor(photos, size)
    for view, (photo, image) in enumerate(zip(photos, white)):
        imageio.imwrite(folder / f"images/{view:02d}.png", (image[:3].permute(1, 2, 0) * 255).byte().numpy())
        imageio.imwrite(folder / f"masks/{view:02d}.png.png", photo[..., 3])
    focal = size / 2 / cam.TAN_HALF_FOV
    reader = pycolmap.ImageReaderOptions(
        mask_path=folder / "masks", camera_model="SIMPLE_PINHOLE", camera_params=f"{focal},{size / 2},{size / 2}"
    )
    database = folder / "database.db"
    pycolmap.extract_features(
        database, folder / "images", camera_mode=pycolmap.CameraMode.SINGLE, reader_options=reader
    )
    pycolmap.match_exhaustive(database)
    models = pycolmap.incremental_mapping(database, folder / "images", folder / "models").values()
    largest = max(models, key=lambda model: model.num_reg_images(), default=None)
    if largest is None:
        return {}
    images = [each for each in largest.images.values() if each.has_pose]
    return {int(each.name[:2]): torch.tensor(each.cam_from_world().rotation.matrix()).float() for each in images}


def pair_error(rotations: dict[int, Tensor], truth: Tensor) -> float | None:
    """Mean angle in degrees between estimated and true relative rotations over all pairs; None of fewer than two."""
    # COLMAP's cameras look along +z with y downwards; half a turn about x makes them ours.
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    true = cam.spherical_to_w2c(truth)[:, :, :3]
    angles = [
        cam.rotation_angle(flip @ rotations[i] @ rotations[j].T @ flip @ (true[i] @ true[j].T).T)
        for i in rotations
        for j in rotations
        if i < j
    ]
    return torch.stack(angles).rad2deg().mean().item() if angles else None


def compare(scene: Scene, views: int, models: tuple | None, config: DictConfig) -> dict:
    """Both of one scene's first photos."""
    photos, truth = read_images(scene)[:views], read_poses(scene.train, views)
    with tempfile.TemporaryDirectory() as folder:
        rotations = registered(photos, Path(folder))
    row = {"object": scene.object, "views": views, "registered": len(rotations), "error": pair_error(rotations, truth)}
    if models is not None:
        row["ours"] = rotation_error(decide(*models, photos, config, seed=0).cameras[0], truth)
    return row


def degrees(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}°"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", type=Path, required=True, help="lines of TYPE OBJECT")
    parser.add_argument("--views", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--skip-ours", action="store_true", help="leave stage 1 out")
    arguments = parser.parse_args()
    config = read_tree([], "cpu", POSES)[POSES]
    models = None if arguments.skip_ours else load_models(config, torch.device("cpu"))
    path, rows = root_dir() / "results/colmap.json", []
    for views in arguments.views:
        for line in arguments.list.read_text().splitlines():
            scene = Scene(*line.split(), views)
            if len(image_paths(scene.train)) < views:
                raise UserError(f"{scene.train / 'images'}: fewer than {views} images")
            rows.append(compare(scene, views, models, config))
            row = rows[-1]
            ours = f"  ours {row['ours']:5.1f}°" if "ours" in row else ""
            print(f"{row['object']:20s} {views:2d} photos  COLMAP registers {row['registered']:2d}, "
                  f"error {degrees(row['error']):>6s}{ours}", flush=True)  # fmt: skip
            write_json(path, rows)
        of = [row for row in rows if row["views"] == views]
        known = [row["error"] for row in of if row["error"] is not None]
        ours = f"; ours {views * len(of)}, {np.mean([row['ours'] for row in of]):.1f}°" if "ours" in of[0] else ""
        print(f"{views} photos of {len(of)} objects: COLMAP registers {sum(row['registered'] for row in of)} of "
              f"{views * len(of)}, error {degrees(np.mean(known) if known else None)}{ours}", flush=True)  # fmt: skip


if __name__ == "__main__":
    with one_line_errors():
        main()
