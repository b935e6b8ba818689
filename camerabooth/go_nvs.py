"""Stage 2's novel views: the 84-view grid about view 0, or any cameras, by the tuned model.

    python camerabooth/go_nvs.py --type GSO_demo --object chefmate_8_frypan --views 5 novel_views.conditioning=joint
    python camerabooth/go_nvs.py … --cameras path/transforms.json      # nerfstudio's format

Writes preds/000.png … 083.png (colour on white, 256×256), sheet.png, video.mp4 and page.png, which shows all that stage
2 did, into Scene.diffusion; with --cameras the first three alone, into views/ there. The video goes round the object at
view 0's elevation where views are renders of a field; samples are slow, so there it winds through the grid's rows.
"""

import argparse
import json
import math
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from camerabooth.backbones.interface import DiffusionModel, Sources, load_model
from camerabooth.plot import write_page
from camerabooth.sampling import sample
from sap3d import images as im
from sap3d.cameras.framing import centre, upright
from sap3d.cameras.maths import FIELD_OF_VIEW, camera_positions, evaluation_grid, w2c_to_rolled
from sap3d.cameras.maths import upright as unrolled
from sap3d.cameras.poses import MAX_ROLL, read_best_poses, read_middles, read_symmetry_order
from sap3d.cameras.symmetry import repeated
from sap3d.errors import UserError, one_line_errors
from sap3d.files import atomic_file, atomic_folder, write_video
from sap3d.runs.devices import choose_device, halving, seed_everything
from sap3d.runs.options import ROOT, stage_options
from sap3d.scene import Scene
from sap3d.views import read_kept_images

AZIMUTHS = 12  # columns of the evaluation grid
SIZE, TILE = 256, 128  # of a view, and on the sheet
FRAMES = 36  # of a video that goes round
VIEWS_AT_ONCE = 12  # five photos from both sides, with all 84, take 3.7 GB, and longer
OTHER_VIEW = math.radians(26)  # from the usual field of view
OFF_CENTRE = 0.05  # a listed camera may look past the origin by so much of its distance


def read_transforms(path: Path) -> Tensor:
    """Cameras [M, 7] of a nerfstudio transforms.json in the pipeline's world; lenses are the frames' own or common.

    Raises:
        UserError: unreadable, or cameras that do not look at the origin, or look at it from the side or upside down.
    """
    try:
        content = json.loads(path.read_text())
        matrices = torch.tensor([frame["transform_matrix"] for frame in content["frames"]], dtype=torch.float64)
        focal = torch.tensor([frame.get("fl_y", content.get("fl_y")) for frame in content["frames"]])
        w2c = matrices.view(-1, 4, 4).inverse()[:, :3]
        cameras = w2c_to_rolled(w2c)
        cameras[:, 6] = 2 * (content["h"] / 2 / focal).atan()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ZeroDivisionError) as error:
        raise UserError(f"{path}: not a transforms.json ({error})") from error
    missed = (camera_positions(cameras) - matrices[:, :3, 3]).norm(dim=-1) > OFF_CENTRE * cameras[:, 2]
    turned = cameras[:, 5].abs() > MAX_ROLL
    for index in (missed | turned).nonzero()[:1, 0].tolist():
        raise UserError(f"{path}: frame {index} does not look at the origin, nearly upright")
    for index in ((cameras[:, 6] - FIELD_OF_VIEW).abs() > OTHER_VIEW).nonzero()[:1, 0].tolist():
        angle = math.degrees(cameras[index, 6])
        raise UserError(f"{path}: frame {index} has a field of view of {angle:.1f}°, which the models do not know")
    return cameras.float()


