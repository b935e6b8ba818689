"""What the page shows and offers of a finished run, gathered in one folder.

    .venv/bin/python demo/sap3d/bundle.py --type toy_demo --object toy_013 --views 4 --output FOLDER [--small]

mesh.glb, poses.json, turntable.mp4, novel_views.png (7 rows of elevations, 12 columns of azimuths) and results.json; to
download also mesh.zip (OBJ, MTL, PNG), mesh.stl, splat.ply, points.ply, cameras.zip (nerfstudio, COLMAP),
novel_views.mp4 and report.html, which --small leaves out. It also writes the mesh's texture as a JPEG, and the novel
views with a palette.
"""

import argparse
import io
import json
import shutil
import zipfile
from pathlib import Path

import matplotlib
import numpy as np
import trimesh
from PIL import Image

from sap3d.cameras import maths as cam
from sap3d.cameras.poses import read_best_poses
from sap3d.errors import one_line_errors
from sap3d.files import atomic_folder
from sap3d.scene import Scene, check_views

AZIMUTHS, ELEVATIONS, PAD = 12, 7, 2  # of the sheet of novel views; PAD as in sap3d.images.sheet
VIEW_SIZE = 384  # of a novel view on the page
FRUSTUM, LINE = 0.22, 0.006  # a camera's length and the thickness of its lines, in world units
TEXTURE_QUALITY = 88  # of JPEG, where the bundle is to be small


def collect(scene: Scene, folder: Path, small: bool = False) -> None:
    """Gather the results of a scene into `folder`, which is replaced as a whole."""
    field = scene.reconstruction
    with atomic_folder(folder) as partial:
        for source in (field / "poses.json", field / "turntable.mp4", scene.results / "results.json"):
            shutil.copy(source, partial)
        if small:
            write_small_mesh(field / "mesh.glb", partial / "mesh.glb")
            with Image.open(scene.diffusion / "sheet.png") as sheet:
                sheet.convert("RGB").quantize(256).save(partial / "novel_views.png", optimize=True)
            return
        for name in ("mesh.glb", "mesh.stl", "splat.ply"):
            shutil.copy(field / name, partial)
        shutil.copy(scene.diffusion / "sheet.png", partial / "novel_views.png")
        shutil.copy(field / "interchange/points.ply", partial)
        shutil.copy(scene.results / "report.html", partial)
        shutil.copy(scene.diffusion / "video.mp4", partial / "novel_views.mp4")
        archive(partial / "mesh.zip", field, [field / name for name in ("mesh.obj", "mesh.mtl", "mesh.png")])
        cameras = field / "interchange"
        archive(partial / "cameras.zip", cameras, sorted(path for path in cameras.rglob("*") if path.is_file()))


def archive(path: Path, folder: Path, files: list[Path]) -> None:
    """A zip of files below a folder; those that are not there are left out."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for file in files:
            if file.exists():
                zipped.write(file, file.relative_to(folder))


def write_small_mesh(source: Path, target: Path) -> None:
    """A GLB's copy with JPEG textures, which take a fifth of PNG's room."""
    scene = trimesh.load_scene(source)
    for mesh in scene.geometry.values():
        encoded = io.BytesIO()
        mesh.visual.material.baseColorTexture.convert("RGB").save(encoded, "JPEG", quality=TEXTURE_QUALITY)
        mesh.visual.material.baseColorTexture = Image.open(encoded)  # trimesh writes an image as what it was read
    scene.export(target)


def camera_scene(folder: Path) -> trimesh.Scene:
    """A bundle's mesh amid its cameras' frusta, each in a colour of its own; the first is red."""
    views = json.loads((folder / "results.json").read_text())["views"]
    cameras = read_best_poses(folder / "poses.json", views)
    shown = trimesh.load_scene(folder / "mesh.glb")
    colors = matplotlib.colormaps["Set1"](np.arange(len(cameras)) % 9)
    positions, axes = cam.camera_positions(cameras).numpy(), cam.camera_axes(cameras).numpy()
    halves = FRUSTUM * cam.half_fov_tangents(cam.full_cameras(cameras)).numpy()[:, 0]
    corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    for position, axis, half, color in zip(positions, axes, halves, colors):
        # OpenGL: a camera looks along −z
        ends = np.hstack([half * corners, np.full((4, 1), -FRUSTUM)]) @ axis.T + position
        edges = [(position, end) for end in ends] + list(zip(ends, np.roll(ends, 1, 0)))
        frustum = trimesh.util.concatenate(
            [trimesh.creation.cylinder(LINE, segment=edge, sections=6) for edge in edges]
        )
        frustum.apply_transform(np.array(cam.Y_UP))
        frustum.visual.vertex_colors = (color * 255).astype(np.uint8)
        shown.add_geometry(frustum)
    return shown


def novel_view(sheet: Path, azimuth: float, elevation: float) -> Image.Image:
    """The view of the sheet that is nearest to offsets in degrees from the first photo's camera."""
    column = round(azimuth / (360 / AZIMUTHS)) % AZIMUTHS
    row = min(max(round(elevation / 15) + ELEVATIONS // 2, 0), ELEVATIONS - 1)
    with Image.open(sheet) as image:
        pitch = (image.width - PAD) // AZIMUTHS
        left, top = PAD + column * pitch, PAD + row * pitch
        tile = image.crop((left, top, left + pitch - PAD, top + pitch - PAD))
    return tile.resize((VIEW_SIZE, VIEW_SIZE), Image.Resampling.BICUBIC)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--type", required=True)
    parser.add_argument("--object", required=True)
    parser.add_argument("--views", required=True, help="number of input images")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="only what the page shows")
    arguments = parser.parse_args()
    collect(Scene(arguments.type, arguments.object, check_views(arguments.views)), arguments.output, arguments.small)


if __name__ == "__main__":
    with one_line_errors():
        main()
