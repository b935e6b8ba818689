"""What stage 3's free gains are worth: fields from photos that differ in exposure and white balance, and from photos
alike.

    OMP_NUM_THREADS=1 nice python benchmarks/exposure.py --toys toy_301 toy_302 --steps 200

Five photos at true cameras, 8 % of exposure and 3 % of white balance apart (standard deviations,
dataset/photo_errors.py). No prior model: what is measured is the photos' own. PSNR of 14 unseen views at 64×64.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch

from dataset.photo_errors import EXPOSURE, WHITE_BALANCE
from dataset.prepare import load_object
from dataset.render import Renderer
from sap3d.cameras import maths as cam
from sap3d.cameras.poses import write_poses
from sap3d.images import to_tensor
from sap3d.runs.devices import seed_everything
from sap3d.runs.training import fit
from sap3d.scene import Scene

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "3D_Recon/threestudio"))
import launch  # noqa: E402

from threestudio.config import build  # noqa: E402

CAMERAS = torch.tensor([[0.3, 0.0, 1.8], [0.5, 1.3, 1.8], [0.2, 2.6, 1.8], [0.4, -1.2, 1.8], [0.6, -2.4, 1.8]])
SHORT = ("system.expected_weight=0", "system.guidance_weight=0", "data.rays=2048",
         "data.image_size=[[0,32],[50,64],[110,128]]", "system.geometry.resolution=[[0,16],[50,32],[110,64]]",
         "system.occupancy_from=60")  # fmt: skip


def unseen_psnr(toy: str, differ: bool, exposure: float, steps: int) -> float:
    """Of a field fitted to photos that differ or not, with gains expected to differ by `exposure`."""
    renderer, scene = Renderer(load_object("toy_demo", toy)), Scene("toy_demo", toy, len(CAMERAS))
    rng = np.random.default_rng(0)
    gains = rng.normal(0, EXPOSURE, (len(CAMERAS), 1)) + rng.normal(0, WHITE_BALANCE, (len(CAMERAS), 3))
    gains = np.exp((gains - gains.mean(0)) * differ)
    (scene.train / "images").mkdir(parents=True, exist_ok=True)
    for index, photo in enumerate(renderer.render(CAMERAS, 256)):
        photo[..., :3] = (photo[..., :3] * gains[index]).clip(0, 255).astype(np.uint8)
        imageio.imwrite(scene.train / f"images/{index:03d}.png", photo)
    write_poses(scene.diffusion / "poses.json", CAMERAS[None], [0.0])
    names = [f"data.type={scene.type}", f"data.object={toy}", f"data.views={scene.views}", f"trainer.max_steps={steps}"]
    config = launch.read_config(launch.DEFAULT, [*names, *SHORT, f"system.corrections.exposure={exposure}"])
    seed_everything(0)
    system = build(config["system"], build(config["data"], 0), CAMERAS)
    work = scene.reconstruction.with_name(f"{toy}_{differ}_{exposure}")
    fit(system, steps, torch.device("cpu"), work, "exposure")
    unseen = cam.evaluation_grid(CAMERAS[0])[::6]
    truth = to_tensor(list(renderer.render(unseen, 64)), 64)[:, :3]
    found = torch.stack([system.renderer.image(camera, 64).color for camera in unseen]).permute(0, 3, 1, 2)
    return -10 * (found - truth).square().mean().log10().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toys", nargs="+", default=["toy_301", "toy_302"])
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    for toy in arguments.toys:
        for differ in (True, False):
            for exposure in (0.0, 0.1):
                with tempfile.TemporaryDirectory() as folder:
                    os.environ["ROOT_DIR"] = folder
                    psnr = unseen_psnr(toy, differ, exposure, arguments.steps)
                print(f"{toy}  photos {'differ' if differ else 'alike '}  gains {'free ' if exposure else 'fixed'}"
                      f"  {psnr:.2f} dB", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
