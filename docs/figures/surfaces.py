"""Draw what becomes of surfaces: docs/figures/surfaces.png, a row an object.

    .venv/bin/python docs/figures/surfaces.py --list dataset/benchmarks/models12.txt --views 5

Objects must have gone through stage 3. From left to right: a photo; the textured mesh at its camera; normals of the
field's level set as marching cubes gives it, of the mesh as it is written, and of the true mesh. Pictures of HOPE's
objects are not to be committed (docs/DATASET.md).
"""

import argparse
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

from benchmarks.mesh import restored, views_of
from benchmarks.surfaces import in_normals, true_surface
from sap3d.cameras.poses import read_best_poses
from sap3d.errors import one_line_errors
from sap3d.files import atomic_file
from sap3d.images import resize, sheet, to_uint8
from sap3d.meshes import read_result
from sap3d.names import read_object_list
from sap3d.scene import Scene, check_views
from sap3d.views import read_images

SIZE = 192


def row(scene: Scene) -> list[np.ndarray]:
    """Five pictures [SIZE, SIZE, 3] in [0, 1]."""
    camera = read_best_poses(scene.reconstruction / "poses.json", scene.views)[:1]
    exporter, _, _, placement = restored(scene)
    level_set = placement.mesh(exporter.level_set(exporter.config.density))
    textured, truth = read_result(scene.reconstruction), true_surface(scene)
    shown = textured, *(in_normals(mesh) for mesh in (level_set, textured, truth))
    return [resize(read_images(scene)[0], SIZE)[..., :3], *(views_of(mesh, camera, SIZE)[0] for mesh in shown)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", type=Path, required=True, help="a file of lines TYPE OBJECT")
    parser.add_argument("--views", default="5")
    arguments = parser.parse_args()
    objects = [Scene(*names, check_views(arguments.views)) for names in read_object_list(arguments.list)]
    pictures = [to_uint8(picture) for scene in objects for picture in row(scene)]
    with atomic_file(Path(__file__).with_suffix(".png")) as partial:
        imageio.imwrite(partial, sheet(np.stack(pictures), 5))


if __name__ == "__main__":
    with one_line_errors():
        main()
