"""Draw what becomes of surfaces: docs/figures/surfaces.png, a row an object.

    .venv/bin/python docs/figures/surfaces.py --list dataset/benchmarks/surfaces8.txt --views 5

Objects must have gone through stage 3. From left to right: a photo; the textured mesh at its camera; normals of the
field's level set as marching cubes gives it, of the mesh as it is written, and of the true mesh. The picture is cut to
the object. Pictures of HOPE's objects are not to be committed (docs/DATASET.md).
"""

import argparse
import math
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.mesh import restored, views_of
from benchmarks.surfaces import in_normals, true_surface
from sap3d.cameras.poses import read_best_poses
from sap3d.errors import one_line_errors
from sap3d.files import atomic_file
from sap3d.images import bounding_box, resize, sheet, to_uint8
from sap3d.meshes import read_result
from sap3d.names import read_object_list
from sap3d.scene import Scene, check_views
from sap3d.views import read_images

SIZE, DRAWN = 160, 512  # of a picture, and of what it is cut out of
MARGIN = 0.06  # about the object, as a share of its longer side


def row(scene: Scene) -> list[np.ndarray]:
    """Five pictures, uint8 [SIZE, SIZE, 3]."""
    camera = read_best_poses(scene.reconstruction / "poses.json", scene.views)[:1]
    exporter, _, _, placement = restored(scene)
    level_set = placement.mesh(exporter.level_set(exporter.config.density))
    textured, truth = read_result(scene.reconstruction), true_surface(scene)
    photo = resize(read_images(scene)[0], DRAWN)
    shown = textured, *(in_normals(mesh) for mesh in (level_set, textured, truth))
    return [cut(each, photo[..., 3]) for each in (photo, *(views_of(mesh, camera, DRAWN)[0] for mesh in shown))]


def cut(picture: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The square of a picture [DRAWN, DRAWN, ≥ 3] on white that is about the object, uint8 [SIZE, SIZE, 3]."""
    top, bottom, left, right = bounding_box(alpha > 0.5)
    half = math.ceil((0.5 + MARGIN) * max(bottom - top, right - left))
    padded = np.pad(picture[..., :3], ((half, half), (half, half), (0, 0)), constant_values=1)
    row, column = (top + bottom) // 2, (left + right) // 2  # of the square's corner, as the padding moves the middle
    square = to_uint8(padded[row:, column:][: 2 * half, : 2 * half])
    return np.asarray(Image.fromarray(square).resize((SIZE, SIZE), Image.Resampling.LANCZOS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", type=Path, required=True, help="a file of lines TYPE OBJECT")
    parser.add_argument("--views", default="5")
    arguments = parser.parse_args()
    objects = [Scene(*names, check_views(arguments.views)) for names in read_object_list(arguments.list)]
    pictures = [picture for scene in objects for picture in row(scene)]
    with atomic_file(Path(__file__).with_suffix(".png")) as partial:
        Image.fromarray(sheet(np.stack(pictures), 5)).quantize(256, dither=Image.Dither.NONE).save(partial)


if __name__ == "__main__":
    with one_line_errors():
        main()
