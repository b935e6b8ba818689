"""The super-class of an object: procedural objects that look like it, on which tuning must not forget what it knew.

SAP3D (arXiv 2404.03652, §3.2) takes the class's neighbours from a database of objects by CLIP; here the pool is
procedural, and the pretrained model's own image features tell who is near.
"""

import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from camerabooth.backbones.interface import DiffusionModel
from dataset.render import Renderer
from dataset.toys import make_toy, toy_seed
from dataset.training_views import white_composite
from sap3d.files import REPOSITORY, atomic_file, save_tensors
from sap3d.runs.training import fingerprint

POOL = 256  # objects to choose from
DESCRIBED = 2  # photo-like views of each, by which they are compared
PHOTO_ELEVATION, OTHER_ELEVATION, RADIUS = (-5.0, 50.0), (-50.0, 90.0), (1.4, 2.3)  # degrees, degrees, world units
FILE = "neighbours.safetensors"
RENDERED_BY = [
    *(REPOSITORY / "dataset" / f"{name}.py" for name in ("render", "toys", "toy_shapes", "toy_paint")),
    Path(__file__),
]


def pool_seed(index: int) -> int:
    """Seed of an object of the pool."""
    return toy_seed(f"toy_{500 + index}")


def pool_cameras(rng: np.random.Generator) -> np.ndarray:
    """Cameras of an object's views, float32 [16, 3]: eight like photos, then eight from all heights."""
    low, high = (np.repeat([photo, other], 8) for photo, other in zip(PHOTO_ELEVATION, OTHER_ELEVATION))
    elevation = np.radians(rng.uniform(low, high))
    azimuth = rng.uniform(-math.pi, math.pi, 16)
    return np.stack([elevation, azimuth, rng.uniform(*RADIUS, 16)], -1).astype(np.float32)


def render_object(seed: int, size: int, views: int | None = None) -> tuple[Tensor, Tensor]:
    """Views of a procedural object, always the same: images [V, 4, S, S] and cameras [V, 3]."""
    cameras = torch.from_numpy(pool_cameras(np.random.default_rng(seed)))[:views]
    return white_composite(torch.from_numpy(Renderer(make_toy(seed)).render(cameras, size))), cameras


def cached_object(index: int, size: int, cache: Path) -> tuple[Tensor, Tensor]:
    """`render_object` of the pool's, from `cache` or for it."""
    path = cache / f"{fingerprint(*RENDERED_BY)[:12]}_{size}" / f"{index:03d}.npz"
    if not path.exists():
        images, cameras = render_object(pool_seed(index), size)
        with atomic_file(path) as partial:
            np.savez_compressed(partial, images=(images * 255).round().byte().numpy(), cameras=cameras.numpy())
    with np.load(path) as kept:
        return torch.from_numpy(kept["images"]).float() / 255, torch.from_numpy(kept["cameras"])


@torch.no_grad()
def describe(model: DiffusionModel, images: Tensor) -> Tensor:
    """Mean image features of one object's views [N, 4, S, S], [C]."""
    cameras = images.new_zeros(len(images), 3) + images.new_tensor([0.0, 0.0, 1.8])
    features = model.embed_sources(images, cameras).features[0]
    return features.flatten(2).mean((0, 2)) if features.dim() > 2 else features.mean(0)


def pool_features(model: DiffusionModel, folder: Path) -> Tensor:
    """`describe` of all objects of the pool, [POOL, C]; kept beside the model's weights in `folder`."""
    path = folder / FILE
    if not path.exists():
        rows = [
            describe(model, render_object(pool_seed(index), model.image_size, DESCRIBED)[0].to(model.device))
            for index in tqdm(range(POOL), desc="indexing prior objects", mininterval=1)
        ]
        with atomic_file(path) as partial:
            save_tensors({"features": torch.stack(rows).half().cpu()}, partial)
    return load_file(path)["features"].float()


def nearest_objects(model: DiffusionModel, folder: Path, images: Tensor, count: int) -> list[int]:
    """Indices in the pool of the objects whose features are nearest to the images' [N, 4, S, S] by cosine.

    Args:
        folder: the weights that `model` was loaded from.
    """
    pool = pool_features(model, folder)
    mean = pool.mean(0)
    own = describe(model, images).float().cpu() - mean
    return torch.cosine_similarity(pool - mean, own[None]).topk(min(count, POOL)).indices.tolist()


def regularisation_views(objects: list[int], size: int = 64, cache: Path | None = None) -> tuple[Tensor, Tensor]:
    """Images [K, V, 4, S, S] and cameras [K, V, 3] of objects of the pool.

    Args:
        cache: folder in which renders are kept, in eight bits, as long as the programs that make them are the same.
    """
    views = [cached_object(index, size, cache) if cache else render_object(pool_seed(index), size) for index in objects]
    return torch.stack([images for images, _ in views]), torch.stack([cameras for _, cameras in views])
