"""Training views rendered while a card trains: processes make objects, and the card draws and keeps their views.

They are those of dataset/training_views.py, object for object, without WebP's losses. An object takes 1.1 MB of the
card's memory.
"""

import copy
import itertools
import threading
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from dataset.rasterise import Rasteriser, arrays
from dataset.render import Lighting, Surface
from dataset.training_views import (
    DEPTH_SIZE,
    KINDS,
    OBJECTS_PER_SHARD,
    SIZE,
    VIEWS,
    Batch,
    dequantised_depth,
    quantised_depth,
    random_views,
    training_scene,
    white_composite,
)

Drawing = tuple[dict[str, np.ndarray], np.ndarray, Lighting]  # a surface's arrays, cameras [VIEWS, 7], light


def drawing(kind: str, seed: int) -> Drawing:
    """`training_scene` of a seed, as the card draws it."""
    cameras, mesh, lighting = training_scene(kind, seed)
    return arrays(Surface(mesh)), cameras, lighting


class Drawings(IterableDataset):
    """From a seed on, each one's toy and modelled object; shared out among workers."""

    def __init__(self, first: int):
        self.first = first

    def __iter__(self) -> Iterator[list[Drawing]]:
        worker = get_worker_info()
        for seed in itertools.count(self.first + (worker.id if worker else 0), worker.num_workers if worker else 1):
            yield [drawing(kind, seed) for kind in KINDS]


class RenderedViews:
    """Views of objects on a device, toys at even places and modelled objects at odd ones; batches as `TrainingViews`.

    Args:
        capacity: objects at most.
        workers: processes that make objects.
        held_out: those of shard 0, which training never sees, instead of the others.
    """

    kinds = KINDS

    def __init__(self, device: torch.device, capacity: int, workers: int, held_out: bool = False):
        self.device, self.count, self.places = device, 0, slice(0, None, 1)
        self.images = torch.empty(capacity, VIEWS, SIZE, SIZE, 4, dtype=torch.uint8, device=device)
        self.depths = torch.empty(capacity, VIEWS, DEPTH_SIZE, DEPTH_SIZE, dtype=torch.uint8, device=device)
        self.cameras = torch.empty(capacity, VIEWS, 7, device=device)
        drawings = Drawings(0 if held_out else OBJECTS_PER_SHARD)
        loader = DataLoader(
            drawings,
            batch_size=None,
            collate_fn=list,  # as they are
            num_workers=workers,
            prefetch_factor=8 if workers else None,
        )
        self._drawings = itertools.chain.from_iterable(loader)
        self._stopped = threading.Event()

    def fill(self, objects: int) -> None:
        """Render more objects, until there is no room, or `stop` is called."""
        stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        with torch.cuda.stream(stream):
            for surface, cameras, lighting in itertools.islice(self._drawings, objects):
                if self._stopped.is_set() or self.count == len(self.images):
                    return
                self._draw(surface, torch.from_numpy(cameras).to(self.device), lighting)
                if stream:
                    stream.synchronize()
                self.count += 1

    def stop(self) -> None:
        """Let `fill`, in another thread, end."""
        self._stopped.set()

    @torch.no_grad()
    def _draw(self, surface: dict[str, np.ndarray], cameras: Tensor, lighting: Lighting) -> None:
        rasteriser = Rasteriser({name: torch.from_numpy(part).to(self.device) for name, part in surface.items()})
        self.images[self.count] = rasteriser.render(cameras, SIZE, 2, lighting)
        self.depths[self.count] = quantised_depth(rasteriser.depth(cameras, DEPTH_SIZE), cameras[:, 2])
        self.cameras[self.count] = cameras

    def of_kind(self, kind: str) -> "RenderedViews":
        """The same views, of one kind alone."""
        part = copy.copy(self)
        part.places = slice(KINDS.index(kind), None, len(KINDS))
        return part

    def batch(self, rng: np.random.Generator, objects: int, views: int, targets: int = 0) -> Batch:
        """Random views of random objects: `views` of the photo-like ones, then `targets` of all others."""
        indices = rng.choice(range(self.count)[self.places], objects)
        chosen = [random_views(rng, views, targets) for _ in indices]
        index = torch.from_numpy(indices).to(self.device)[:, None]
        chosen = torch.from_numpy(np.stack(chosen)).to(self.device)
        images = white_composite(self.images[index, chosen])
        return Batch(images, self.cameras[index, chosen], dequantised_depth(self.depths[index, chosen[:, views:]]))
