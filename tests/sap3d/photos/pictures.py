"""Pictures for the tests of import."""

import numpy as np

HEIGHT, WIDTH = 240, 320


def picture(centre=(130, 170), axes=(70, 40), back=(70, 90, 160)) -> tuple[np.ndarray, np.ndarray]:
    """A patterned orange ellipse on a noisy, shaded plain: RGB, uint8 [HEIGHT, WIDTH, 3], and its mask."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    mask = ((y - centre[0]) / axes[0]) ** 2 + ((x - centre[1]) / axes[1]) ** 2 < 1
    plain = np.array(back) * (0.8 + 0.4 * x / WIDTH)[..., None]
    pattern = np.where((y // 12 + x // 12)[..., None] % 2, (230, 120, 30), (190, 60, 40))
    rgb = np.where(mask[..., None], pattern, plain) + rng.normal(0, 4, (HEIGHT, WIDTH, 3))
    return rgb.clip(0, 255).astype(np.uint8), mask


def cutout(**where) -> np.ndarray:
    """The ellipse cut out, uint8 [HEIGHT, WIDTH, 4]."""
    rgb, mask = picture(**where)
    return np.dstack([rgb, mask * np.uint8(255)])


def iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two bool masks."""
    return (first & second).sum() / (first | second).sum()
