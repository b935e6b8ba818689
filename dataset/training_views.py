"""Training views of toys and modelled objects: rendered once into shards, read by both trainings.

    nice -n 15 python dataset/training_views.py toys --first 0 --shards 40      # ROOT_DIR/runs/views/toys
    nice -n 15 python dataset/training_views.py models --first 0 --shards 120   # variants of modelled objects

A shard holds 256 objects of 16 views at 128×128. NNNNN_index.npz has their cameras, float32 [256, 16, 7] with roll and
field of view (docs/CONVENTIONS.md), and where in NNNNN_pictures.npy each view's two pictures end: WebP colour and
alpha, and lossless WebP depth at 64×64, 0 where there is nothing. Views 0–7 are like photos, views 8–15 like the
targets of novel-view synthesis. Every object has its own light. Shard 0 is held out: toys of their own, and modelled
objects that no other shard has.
"""

import argparse
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import trimesh
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from dataset.hard_toys import FAMILIES, make_hard_toy
from dataset.modelled import list_models, load_model
from dataset.render import Lighting, Renderer, random_lighting
from dataset.toys import make_toy
from dataset.variation import vary, with_textures
from sap3d.cameras import maths as cam
from sap3d.cameras.maths import SCENE_BOUND
from sap3d.errors import UserError, one_line_errors
from sap3d.files import atomic_file, root_dir

OBJECTS_PER_SHARD = 256
VIEWS = 16  # the first half like photos, the second like targets
SIZE, DEPTH_SIZE = 128, 64
PHOTO_ELEVATION, TARGET_ELEVATION = (-20.0, 85.0), (-50.0, 90.0)  # degrees
USUAL_ELEVATION = (-5.0, 50.0)  # of most photos
FIELDS_OF_VIEW = (25.0, 65.0)  # degrees
MAX_ROLL = 12.0  # degrees
RADIUS = (1.4, 2.3)  # at the usual field of view; at another, the distance that keeps the object's size
HELD_OUT = 16  # one modelled object in so many is seen by shard 0 alone
HARD_TOYS = 0.3  # share of the toys
KINDS = ("toys", "models")


def random_cameras(rng: np.random.Generator) -> np.ndarray:
    """Cameras of one object's views, float32 [VIEWS, 7]; azimuths are uniform.

    Half of the objects are photographed with the usual field of view and without roll.
    """
    half = VIEWS // 2
    usual = rng.random(half) < 0.75
    photos = np.where(usual, rng.uniform(*USUAL_ELEVATION, half), rng.uniform(*PHOTO_ELEVATION, half))
    elevation = np.radians(np.concatenate([photos, rng.uniform(*TARGET_ELEVATION, VIEWS - half)]))
    azimuth = rng.uniform(-math.pi, math.pi, VIEWS)
    view = np.full(VIEWS, cam.FIELD_OF_VIEW)
    roll, middle = np.zeros(VIEWS), np.zeros((VIEWS, 2))
    if rng.random() < 0.5:
        view[:] = np.radians(rng.uniform(*FIELDS_OF_VIEW))
    if rng.random() < 0.5:
        roll[:half] = np.radians(rng.normal(0, MAX_ROLL / 2, half).clip(-MAX_ROLL, MAX_ROLL))
    if rng.random() < 0.5:
        middle[:half] = rng.normal(0, 0.04, (half, 2)).clip(-0.1, 0.1)
    radius = rng.uniform(*RADIUS, VIEWS) * cam.TAN_HALF_FOV / np.tan(view / 2)
    return np.column_stack([elevation, azimuth, radius, middle, roll, view]).astype(np.float32)


# ---------------------------------------------------------------- objects


def training_object(kind: str, shard: int, rng: np.random.Generator, seed: int) -> trimesh.Trimesh:
    """The object of this seed: a toy, or a varied modelled object, or a toy with a modelled object's texture."""
    if kind == "toys":
        hard = rng.random() < HARD_TOYS
        return make_hard_toy(rng.choice(list(FAMILIES)), seed) if hard else make_toy(seed)
    mesh = _random_model(rng, shard)
    if shard and rng.random() < 0.1:
        return with_textures(rng, make_toy(seed), mesh)
    return vary(rng, mesh, lambda: _random_model(rng, shard)) if shard else mesh