def novel_views(
    scene: Scene, folder: Path, config: DictConfig, device: torch.device, seed: int, targets: Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures by the tuned model in `folder`, uint8 [M, SIZE, SIZE, 3].

    Args:
        targets: cameras [M, 3] or [M, 7]; by default the grid's 84.

    Returns:
        The targets' views, and the frames of the video.
    """
    seed_everything(seed)
    poses = read_best_poses(folder / "poses.json", scene.views).to(device)
    model = load_model(folder / "model", device)
    sources, cameras = show_photos(model, scene, folder, poses)
    grid = targets is None
    targets = evaluation_grid(cameras[0]) if grid else targets
    options = model.sampling | {name: value for name, value in config.novel_views.items() if value is not None}

    def sampled(cameras: Tensor) -> np.ndarray:
        def at_once(batch: int) -> Tensor:
            generator = torch.Generator().manual_seed(seed)
            return sample(model, sources, unrolled(cameras).to(device), generator, **options, batch=batch, size=SIZE)

        views = halving(at_once, min(len(cameras), VIEWS_AT_ONCE), "novel views at once", device)
        if cameras.shape[1] == 7:  # networks see upright views
            views = im.turn(views, cameras[:, 5].to(views.device))
        return np.stack([resized(view, SIZE) for view in im.to_uint8(views[:, :3].permute(0, 2, 3, 1))])

    views = sampled(targets)
    return views, sampled(orbit(cameras[0])) if grid and options["steps"] == 0 else views


@torch.no_grad()
def show_photos(model: DiffusionModel, scene: Scene, folder: Path, cameras: Tensor) -> tuple[Sources, Tensor]:
    """Show a model the photos of a scene, from all sides that look alike, at stage 2's cameras [N, ≥ 3] in `folder`.

    Returns:
        The embedded photos, and their cameras, upright, [N, ≥ 3].
    """
    poses = folder / "poses.json"
    photos = centre(read_kept_images(scene, poses), read_middles(poses, scene.views))
    # A field's renders have their colours from photos of any size.
    size = max(model.image_size, SIZE) if model.knows_field else model.image_size
    images, cameras = upright(photos, cameras, size)
    return model.embed_sources(*repeated(images, cameras, read_symmetry_order(poses))), cameras


def orbit(camera: Tensor) -> Tensor:
    """Cameras once round the object, [FRAMES, ≥ 3], from `camera` [≥ 3] on."""
    cameras = camera.repeat(FRAMES, 1)
    cameras[:, 1] += torch.arange(FRAMES, device=camera.device) * (2 * math.pi / FRAMES)
    return cameras


def resized(view: np.ndarray, size: int) -> np.ndarray:
    """uint8 [S, S, 3] → [size, size, 3]."""
    return np.asarray(Image.fromarray(view).resize((size, size), Image.Resampling.LANCZOS))


def write_views(folder: Path, views: np.ndarray, frames: np.ndarray) -> None:
    """Write uint8 views [M, S, S, 3] one by one and as a contact sheet, and the frames of the video."""
    with atomic_folder(folder / "preds") as partial:
        for index, view in enumerate(views):
            imageio.imwrite(partial / f"{index:03d}.png", view)
    with atomic_file(folder / "sheet.png") as partial:
        imageio.imwrite(partial, im.sheet(np.stack([resized(view, TILE) for view in views]), AZIMUTHS))
    write_video(folder / "video.mp4", frames, fps=12)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cameras", type=Path, metavar="PATH", help="transforms.json of the views; the grid if not given"
    )


def main() -> None:
    arguments, config = stage_options(__doc__, ROOT, add_flags)
    device, folder = choose_device(arguments.device), arguments.scene.diffusion
    targets = read_transforms(arguments.cameras) if arguments.cameras else None
    views, frames = novel_views(arguments.scene, folder, config, device, arguments.seed, targets)
    write_views(folder / "views" if arguments.cameras else folder, views, frames)
    if not arguments.cameras:
        write_page(folder, views)
    print(f"{len(views)} novel views: {folder / 'views/preds' if arguments.cameras else folder / 'preds'}")


if __name__ == "__main__":
    with one_line_errors("novel_views"):
        main()
