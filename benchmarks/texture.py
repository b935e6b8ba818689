"""How well the mesh's texture shows the photos, and views that no photo shows.

    python benchmarks/texture.py --list dataset/benchmarks/scans8.txt --views 5 [mesh.key=value ...]

Objects must have gone through stage 3; texture and vertex colours are made again from their fields. At the photos' own
cameras, 512² pixels, drawn by Embree without light: the mean magnitude of the colours' gradients over the photos',
inside the silhouettes, and the PSNR. In every n-th of the 84 test views, 256²: the PSNR with the texture, and with the
field's colours at the vertices. --figure draws crops of the photos and of the mesh there.
"""

import time
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch
from scipy import ndimage

from benchmarks.mesh import restored, run_over_list, surface_and_photos, views_of
from sap3d.cameras.maths import evaluation_grid
from sap3d.cameras.poses import read_best_poses
from sap3d.errors import one_line_errors
from sap3d.images import read_on_white, sheet, to_uint8
from sap3d.scene import Scene, image_paths

PHOTO_SIZE, VIEW_SIZE = 512, 256
INSET = 9  # pixels of PHOTO_SIZE from a silhouette, where gradients are not compared
COLUMNS = ("gradient", "photo PSNR", "test PSNR", "vertex colours", "bake, s")


def gradients(image: np.ndarray) -> np.ndarray:
    """Magnitudes of the colour's gradient, mean over channels, of images [H, W, 3]: [H, W]."""
    return np.hypot(*np.gradient(image, axis=(0, 1))).mean(-1)


def psnr(images: np.ndarray, truth: np.ndarray) -> float:
    """Mean over images [N, H, W, 3] in [0, 1]."""
    return float(np.mean(-10 * np.log10(np.square(images - truth).mean((1, 2, 3)))))


def evaluate(scene: Scene, overrides: list[str], every: int, figure: Path | None) -> list[float]:
    """COLUMNS of an object."""
    exporter, system, data, placement = restored(scene, overrides)
    surface, photos = surface_and_photos(exporter, system, data)
    begun = time.process_time()
    textured = placement.mesh(exporter.texture(surface, photos, system.poses.cameras(), data.order).mesh)
    seconds = time.process_time() - begun
    colored = placement.mesh(surface)

    cameras = read_best_poses(scene.reconstruction / "poses.json", scene.views)
    photos = system.corrections.undo(data.images(PHOTO_SIZE)).permute(0, 2, 3, 1).numpy()
    shown, photo_color = views_of(textured, cameras, PHOTO_SIZE), photos[..., :3]
    ratios = []
    for photo, image in zip(photos, shown):
        inside = (photo[..., 3] > 0.9) & (image < 0.995).any(-1)
        inside = ndimage.binary_erosion(ndimage.binary_closing(inside, iterations=3), iterations=INSET)
        ratios.append(gradients(image)[inside].mean() / gradients(photo[..., :3])[inside].mean())
    if figure:
        rows = to_uint8(torch.from_numpy(np.concatenate([photo_color, shown])))
        imageio.imwrite(figure / f"{scene.object}.png", sheet(rows, len(photos)))

    grid = evaluation_grid(cameras[0])[::every]
    truth = np.stack([read_on_white(path, VIEW_SIZE) for path in image_paths(scene.test)[::every]])
    views = [psnr(views_of(mesh, grid, VIEW_SIZE), truth) for mesh in (textured, colored)]
    return [float(np.mean(ratios)), psnr(shown, photo_color), *views, seconds]


EVERY = "--every", {"type": int, "default": 1, "help": "of the test views one in so many"}
FIGURE = "--figure", {"type": Path, "help": "folder"}

if __name__ == "__main__":
    with one_line_errors():
        run_over_list(__doc__, COLUMNS, evaluate, EVERY, FIGURE)
