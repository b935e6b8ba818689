"""Make the demo's examples: photos of modelled objects on coloured paper, renders of a scan, and their runs.

    .venv/bin/python demo/sap3d/make_examples.py bear             # or several; all without a name

Replaces what examples.py describes, with the author and the licence of each object. The runs themselves are in
ROOT_DIR, as type EXAMPLE; a run that is up to date is only copied. Prints how far the poses are from those that the
photos were taken with.
"""

import argparse
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import bundle
import imageio.v3 as imageio
import numpy as np
import torch
import trimesh
from examples import FOLDER
from jobs import OBJECT, TYPE
from PIL import Image
from torch import Tensor

from dataset.prepare import load_object
from dataset.render import Renderer
from sap3d.cameras.poses import read_best_poses
from sap3d.errors import one_line_errors
from sap3d.files import atomic_folder, root_dir, write_json
from sap3d.photos.reading import read_photo
from sap3d.runs.jobs import REPOSITORY
from sap3d.scene import Scene, image_paths
from sap3d.scores import metrics

SIZE = 640  # of a photo, in pixels
NOISE = 1.5  # of the sensor, in grey levels
QUALITY, POINTS, TEXTURE = 80, 1000, 1024  # of pictures that are kept, of clouds, of a texture's side


@dataclass(frozen=True)
class Example:
    """An object, the paper behind it, and where the first photo is taken from, in degrees.

    Without paper the pictures are those of the object's scene folder, which are cut out.
    """

    title: str
    type: str
    object: str
    author: str
    licence: str
    paper: tuple[int, int, int] | None = None
    azimuth: float = 0.0
    views: int = 4
    preset: str = "fast"
    options: tuple[str, ...] = ()  # of its pipeline besides

    def scene(self, name: str) -> Scene:
        """Where its run is."""
        return Scene("EXAMPLE", name, self.views) if self.paper else Scene(self.type, self.object, self.views)

    @property
    def words(self) -> list[str]:
        """What its pipeline is told."""
        small = f"reconstruction.interchange.points={POINTS}", f"reconstruction.mesh.texture_size={TEXTURE}"
        return ["--preset", self.preset, *small, *self.options]


MODELS, SCANS = "MODELS_demo", "GSO_demo"
# What the search for poses of the preset standard has and that of fast has not: fast takes two of the sneakers' photos
# for each other.
STANDARD_POSES = ("poses.candidates=96", "poses.effort.rounds=2", "poses.descent=true")
# Authors and licences are those of docs/DATASET.md.
EXAMPLES = {
    "bear": Example("Teddy bear", MODELS, "teddy_bear", "Manitislate", "CC0 1.0", (170, 196, 214), 290),
    "sneakers": Example("Sneakers", MODELS, "sneakers", "Scopia and eTeks", "CC BY 3.0", (214, 205, 170), 30,
                        views=5, options=STANDARD_POSES),
    "biplane": Example("Biplane", MODELS, "biplane", "Robo3dguy", "CC0 1.0", (190, 205, 190), 215, views=5),
    "pan": Example("Frying pan", SCANS, "chefmate_8_frypan", "Google Research, Scanned Objects", "CC BY 4.0",
                   views=5, preset="standard"),
}  # fmt: skip


def cameras(example: Example) -> Tensor:
    """About a quarter turn apart and from slightly above, as docs/CAPTURE.md asks for, [views, 3]."""
    rng, views = np.random.default_rng(0), example.views
    elevations = rng.uniform(17, 32, views)
    azimuths = example.azimuth + 360 / views * np.arange(views) + rng.uniform(-12, 12, views)
    radii = rng.uniform(1.75, 1.95, views)
    return torch.from_numpy(np.stack([np.radians(elevations), np.radians(azimuths), radii], -1)).float()


def write_photos(example: Example, folder: Path) -> None:
    """0.jpg, 1.jpg, …: the object before paper that is brighter on the window's side."""
    rng = np.random.default_rng(1)
    light = 1.03 - 0.1 * np.linspace(0, 1, SIZE)[None, :, None] * np.ones((SIZE, 1, 1))
    with atomic_folder(folder) as partial:
        renders = Renderer(load_object(example.type, example.object)).render(cameras(example), SIZE)
        for index, rgba in enumerate(renders):
            alpha = rgba[..., 3:] / 255
            picture = rgba[..., :3] * alpha + np.array(example.paper) * light * (1 - alpha)
            picture = (picture + rng.normal(0, NOISE, picture.shape)).clip(0, 255).astype(np.uint8)
            imageio.imwrite(partial / f"{index}.jpg", picture, quality=88)


