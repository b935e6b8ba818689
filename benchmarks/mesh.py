"""What the mesh shows, beside the field: metrics of the 84 test views, drawn by Embree from mesh.obj.

    python benchmarks/mesh.py --list dataset/benchmarks/scans8.txt --views 5

Objects must have gone through stage 3. The rows of each are the field's own renders, the mesh with its baked texture,
and the same surface with the field's colours at its vertices; colours are shown as they are, without light.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import trimesh
from torch import Tensor

from dataset.render import Lighting, Renderer
from sap3d.cameras.maths import evaluation_grid
from sap3d.cameras.poses import read_best_poses
from sap3d.errors import one_line_errors
from sap3d.images import read_on_white
from sap3d.meshes import read_result
from sap3d.names import read_object_list
from sap3d.scene import Scene, check_views, image_paths
from sap3d.scores import metrics

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "3D_Recon/threestudio"))
import launch  # noqa: E402

from threestudio.config import build  # noqa: E402

SIZE = 256
UNLIT = Lighting(ambient=1.0, intensities=np.zeros(1))
COLUMNS = ("psnr", "ssim", "flip")


def views_of(mesh: trimesh.Trimesh, cameras: Tensor, size: int = SIZE) -> np.ndarray:
    """Views on white in [0, 1], [V, size, size, 3]."""
    views = Renderer(mesh).render(cameras, size, lighting=UNLIT) / np.float32(255)
    return views[..., :3] * views[..., 3:] + 1 - views[..., 3:]


def restored(scene: Scene, overrides: Sequence[str] = ()) -> tuple:
    """What stage 3 has made of a scene: its mesh exporter, system, data and placement (`launch.restore`)."""
    names = [f"data.type={scene.type}", f"data.object={scene.object}", f"data.views={scene.views}", "device=cpu"]
    config = launch.read_config(launch.DEFAULT, [*names, *overrides])
    system, data, placement = launch.restore(config)
    return build(config["mesh"], system.renderer), system, data, placement


def surface_and_photos(exporter, system, data) -> tuple[trimesh.Trimesh, Tensor]:
    """The surface in the field's world, in vertex colours, and the photos that texture it, [N, 4, S, S]."""
    photos = system.corrections.undo(data.images(max(data.resolution, launch.SAMPLED)))
    return exporter.refine(exporter.extract(), photos, system.poses.cameras()), photos


def run_over_list(
    document: str, columns: Sequence[str], evaluate: Callable[..., list[float]], *options: tuple[str, dict]
) -> None:
    """A benchmark's whole program: `evaluate` of every object of --list at --views, a row each, and their mean.

    Args:
        document: the module's; what --help prints.
        evaluate: from a scene, the overrides, and the values of `options`, to `columns`.
        options: of the command line, with `add_argument`'s keywords.
    """
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", type=Path, required=True, help="a file of lines TYPE OBJECT")
    parser.add_argument("--views", default="5")
    own = [parser.add_argument(name, **keywords).dest for name, keywords in options]
    parser.add_argument("overrides", nargs="*", metavar="mesh.key=value")
    arguments = parser.parse_intermixed_args()
    width, rows = max(9, *map(len, columns)) + 2, []
    print(f"{'':32s}" + "".join(f"{column:>{width}s}" for column in columns))
    for type_name, object_name in read_object_list(arguments.list):
        scene = Scene(type_name, object_name, check_views(arguments.views))
        rows.append(evaluate(scene, arguments.overrides, *(getattr(arguments, name) for name in own)))
        print(f"{object_name:32s}" + "".join(f"{value:{width}.4f}" for value in rows[-1]), flush=True)
    print(f"{'mean':32s}" + "".join(f"{value:{width}.4f}" for value in np.mean(rows, 0)))


def evaluate(scene: Scene, measures: Mapping[str, metrics.Measure]) -> dict[str, list[float]]:
    """What is shown → COLUMNS."""
    truth = [read_on_white(path, SIZE) for path in image_paths(scene.test)]
    cameras = evaluation_grid(read_best_poses(scene.reconstruction / "poses.json", scene.views)[0])
    textured, (*parts, placement) = read_result(scene.reconstruction), restored(scene)
    colored = placement.mesh(surface_and_photos(*parts)[0])
    pictures = {
        "field": [read_on_white(path, SIZE) for path in sorted((scene.reconstruction / "test").glob("*.png"))],
        "mesh, texture": [*views_of(textured, cameras)],
        "mesh, vertex colours": [*views_of(colored, cameras)],
    }
    measured = {name: metrics.picture_metrics(views, truth, measures) for name, views in pictures.items()}
    return {name: [values[column] for column in COLUMNS] for name, values in measured.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", type=Path, required=True, help="a file of lines TYPE OBJECT")
    parser.add_argument("--views", default="5")
    arguments = parser.parse_args()
    views, objects, measures = check_views(arguments.views), {}, metrics.picture_measures()
    for type_name, object_name in read_object_list(arguments.list):
        objects[f"{type_name}/{object_name}"] = evaluate(Scene(type_name, object_name, views), measures)
    rows = next(iter(objects.values()))
    objects["mean"] = {row: np.mean([each[row] for each in objects.values()], 0).tolist() for row in rows}
    print(f"{'84 test views':56s}" + "".join(f"{column:>8s}" for column in COLUMNS))
    for name, shown in objects.items():
        for row, values in shown.items():
            print(f"{name:32s}{row:24s}" + "".join(f"{value:8.3f}" for value in values))


if __name__ == "__main__":
    with one_line_errors():
        main()
