"""The demo's examples: jobs that are done and belong to nobody, made ready when the server starts.

examples/NAME/about.json    title, author and licence of the object
             /photos/       000.jpg … or .png
             /masks/        000.png …
             /job.json      what a job knows of them and of its run
             /root/         of the run what the page's files are made of (make_examples.py); pictures are PNG, or WebP
"""

import json
import shutil
import sys
from pathlib import Path

import bundle
import imageio.v3 as imageio
import numpy as np
import trimesh
from jobs import Job
from PIL import Image
from settings import Settings

from sap3d.cameras.maths import Y_UP
from sap3d.files import atomic_folder
from sap3d.runs.jobs import REPOSITORY
from sap3d.scene import Scene
from sap3d.scores.report import write_report

sys.path.insert(0, str(REPOSITORY / "3D_Recon/threestudio"))  # whose writers make an example's files

FOLDER = Path(__file__).resolve().parent / "examples"


def prepare(settings: Settings, source: Path = FOLDER) -> None:
    """Make the examples of a folder ready to be shown, where they are not yet or are others now."""
    for folder in sorted(path.parent for path in source.glob("*/job.json")):
        ready = Job(settings.examples / folder.name)
        made_of, stamp = (folder / "job.json").read_text(), ready.folder / "made_of"
        if stamp.exists() and stamp.read_text() == made_of:
            continue
        with atomic_folder(ready.folder) as partial:
            shutil.copytree(folder, partial, dirs_exist_ok=True)
            cut_out(partial)
            write_pngs(partial / "root")
        write_meshes(ready.scene)
        write_report(ready.scene)
        bundle.collect(ready.scene, ready.results)
        stamp.write_text(made_of)


def cut_out(folder: Path) -> None:
    """Write what jobs have of their photos: cut/ and masks/KEY/00.png."""
    (folder / "cut").mkdir()
    for path in sorted((folder / "photos").iterdir()):
        mask = imageio.imread(folder / "masks" / f"{path.stem}.png")
        imageio.imwrite(folder / "cut" / f"{path.stem}.png", np.dstack([imageio.imread(path)[..., :3], mask]))
        (folder / "masks" / path.stem).mkdir()
        (folder / "masks" / f"{path.stem}.png").rename(folder / "masks" / path.stem / "00.png")


def write_pngs(folder: Path) -> None:
    """Turn the WebP pictures below a folder into the PNGs that a run writes."""
    for path in folder.rglob("*.webp"):
        with Image.open(path) as picture:
            picture.save(path.with_suffix(".png"))
        path.unlink()


def write_meshes(scene: Scene) -> None:
    """Write what stage 3 writes beside its GLB: OBJ, STL and splats."""
    from threestudio.models.exporters.formats import write_obj, write_splats, write_stl
    from threestudio.models.exporters.texture import Atlas

    folder = scene.reconstruction
    mesh = trimesh.load_mesh(folder / "mesh.glb").apply_transform(np.array(Y_UP).T)
    # Vertices are split along the seams of the texture; the surface is closed without them.
    vertices, source = np.unique(mesh.vertices, axis=0, return_inverse=True)
    write_obj(folder, Atlas(mesh, mesh.visual.uv, source))
    write_stl(folder / "mesh.stl", trimesh.Trimesh(vertices, source[mesh.faces], process=False))
    write_splats(folder / "splat.ply", mesh)


def all_examples(settings: Settings) -> list[Job]:
    return [Job(path.parent) for path in sorted(settings.examples.glob("*/job.json"))]


def find_example(settings: Settings, name: str | None) -> Job | None:
    """The example of a name that came from a browser, if there is one."""
    return next((job for job in all_examples(settings) if job.id == name), None)


def thumbnail(job: Job) -> Image.Image:
    """An example's first photo, small."""
    with Image.open(min((job.folder / "photos").iterdir())) as photo:
        photo.thumbnail((320, 320))
        return photo.copy()


def title(job: Job) -> str:
    return json.loads((job.folder / "about.json").read_text())["title"]