def keep_job(name: str, example: Example, scene: Scene, folder: Path) -> None:
    """Write what the page is to know of the example, as of a job that is done."""
    entries = []
    shutil.rmtree(folder / "masks", ignore_errors=True)
    (folder / "masks").mkdir()
    for index, path in enumerate(sorted((folder / "photos").iterdir())):
        photo = read_photo(path, path.name)
        imageio.imwrite(folder / "masks" / f"{index:03d}.png", photo.rgba[..., 3])
        kept = {key: getattr(photo, key) for key in ("name", "kind", "method", "fov", "taken", "problem", "notices")}
        first = {key: kept[key] for key in ("method", "problem", "notices")}
        entries.append(kept | {"key": f"{index:03d}", "edits": [], "left_out": False, "first": first})
    about = {"title": example.title, "author": example.author, "licence": example.licence}
    seconds = sum(json.loads((scene.results / "results.json").read_text())["seconds"].values())
    known = {"state": "done", "created": 0.0, "started": 0.0, "ended": seconds, "family": name, "example": about}
    known |= {"preset": example.preset, "choices": {}, "error": "", "expected": [], "photos": entries}
    write_json(folder / "about.json", about)
    write_json(folder / "job.json", known)


def keep_run(scene: Scene, kept: Scene) -> None:
    """Copy of a run what its bundle and report are made of, in formats that take little room."""
    field, target = scene.reconstruction, kept.reconstruction
    shutil.rmtree(kept.root, ignore_errors=True)
    for folder in (target, kept.diffusion, kept.results, kept.initial_poses.parent):
        folder.mkdir(parents=True)
    for name in ("poses.json", "turntable.mp4", "config.yaml"):
        shutil.copy(field / name, target)
    glb = bundle.jpeg_textures(trimesh.load_scene(field / "mesh.glb")).export(file_type="glb")
    (target / "mesh.glb").write_bytes(glb)
    shutil.copytree(field / "interchange", target / "interchange")
    shutil.copy(scene.diffusion / "video.mp4", kept.diffusion)
    shutil.copy(scene.initial_poses, kept.initial_poses)
    shutil.copy(scene.results / "results.json", kept.results)
    pictures = {field / "inputs.png": target / "inputs.png", scene.diffusion / "page.png": kept.diffusion / "page.png",
                scene.diffusion / "sheet.png": kept.diffusion / "sheet.png",
                scene.initial_poses.with_suffix(".png"): kept.initial_poses.with_suffix(".png")}  # fmt: skip
    for source, path in pictures.items():
        shutil.copy(source, path)
    for path in kept.root.rglob("*.png"):  # examples.py makes them PNGs again
        with Image.open(path) as picture:
            picture.save(path.with_suffix(".webp"), quality=QUALITY, lossless=path.parent.name == "masks")
        path.unlink()


def keep(name: str, example: Example, scene: Scene, photos: list[Path]) -> None:
    """Write an example's folder from its run and its photos."""
    folder = FOLDER / name
    with atomic_folder(folder / "photos") as partial:
        for index, path in enumerate(photos):
            shutil.copy(path, partial / f"{index:03d}{path.suffix}")
    keep_run(scene, Scene(TYPE, OBJECT, scene.views, folder / "root"))
    keep_job(name, example, scene, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*EXAMPLES, []], metavar="NAME", help=", ".join(EXAMPLES))
    parser.add_argument("--device", default="cpu", help="CUDA index, or cpu")
    arguments = parser.parse_args()
    for name in arguments.names or EXAMPLES:
        example, folder = EXAMPLES[name], FOLDER / name
        scene, photos = example.scene(name), root_dir() / "runs/examples" / name
        command = ["sh", "run_pipeline.sh", scene.type, scene.object, str(scene.views), arguments.device]
        command += example.words
        if example.paper:
            write_photos(example, photos)
            command += ["--input", str(photos)]
        subprocess.run(command, cwd=REPOSITORY, check=True)
        keep(
            name, example, scene, sorted(photos.iterdir()) if example.paper else image_paths(scene.train)[: scene.views]
        )
        if example.paper:
            estimate = read_best_poses(scene.reconstruction / "poses.json", scene.views)
            print(f"{name}: rotation error {metrics.rotation_error(estimate, cameras(example)):.1f}°")
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{name}: {size / 1e6:.2f} MB", flush=True)


if __name__ == "__main__":
    with one_line_errors():
        main()