def _random_model(rng: np.random.Generator, shard: int) -> trimesh.Trimesh:
    models = [model for index, model in enumerate(list_models()) if (index % HELD_OUT == 0) == (shard == 0)]
    return load_model(models[rng.integers(len(models))])


def training_scene(kind: str, seed: int) -> tuple[np.ndarray, trimesh.Trimesh, Lighting]:
    """Cameras of this seed's views, float32 [VIEWS, 7], its object and its light."""
    rng = np.random.default_rng([seed, 1 + KINDS.index(kind)])
    cameras = random_cameras(rng)
    mesh = training_object(kind, seed // OBJECTS_PER_SHARD, rng, seed)
    return cameras, mesh, random_lighting(rng)


# ---------------------------------------------------------------- shards


def render_shard(folder: Path, kind: str, shard: int) -> None:
    """Render objects shard · 256 … shard · 256 + 255; nothing happens when the shard is there."""
    pictures_path, index_path = folder / f"{shard:05d}_pictures.npy", folder / f"{shard:05d}_index.npz"
    if pictures_path.exists():
        return
    pictures = []
    cameras = np.empty((OBJECTS_PER_SHARD, VIEWS, 7), np.float32)
    for index in tqdm(range(OBJECTS_PER_SHARD), desc=f"{kind} {shard}", mininterval=10):
        cameras[index], mesh, lighting = training_scene(kind, shard * OBJECTS_PER_SHARD + index)
        renderer, views = Renderer(mesh), torch.from_numpy(cameras[index])
        images = renderer.render(views, SIZE, lighting=lighting)
        depths = quantised_depth(torch.from_numpy(renderer.depth(views, DEPTH_SIZE)), views[:, 2]).numpy()
        for image, depth in zip(images, depths, strict=True):
            pictures += [_encode(image, quality=90), _encode(depth, lossless=True)]
    ends = np.cumsum([len(picture) for picture in pictures]).reshape(OBJECTS_PER_SHARD, VIEWS, 2)
    # The pictures come last: a reader takes a shard for whole when they are there.
    with atomic_file(index_path) as partial:
        np.savez(partial, cameras=cameras, ends=ends)
    with atomic_file(pictures_path) as partial:
        np.save(partial, np.frombuffer(b"".join(pictures), np.uint8))


def quantised_depth(depth: Tensor, radius: Tensor) -> Tensor:
    """Depths [V, S, S] within ±SCENE_BOUND of `radius` [V] as 1 … 255, anything else as 0: uint8."""
    relative = (torch.where(depth.isfinite(), depth, 0) - radius[:, None, None]) / SCENE_BOUND
    return torch.where(relative.abs() < 1, ((relative + 1) * 127 + 1).round(), 0).byte()


def dequantised_depth(levels: Tensor) -> Tensor:
    """Inverse of `quantised_depth`, relative: (depth − radius) / SCENE_BOUND, and 2 where there is nothing."""
    return torch.where(levels > 0, (levels.float() - 1) / 127 - 1, 2.0)


def _encode(picture: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", method=2, **options)
    return buffer.getvalue()


def _decode(data: np.ndarray) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data.tobytes())))


@dataclass
class Batch:
    """Views of B objects: the sources first, then the targets."""

    images: Tensor  # colour on white and alpha in [0, 1], [B, V, 4, S, S]
    cameras: Tensor  # [B, V, 7]
    depths: Tensor  # of the targets, relative as of `dequantised_depth`, [B, M, 64, 64]

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.images.to(device), self.cameras.to(device), self.depths.to(device))


