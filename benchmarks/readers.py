"""Whether other programs read what stage 3 writes: a table of files and programs.

    .venv/bin/python benchmarks/readers.py RESULTS_OF_STAGE_3 [--blender PYTHON] [--node-modules FOLDER]

Each program reads a file as it does by itself, and must find the object upright and in its size, which points.ply and
size.json tell, textured where the file has a texture, and closed. A program that is not installed (benchmarks/
readers.txt) is said to be so; the exit status is 1 if any other cell is not "ok".

Blender as a module needs an older numpy than the pipeline, so it has an environment of its own: --blender names its
Python.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import manifold3d
import numpy as np
import pycolmap
import trimesh
from scipy.spatial import cKDTree

from sap3d.cameras.maths import Y_UP
from sap3d.meshes import Size

CLOSE = 0.02  # of the longest side: how far vertices may be from points.ply in the mean, and sides from theirs
VALIDATE = """
const validator = require("gltf-validator"), data = new Uint8Array(require("fs").readFileSync(process.argv[1]));
validator.validateBytes(data).then(report => console.log(JSON.stringify(report.issues)));
"""
BLENDER = """
import json, sys
import bpy
path, found = sys.argv[1:]
bpy.ops.wm.read_factory_settings(use_empty=True)
load = {".glb": bpy.ops.import_scene.gltf, ".obj": bpy.ops.wm.obj_import, ".stl": bpy.ops.wm.stl_import}
load[path[-4:]](filepath=path)
(thing,) = (each for each in bpy.context.scene.objects if each.type == "MESH")
bpy.context.view_layer.update()
thing.data.calc_loop_triangles()
content = {
    "vertices": [list(thing.matrix_world @ vertex.co) for vertex in thing.data.vertices],
    "faces": [list(each.vertices) for each in thing.data.loop_triangles],
    "images": [image.size[0] for image in bpy.data.images if image.source == "FILE"],
}
json.dump(content, open(found, "w"))
"""


class Wrong(Exception):
    """What a program finds otherwise than it is."""


@dataclass(frozen=True)
class Places:
    """Where programs are that this environment does not hold."""

    blender: Path = Path(sys.executable)  # a Python that has bpy
    modules: Path = Path()  # a folder with npm's node_modules


@dataclass
class Shape:
    """A mesh as a program has it."""

    vertices: np.ndarray  # z up, one a position, [V, 3]
    faces: np.ndarray  # triangles, [F, 3]
    texture: int | None = None  # pixels of its side; None: the file has none


class Results:
    """A folder of stage 3's results."""

    def __init__(self, folder: Path):
        self.folder, self.size = folder, Size.read(folder)
        self.points = np.asarray(trimesh.load(folder / "interchange/points.ply").vertices)

    def check(self, shape: Shape, textured: bool, print_: bool = False) -> None:
        """
        Args:
            print_: the shape is the STL's: in other units, its base cut flat and laid at z = 0.

        Raises:
            Wrong: it lies, has another size, is open, or has no texture where it should.
        """
        vertices = shape.vertices / (self.size.stl_unit if print_ else 1.0)
        if print_:
            base = vertices[:, 2] < 1e-6 * max(self.size.sides)
            require(base.sum() > 3 and abs(vertices[:, 2].min()) < 1e-6, "its base is not flat at z = 0")
            vertices = vertices + [0, 0, self.points[:, 2].max() - vertices[:, 2].max()]
        longest = max(self.size.sides)
        distance, _ = cKDTree(self.points).query(vertices)
        require(distance.mean() < CLOSE * longest, "it is not where the object is")
        sides = np.array(Size.of(vertices, None).sides)
        require(abs(sides - self.size.sides).max() < CLOSE * longest, f"its sides are {sides.round(3)}")
        mesh = trimesh.Trimesh(shape.vertices, shape.faces, process=False)
        require(mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0, "it is not closed")
        require(not textured or (shape.texture or 0) > 0, "it has no texture")


def require(fact: bool, otherwise: str) -> None:
    """
    Raises:
        Wrong: not a fact.
    """
    if not fact:
        raise Wrong(otherwise)


def by_trimesh(path: Path) -> Shape:
    mesh = trimesh.load(path, force="mesh")
    texture = None
    if path.suffix != ".stl":
        mesh.apply_transform(np.array(Y_UP).T)
        material = mesh.visual.material
        texture = (material.image if hasattr(material, "image") else material.baseColorTexture).width
    mesh.merge_vertices(merge_tex=True, merge_norm=True)  # GLB has no other way to say it, and trimesh splits OBJ's
    return Shape(mesh.vertices, mesh.faces, texture)


