"""Stage 2's novel views: the 84-view grid about view 0, by the tuned model.

    python camerabooth/go_nvs.py --type GSO_demo --object chefmate_8_frypan --views 5 sampling.conditioning=joint

Writes preds/000.png … 083.png (colour on white), sheet.png and video.mp4 into Scene.diffusion.
"""

from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image

from camerabooth.diffusion import load_model
from camerabooth.main import CONFIG
from camerabooth.sampling import sample
from sap3d import images as im
from sap3d.cameras import evaluation_grid
from sap3d.devices import choose_device, seed_everything
from sap3d.errors import one_line_errors
from sap3d.files import atomic_file, atomic_folder, write_video
from sap3d.options import stage_options
from sap3d.poses import read_best_poses
from sap3d.scene import Scene, read_images

AZIMUTHS = 12  # columns of the evaluation grid
VIDEO_SIZE = 256


def run(scene: Scene, config: DictConfig, device: torch.device, seed: int) -> None:
    """Novel views of one scene, files to files."""
    seed_everything(seed)
    cameras = read_best_poses(scene.diffusion / "poses.json", scene.views).to(device)
    model = load_model(scene.diffusion / "model", device)
    images = im.to_tensor(read_images(scene), model.image_size).to(device)
    with torch.no_grad():
        sources = model.embed_sources(images, cameras)
    targets = evaluation_grid(cameras[0]).to(device)
    generator = torch.Generator().manual_seed(seed)
    chosen = {name: value for name, value in config.sampling.items() if value is not None}
    views = sample(model, sources, targets, generator, **model.sampling | chosen)
    write_views(scene.diffusion, im.to_uint8(views[:, :3].permute(0, 2, 3, 1)))


def write_views(folder: Path, views: np.ndarray) -> None:
    """Write uint8 views [84, S, S, 3] one by one, as a contact sheet, and as a video that winds through the rows."""
    with atomic_folder(folder / "preds") as partial:
        for index, view in enumerate(views):
            imageio.imwrite(partial / f"{index:03d}.png", view)
    with atomic_file(folder / "sheet.png") as partial:
        imageio.imwrite(partial, im.sheet(views, AZIMUTHS))
    large = (np.asarray(Image.fromarray(v).resize((VIDEO_SIZE, VIDEO_SIZE), Image.Resampling.LANCZOS)) for v in views)
    write_video(folder / "video.mp4", large, fps=12)


def main() -> None:
    arguments, config = stage_options(__doc__, CONFIG)
    run(arguments.scene, config, choose_device(arguments.device), arguments.seed)
    print(f"84 novel views: {arguments.scene.diffusion / 'preds'}")


if __name__ == "__main__":
    with one_line_errors():
        main()