def random_views(rng: np.random.Generator, views: int, targets: int) -> np.ndarray:
    """Which views of an object are in a batch: `views` of the photo-like ones, then `targets` of all others."""
    order = rng.permutation(VIEWS // 2)
    others = rng.permutation(np.concatenate([order[views:], np.arange(VIEWS // 2, VIEWS)]))
    return np.concatenate([order[:views], others[:targets]])


class TrainingViews:
    """Random batches from folders of shards; shards that appear while it is read are picked up."""

    def __init__(self, folder: Path, split: str, kinds: tuple[str, ...] = KINDS):
        """`split` is "train" or "val" (shard 0). Objects of all kinds that are there are equally likely.

        Raises:
            UserError: no shard of this split.
        """
        self.folder, self.split, self.wanted = Path(folder), split, kinds
        self.shards: dict[str, dict[Path, tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
        self.refresh()
        if not self.shards:
            raise UserError(f"{folder}: no {split} shards; make them with python dataset/training_views.py")

    @property
    def kinds(self) -> tuple[str, ...]:
        """Those that there are shards of."""
        return tuple(self.shards)

    def of_kind(self, kind: str) -> "TrainingViews":
        """Those of one kind alone."""
        return TrainingViews(self.folder, self.split, (kind,))

    def refresh(self) -> None:
        """Open shards that have appeared since."""
        for kind in self.wanted:
            for path in sorted((self.folder / kind).glob("*_pictures.npy")):
                shards = self.shards.get(kind, {})
                if path not in shards and path.name.startswith("00000") == (self.split == "val"):
                    index = np.load(path.with_name(path.name.replace("pictures.npy", "index.npz")))
                    shards[path] = (np.load(path, mmap_mode="r"), index["cameras"], index["ends"])
                    self.shards[kind] = shards

    def batch(self, rng: np.random.Generator, objects: int, views: int, targets: int = 0) -> Batch:
        """Random views of random objects: `views` of the photo-like ones, then `targets` of all others."""
        sets = []
        for _ in range(objects):
            shards = list(self.shards[self.kinds[rng.integers(len(self.kinds))]].values())
            pictures, cameras, ends = shards[rng.integers(len(shards))]
            index = rng.integers(len(cameras))
            sets.append(_read(pictures, cameras[index], ends, index, random_views(rng, views, targets), views))
        return Batch(*(torch.stack(parts) for parts in zip(*sets, strict=True)))


def _read(
    pictures: np.ndarray, cameras: np.ndarray, ends: np.ndarray, index: int, chosen: np.ndarray, views: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Some views of one object: images, cameras, and depths of all but the first `views`."""
    flat_ends = np.concatenate([[0], ends.reshape(-1)])

    def picture(view: int, which: int) -> np.ndarray:
        place = (index * VIEWS + view) * 2 + which
        return _decode(pictures[flat_ends[place] : flat_ends[place + 1]])

    images = white_composite(torch.from_numpy(np.stack([_with_alpha(picture(view, 0)) for view in chosen])))
    depths = [torch.from_numpy(picture(view, 1)[..., 0].copy()) for view in chosen[views:]]
    depths = torch.stack(depths) if depths else torch.empty(0, DEPTH_SIZE, DEPTH_SIZE, dtype=torch.uint8)
    return images, torch.from_numpy(cameras[chosen]), dequantised_depth(depths)


def _with_alpha(picture: np.ndarray) -> np.ndarray:
    """WebP drops an alpha channel that is opaque everywhere."""
    if picture.shape[-1] == 4:
        return picture
    return np.concatenate([picture, np.full_like(picture[..., :1], 255)], -1)


def white_composite(rgba: Tensor) -> Tensor:
    """uint8 straight RGBA [..., H, W, 4] → float colour on white and alpha in [0, 1], [..., 4, H, W]."""
    image = rgba.movedim(-1, -3).float() / 255
    color, alpha = image[..., :3, :, :], image[..., 3:, :, :]
    return torch.cat([color * alpha + 1 - alpha, alpha], -3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--first", type=int, default=0, help="first shard")
    parser.add_argument("--shards", type=int, default=32, help="how many")
    parser.add_argument("--folder", type=Path, default=root_dir() / "runs/views")
    arguments = parser.parse_args()
    for shard in range(arguments.first, arguments.first + arguments.shards):
        render_shard(arguments.folder / arguments.kind, arguments.kind, shard)


if __name__ == "__main__":
    with one_line_errors():
        main()