def by_blender(path: Path, python: Path) -> Shape:
    """By Blender as a module of another Python."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        done = subprocess.run([python, "-c", BLENDER, path, found], capture_output=True, text=True)
        require(found.exists(), done.stderr.strip().splitlines()[-1] if done.stderr else "no answer")
        content = json.loads(found.read_text())
    mesh = trimesh.Trimesh(content["vertices"], content["faces"], process=False)
    if path.suffix == ".glb":
        mesh.merge_vertices()  # its importer has an option for that
    return Shape(mesh.vertices, mesh.faces, max(content["images"], default=None))


def by_manifold(path: Path) -> Shape:
    mesh = trimesh.load(path)
    solid = manifold3d.Manifold(
        manifold3d.Mesh(np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.uint32))
    )
    require(solid.status() == manifold3d.Error.NoError, f"Manifold says {solid.status()}")
    return Shape(mesh.vertices, mesh.faces)


def gltf_fields(path: Path) -> None:
    from pygltflib import GLTF2

    content = GLTF2().load(path)
    material = content.materials[0].pbrMetallicRoughness
    require(len(content.meshes) == len(content.images) == 1, "more than a mesh and an image")
    require(material.metallicFactor == 0 and material.baseColorTexture is not None, "not matt and textured")


def validated(path: Path, modules: Path) -> None:
    done = subprocess.run(["node", "-e", VALIDATE, path.resolve()], cwd=modules, capture_output=True, text=True)
    require(done.returncode == 0, done.stderr.strip().splitlines()[-1] if done.stderr else "no answer")
    issues = json.loads(done.stdout)
    require(not issues["numErrors"] + issues["numWarnings"], json.dumps(issues["messages"][:3]))


def splats(path: Path, results: Results) -> None:
    from plyfile import PlyData

    vertex = PlyData.read(path)["vertex"]
    points = np.column_stack([vertex["x"], vertex["z"], -vertex["y"]])  # y is down
    require(cKDTree(results.points).query(points)[0].mean() < CLOSE * max(results.size.sides), "elsewhere")
    turns = np.column_stack([vertex[f"rot_{index}"] for index in range(4)])
    require(np.allclose(np.linalg.norm(turns, axis=1), 1, atol=1e-5), "rotations are not unit quaternions")


def colmap_model(folder: Path, results: Results) -> None:
    """Binary where there is such, else text; the same cameras as nerfstudio's, and points where they are seen."""
    model = pycolmap.Reconstruction()
    read = model.read_text if folder.name == "text" else model.read_binary
    read(folder.parent / "sparse/0")
    frames = json.loads((folder.parent / "transforms.json").read_text())["frames"]
    require(len(model.images) == len(frames) and len(model.points3D) == len(results.points), "not all is there")
    for index, frame in enumerate(frames):
        theirs = np.linalg.inv(np.array(frame["transform_matrix"]) @ np.diag([1, -1, -1, 1]))[:3]
        ours = model.images[index + 1].cam_from_world().matrix()
        require(np.allclose(ours, theirs, atol=1e-6), "cameras are not nerfstudio's")
    model.update_point_3d_errors()
    require(model.compute_mean_reprojection_error() < 0.01, "tracks are not where points are seen")


def gsplat_text(path: Path) -> None:
    """The rule of its reader: an empty line is the end."""
    lines = (path / "images.txt").read_text().rstrip("\n").split("\n")
    require(all(line.strip() for line in lines), "an empty line")


def cells(folder: Path, places: Places) -> dict[str, dict[str, tuple[str | None, Callable]]]:
    """File → program → what must be installed for it, and what raises if anything is wrong."""
    results = Results(folder)

    def shape(read: Callable[[Path], Shape], name: str) -> Callable[[], None]:
        return lambda: results.check(read(folder / name), name != "mesh.stl", name == "mesh.stl")

    meshes = {
        name: {
            "Blender": ("bpy", shape(partial(by_blender, python=places.blender), name)),
            "trimesh": (None, shape(by_trimesh, name)),
        }
        for name in ("mesh.glb", "mesh.obj", "mesh.stl")
    }
    meshes["mesh.glb"] |= {
        "pygltflib": ("pygltflib", lambda: gltf_fields(folder / "mesh.glb")),
        "Khronos": ("gltf-validator", lambda: validated(folder / "mesh.glb", places.modules)),
    }
    meshes["mesh.stl"] |= {"Manifold": (None, shape(by_manifold, "mesh.stl"))}
    inside = folder / "interchange"
    return meshes | {
        "splat.ply": {"plyfile": ("plyfile", lambda: splats(folder / "splat.ply", results))},
        "sparse/0, binary": {"pycolmap": (None, lambda: colmap_model(inside / "binary", results))},
        "sparse/0, text": {
            "pycolmap": (None, lambda: colmap_model(inside / "text", results)),
            "gsplat": (None, lambda: gsplat_text(inside / "sparse/0")),
        },
    }


def there(package: str | None, places: Places) -> bool:
    """Whether what a program needs is installed."""
    if package == "gltf-validator":
        return (places.modules / "node_modules" / package).exists()
    if package == "bpy":
        asked = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
        return subprocess.run([places.blender, "-c", asked]).returncode == 0
    return package is None or importlib.util.find_spec(package) is not None


def answer(package: str | None, check: Callable[[], None], places: Places) -> str:
    """The table's cell."""
    if not there(package, places):
        return "not installed"
    try:
        check()
    except Wrong as wrong:
        return f"WRONG: {wrong}"
    return "ok"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="3D_Recon/threestudio/experiments_TYPE_view_N_nerf/OBJECT")
    parser.add_argument("--blender", type=Path, default=Places.blender, help="a Python with bpy (default: this one)")
    parser.add_argument("--node-modules", type=Path, default=Path(), help="where npm has installed gltf-validator")
    arguments = parser.parse_args()
    places = Places(arguments.blender, arguments.node_modules)
    table = {
        file: {program: answer(*cell, places) for program, cell in row.items()}
        for file, row in cells(arguments.folder, places).items()
    }
    for file, row in table.items():
        print(f"{file:20s}" + "   ".join(f"{program}: {said}" for program, said in row.items()))
    return int(any("WRONG" in said for row in table.values() for said in row.values()))


if __name__ == "__main__":
    sys.exit(main())
