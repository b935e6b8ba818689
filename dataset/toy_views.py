"""Training views of procedural objects: rendered once into shards, read by both trainings.

    python dataset/toy_views.py --shards 32 --first 0        # ROOT_DIR/runs/toy_views, 256 objects a shard

A shard is a pair of files: NNNNN_images.npy, uint8 RGBA [256, 16, 64, 64, 4], and NNNNN_cameras.npy, float32
(elevation, azimuth, radius) [256, 16, 3]. Views 0–7 are like photos (elevation −5…50°), views 8–15 like the targets of
novel-view synthesis (−50…90°). Every object has its own light. Shard 0 is the validation split.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dataset.render import Renderer, random_lighting
from dataset.toys import make_toy
from sap3d.errors import UserError, one_line_errors
from sap3d.files import atomic_file, root_dir

OBJECTS_PER_SHARD = 256
VIEWS = 16  # the first half like photos, the second like targets
SIZE = 64
PHOTO_ELEVATION, TARGET_ELEVATION = (-5.0, 50.0), (-50.0, 90.0)  # degrees
RADIUS = (1.4, 2.3)


def random_cameras(rng: np.random.Generator) -> np.ndarray:
    """Cameras (elevation, azimuth, radius) of one object's views, float32 [VIEWS, 3]; azimuths are uniform."""
    low, high = (np.repeat([a, b], VIEWS // 2) for a, b in zip(PHOTO_ELEVATION, TARGET_ELEVATION))
    elevation = np.radians(rng.uniform(low, high))
    azimuth = rng.uniform(-math.pi, math.pi, VIEWS)
    return np.stack([elevation, azimuth, rng.uniform(*RADIUS, VIEWS)], -1).astype(np.float32)


def render_shard(folder: Path, shard: int) -> None:
    """Render objects shard · 256 … shard · 256 + 255; nothing happens when the shard is there."""
    images_path, cameras_path = folder / f"{shard:05d}_images.npy", folder / f"{shard:05d}_cameras.npy"
    if images_path.exists():
        return
    images = np.empty((OBJECTS_PER_SHARD, VIEWS, SIZE, SIZE, 4), np.uint8)
    cameras = np.empty((OBJECTS_PER_SHARD, VIEWS, 3), np.float32)
    for index in tqdm(range(OBJECTS_PER_SHARD), desc=f"shard {shard}", mininterval=10):
        seed = shard * OBJECTS_PER_SHARD + index
        rng = np.random.default_rng([seed, 1])
        cameras[index] = random_cameras(rng)
        renderer = Renderer(make_toy(seed))
        images[index] = renderer.render(torch.from_numpy(cameras[index]), SIZE, lighting=random_lighting(rng))
    # The images come last: a reader takes a shard for whole when they are there.
    for path, array in ((cameras_path, cameras), (images_path, images)):
        with atomic_file(path) as partial:
            np.save(partial, array)


class ToyViews:
    """Random batches from a folder of shards; shards that appear while it is read are picked up."""

    def __init__(self, folder: Path, split: str):
        """`split` is "train" or "val" (shard 0).

        Raises:
            UserError: no shard of this split.
        """
        self.folder, self.split = Path(folder), split
        self.shards: dict[Path, tuple[np.ndarray, np.ndarray]] = {}
        self.refresh()
        if not self.shards:
            raise UserError(f"{folder}: no {split} shards; make them with python dataset/toy_views.py")

    def refresh(self) -> None:
        """Open shards that have appeared since."""
        for path in sorted(self.folder.glob("*_images.npy")):
            if path not in self.shards and (path.name == "00000_images.npy") == (self.split == "val"):
                cameras = np.load(path.with_name(path.name.replace("images", "cameras")))
                self.shards[path] = (np.load(path, mmap_mode="r"), cameras)

    def batch(self, rng: np.random.Generator, objects: int, views: int, targets: int = 0) -> tuple[Tensor, Tensor]:
        """Random views of random objects: `views` of the photo-like ones, then `targets` of all others.

        Returns:
            White-composited colour and alpha in [0, 1], [objects, views + targets, 4, 64, 64], and cameras
            [objects, views + targets, 3].
        """
        shards = list(self.shards.values())
        count, photos = views + targets, VIEWS // 2
        images = np.empty((objects, count, SIZE, SIZE, 4), np.uint8)
        cameras = np.empty((objects, count, 3), np.float32)
        for slot in range(objects):
            shard_images, shard_cameras = shards[rng.integers(len(shards))]
            index, order = rng.integers(len(shard_cameras)), rng.permutation(photos)
            others = rng.permutation(np.concatenate([order[views:], np.arange(photos, VIEWS)]))
            chosen = np.concatenate([order[:views], others[:targets]])
            images[slot], cameras[slot] = shard_images[index, chosen], shard_cameras[index, chosen]
        return white_composite(torch.from_numpy(images)), torch.from_numpy(cameras)


def white_composite(rgba: Tensor) -> Tensor:
    """uint8 straight RGBA [..., H, W, 4] → float colour on white and alpha in [0, 1], [..., 4, H, W]."""
    image = rgba.movedim(-1, -3).float() / 255
    color, alpha = image[..., :3, :, :], image[..., 3:, :, :]
    return torch.cat([color * alpha + 1 - alpha, alpha], -3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=0, help="first shard")
    parser.add_argument("--shards", type=int, default=32, help="how many")
    parser.add_argument("--folder", type=Path, default=root_dir() / "runs/toy_views")
    arguments = parser.parse_args()
    for shard in range(arguments.first, arguments.first + arguments.shards):
        render_shard(arguments.folder, shard)


if __name__ == "__main__":
    with one_line_errors():
        main()
