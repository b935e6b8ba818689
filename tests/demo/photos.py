"""Pictures for the demo's tests."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 200


def picture(shift: int = 0, back=(70, 90, 160)) -> np.ndarray:
    """A patterned orange ellipse on a plain, uint8 [SIZE, SIZE, 3]."""
    y, x = np.mgrid[:SIZE, :SIZE]
    mask = ((y - 100) / 60) ** 2 + ((x - 100 - shift) / 35) ** 2 < 1
    pattern = np.where((y // 12 + (x - shift) // 12)[..., None] % 2, (230, 120, 30), (190, 60, 40))
    return np.where(mask[..., None], pattern, np.array(back)).astype(np.uint8)


def write_photos(folder: Path, count: int = 4, back=(70, 90, 160)) -> list[Path]:
    """Photos of one object, each a little different: 0.jpg, 1.jpg, …"""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index}.jpg" for index in range(count)]
    for index, path in enumerate(paths):
        Image.fromarray(picture(4 * index, back)).save(path, quality=95)
    return paths
