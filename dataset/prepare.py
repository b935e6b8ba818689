"""Render an object into a scene folder: train views, 84 test views, ground-truth poses and mesh (docs/DATASET.md).

    python dataset/prepare.py --type GSO_demo --object chefmate_8_frypan
    python dataset/prepare.py --type GSO_demo --object MINI_FIRE_ENGINE --gso MINI_FIRE_ENGINE.zip
    python dataset/prepare.py --list

A folder is made once: an object that has train images already (also your own photos) is left alone.
"""

import argparse
import hashlib
import math
from pathlib import Path

import numpy as np
import torch
import trimesh
from torch import Tensor
from tqdm import tqdm

from dataset.hard_toys import demo_toy
from dataset.modelled import benchmark_models, load_benchmark
from dataset.render import Renderer
from dataset.scans import ASSETS, load_asset, load_gso
from dataset.toys import make_toy, toy_seed
from sap3d.cameras import maths as cam
from sap3d.errors import UserError, one_line_errors
from sap3d.files import atomic_folder
from sap3d.scene import Scene, check_views, image_paths
from sap3d.views import write_view

IMAGE_SIZE = 256
SUPERSAMPLE = 3
TRAIN_VIEWS = 10
MAX_TRAIN_VIEWS = 12  # 30° apart
SEPARATION = math.radians(30)
ELEVATIONS = (0.0, math.radians(45))
RADII = (1.5, 2.2)
OBJECTS = {type_name: list(objects) for type_name, objects in ASSETS["objects"].items()}
OBJECTS["MODELS_demo"] = list(benchmark_models())
TYPES = (*OBJECTS, "toy_demo")


def train_cameras(type_name: str, object_name: str, count: int = TRAIN_VIEWS) -> Tensor:
    """The random train cameras of an object, the same on every machine, [count, 3].

    Azimuths are at least 30° apart: the circle's remainder is shared out at random between the gaps, and the views are
    shuffled, so that this also holds for the first N of them.
    """
    digest = hashlib.sha256(f"{type_name}/{object_name}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    gaps = SEPARATION + (2 * math.pi - count * SEPARATION) * rng.dirichlet(np.ones(count))
    azimuths = rng.permutation(rng.uniform(-math.pi, math.pi) + np.cumsum(gaps))
    cameras = np.stack([rng.uniform(*ELEVATIONS, count), azimuths, rng.uniform(*RADII, count)], -1)
    cameras = torch.from_numpy(cameras).float()
    cameras[:, 1] = cam.wrap_angle(cameras[:, 1])
    return cameras


def prepare(type_name: str, object_name: str, views: int = 1, gso: Path | None = None, force: bool = False) -> bool:
    """Make an object's scene folder unless it has train images.

    Args:
        views: how many train views will be used, at most 12; at least 10 are rendered.
        gso: where an official GSO scan lies (`scans.load_gso`).
        force: render again.

    Returns:
        Whether anything was rendered.

    Raises:
        UserError: unknown type or object, an unreadable scan, or fewer train images than views.
    """
    scene = Scene(type_name, object_name, views)
    there = len(image_paths(scene.train))
    if there and not force:
        if there < views:
            raise UserError(f"{scene.train / 'images'}: {there} images, but VIEWS is {views}")
        return False
    if views > MAX_TRAIN_VIEWS:
        raise UserError(f"VIEWS is {views}, but at most {MAX_TRAIN_VIEWS} views 30° apart can be rendered")
    render_scene(load_object(type_name, object_name, gso), scene, max(views, TRAIN_VIEWS))
    return True


def load_object(type_name: str, object_name: str, gso: Path | None = None) -> trimesh.Trimesh:
    """The normalised mesh of an object, z up.

    Raises:
        UserError: no such type or object; the line lists what there is and says where to find official GSO scans.
    """
    if type_name not in TYPES:
        folder = Scene(type_name, object_name, 1).train / "images"
        raise UserError(f"unknown type '{type_name}' (there are {', '.join(TYPES)}), and no photos in {folder}")
    if gso is not None and type_name != "GSO_demo":
        raise UserError(f"--gso reads objects of type GSO_demo, not {type_name}")
    if gso is not None:
        return load_gso(gso, object_name)
    if type_name == "toy_demo":
        return demo_toy(object_name) or make_toy(toy_seed(object_name))
    if object_name in OBJECTS[type_name]:
        return load_benchmark(object_name) if type_name == "MODELS_demo" else load_asset(type_name, object_name)
    line = f"unknown object '{object_name}' of type {type_name}; there are: {', '.join(OBJECTS[type_name])}"
    if type_name == "GSO_demo":
        official = object_name if object_name != object_name.lower() else "MINI_FIRE_ENGINE"
        line += (
            f". Official scans: download {official}.zip from "
            f"https://app.gazebosim.org/GoogleResearch/fuel/models/{official} (Google Scanned Objects) and run "
            f"python dataset/prepare.py --type GSO_demo --object {official} --gso {official}.zip"
        )
    raise UserError(line)


def render_scene(mesh: trimesh.Trimesh, scene: Scene, count: int) -> None:
    """Write the ground-truth mesh, the test views and the train views.

    The train folder comes last: once it is there, the scene is whole.
    """
    renderer = Renderer(mesh)
    train = train_cameras(scene.type, scene.object, count)
    test = cam.evaluation_grid(train[0])
    with atomic_folder(scene.mesh_folder) as folder:
        # Merging the vertices that texture seams split keeps closed surfaces closed.
        trimesh.Trimesh(mesh.vertices, mesh.faces, process=True).export(folder / "mesh.ply")
    with tqdm(total=len(train) + len(test), desc=f"rendering {scene.type}/{scene.object}", unit="view") as bar:
        for target, cameras in ((scene.test, test), (scene.train, train)):
            with atomic_folder(target) as folder:
                for index, camera in enumerate(cameras):
                    write_view(folder, index, renderer.render(camera[None], IMAGE_SIZE, SUPERSAMPLE)[0], camera)
                    bar.update()


def list_objects() -> str:
    """Types and their objects, a line each."""
    lines = [f"{type_name}: {', '.join(objects)}" for type_name, objects in OBJECTS.items()]
    lines += [
        "GSO_demo with --gso PATH: any official Google Scanned Objects zip",
        "toy_demo: toy_000, toy_001, ..., round_000, flat_000, legs_000, shell_000, ...",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--type", help="GSO_demo, HOPE_demo, MUG_demo, MODELS_demo, toy_demo, or a folder of your own")
    parser.add_argument("--object")
    parser.add_argument("--views", default="1", help="how many train views the pipeline will use (default: 1)")
    parser.add_argument("--gso", type=Path, metavar="PATH", help="zip or folder of an official GSO scan")
    parser.add_argument("--force", action="store_true", help="render again")
    parser.add_argument("--list", action="store_true", help="list types and objects")
    arguments = parser.parse_args()
    if arguments.list:
        print(list_objects())
        return
    if not arguments.type or not arguments.object:
        parser.error("--type and --object are needed (or --list)")
    views = check_views(arguments.views)
    scene = Scene(arguments.type, arguments.object, views)
    made = prepare(arguments.type, arguments.object, views, arguments.gso, arguments.force)
    print(f"{'prepared' if made else 'already there'}: {scene.train}", flush=True)


if __name__ == "__main__":
    with one_line_errors():
        main()
