"""Stage 2's novel views: the 84-view grid about view 0, or any cameras, by the tuned model.

    python camerabooth/go_nvs.py --type GSO_demo --object chefmate_8_frypan --views 5 novel_views.conditioning=joint
    python camerabooth/go_nvs.py … --cameras path/transforms.json      # nerfstudio's format

Writes preds/000.png … 083.png (colour on white), sheet.png, video.mp4 and page.png, which shows all that stage 2 did,
into Scene.diffusion; with --cameras the first three alone, into views/ there.
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

from camerabooth.backbones.interface import load_model
from camerabooth.plot import write_page
from camerabooth.sampling import sample
from sap3d import images as im
from sap3d.cameras.framing import centre
from sap3d.cameras.maths import FIELD_OF_VIEW, camera_axes, camera_positions, evaluation_grid, w2c_to_spherical
from sap3d.cameras.poses import read_best_poses, read_middles, read_symmetry_order
from sap3d.cameras.symmetry import repeated
from sap3d.errors import UserError, one_line_errors
from sap3d.files import atomic_file, atomic_folder, write_video
from sap3d.runs.devices import choose_device, halving, seed_everything
from sap3d.runs.options import ROOT, stage_options
from sap3d.scene import Scene
from sap3d.views import read_images

AZIMUTHS = 12  # columns of the evaluation grid
VIDEO_SIZE = 256
VIEWS_AT_ONCE = 12  # five photos from both sides, with all 84, take 3.7 GB, and longer
OFF_CENTRE = 0.05  # a listed camera may look past the origin by so much of its distance


def read_transforms(path: Path) -> Tensor:
    """Cameras (elevation, azimuth, radius), [M, 3], of a nerfstudio transforms.json in the pipeline's world.

    Raises:
        UserError: unreadable, another field of view, or cameras that do not look at the origin upright.
    """
    try:
        content = json.loads(path.read_text())
        matrices = torch.tensor([frame["transform_matrix"] for frame in content["frames"]], dtype=torch.float64)
        field_of_view = 2 * math.atan(content["h"] / 2 / content["fl_y"])
        w2c = matrices.view(-1, 4, 4).inverse()[:, :3]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ZeroDivisionError) as error:
        raise UserError(f"{path}: not a transforms.json ({error})") from error
    if abs(field_of_view - FIELD_OF_VIEW) > math.radians(0.5):
        raise UserError(
            f"{path}: a field of view of {math.degrees(field_of_view):.1f}°, but the models know "
            f"{math.degrees(FIELD_OF_VIEW):.1f}° alone"
        )
    cameras = w2c_to_spherical(w2c)
    missed = (camera_positions(cameras) - matrices[:, :3, 3]).norm(dim=-1) > OFF_CENTRE * cameras[:, 2]
    rolled = (camera_axes(cameras) - matrices[:, :3, :3]).abs().amax((1, 2)) > OFF_CENTRE
    for index in (missed | rolled).nonzero()[:1, 0].tolist():
        raise UserError(f"{path}: frame {index} does not look at the origin with the horizon level")
    return cameras.float()


def novel_views(
    scene: Scene, folder: Path, config: DictConfig, device: torch.device, seed: int, targets: Tensor | None = None
) -> np.ndarray:
    """Pictures by the tuned model in `folder`, uint8 [M, S, S, 3], at cameras [M, 3]; by default the grid's 84."""
    seed_everything(seed)
    cameras = read_best_poses(folder / "poses.json", scene.views).to(device)
    model = load_model(folder / "model", device)
    photos = centre(read_images(scene), read_middles(folder / "poses.json", scene.views))
    images = im.to_tensor(photos, model.image_size).to(device)
    targets = evaluation_grid(cameras[0]) if targets is None else targets
    with torch.no_grad():
        sources = model.embed_sources(*repeated(images, cameras, read_symmetry_order(folder / "poses.json")))
    chosen = {name: value for name, value in config.novel_views.items() if value is not None}

    def sampled(batch: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return sample(model, sources, targets.to(device), generator, **model.sampling | chosen, batch=batch)

    views = halving(sampled, min(len(targets), VIEWS_AT_ONCE), "novel views at once", device)
    return im.to_uint8(views[:, :3].permute(0, 2, 3, 1))


def write_views(folder: Path, views: np.ndarray) -> None:
    """Write uint8 views [M, S, S, 3] one by one, as a contact sheet, and as a video that winds through the rows."""
    with atomic_folder(folder / "preds") as partial:
        for index, view in enumerate(views):
            imageio.imwrite(partial / f"{index:03d}.png", view)
    with atomic_file(folder / "sheet.png") as partial:
        imageio.imwrite(partial, im.sheet(views, AZIMUTHS))
    large = (np.asarray(Image.fromarray(v).resize((VIDEO_SIZE, VIDEO_SIZE), Image.Resampling.LANCZOS)) for v in views)
    write_video(folder / "video.mp4", large, fps=12)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cameras", type=Path, metavar="PATH", help="transforms.json of the views; the grid if not given"
    )


def main() -> None:
    arguments, config = stage_options(__doc__, ROOT, add_flags)
    device, folder = choose_device(arguments.device), arguments.scene.diffusion
    targets = read_transforms(arguments.cameras) if arguments.cameras else None
    views = novel_views(arguments.scene, folder, config, device, arguments.seed, targets)
    write_views(folder / "views" if arguments.cameras else folder, views)
    if not arguments.cameras:
        write_page(folder, views)
    print(f"{len(views)} novel views: {folder / 'views/preds' if arguments.cameras else folder / 'preds'}")


if __name__ == "__main__":
    with one_line_errors("novel_views"):
        main()
