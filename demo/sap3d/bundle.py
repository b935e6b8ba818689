"""What the page shows and offers of a finished run, gathered in one folder.

mesh.glb, mesh.zip (OBJ, MTL, PNG), mesh.stl, splat.ply, points.ply, cameras.zip (nerfstudio, COLMAP), turntable.mp4,
novel_views.mp4 and report.html to download; besides, for the page, viewer.glb and cameras.glb (small, unlit),
novel_views.png (7 rows of elevations, 12 columns of azimuths, without background), results.json, poses.json, and
initial_poses.json of stage 1.
"""

import io
import json
import shutil
import zipfile
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import trimesh
from PIL import Image

from sap3d.cameras import maths as cam
from sap3d.cameras.poses import read_best_poses
from sap3d.files import atomic_folder
from sap3d.scene import Scene
from sap3d.scores.viewer import unlit

AZIMUTHS, ELEVATIONS, PAD = 12, 7, 2  # of the sheet of novel views; PAD as in sap3d.images.sheet
FRUSTUM, LINE = 0.22, 0.006  # a camera's length and the thickness of its lines, in world units
TEXTURE_QUALITY = 88  # of JPEG, for the page
BACKGROUND = 6  # of 255: what differs less from white, from the border on, is no object


def collect(scene: Scene, folder: Path) -> None:
    """Gather the results of a scene into `folder`, which is replaced as a whole."""
    field, cameras = scene.reconstruction, scene.reconstruction / "interchange"
    with atomic_folder(folder) as partial:
        names = "poses.json", "turntable.mp4", "mesh.glb", "mesh.stl", "splat.ply", "interchange/points.ply"
        for source in (
            *(field / name for name in names),
            scene.results / "results.json",
            scene.results / "report.html",
        ):
            shutil.copy(source, partial)
        shutil.copy(scene.diffusion / "video.mp4", partial / "novel_views.mp4")
        shutil.copy(scene.initial_poses, partial / "initial_poses.json")
        archive(partial / "mesh.zip", field, [field / name for name in ("mesh.obj", "mesh.mtl", "mesh.png")])
        archive(partial / "cameras.zip", cameras, sorted(path for path in cameras.rglob("*") if path.is_file()))
        with Image.open(scene.diffusion / "sheet.png") as sheet:
            Image.fromarray(without_background(np.asarray(sheet.convert("RGB")))).save(partial / "novel_views.png")
        shown = jpeg_textures(trimesh.load_scene(field / "mesh.glb"))
        (partial / "viewer.glb").write_bytes(unlit(shown.export(file_type="glb")))
        (partial / "cameras.glb").write_bytes(unlit(with_cameras(shown, partial).export(file_type="glb")))


def archive(path: Path, folder: Path, files: list[Path]) -> None:
    """A zip of files below a folder; those that are not there are left out."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for file in files:
            if file.exists():
                zipped.write(file, file.relative_to(folder))


def jpeg_textures(scene: trimesh.Scene) -> trimesh.Scene:
    """The scene with JPEG textures, which take a fifth of PNG's room."""
    for mesh in scene.geometry.values():
        material = getattr(mesh.visual, "material", None)
        if material is None or getattr(material, "baseColorTexture", None) is None:
            continue
        encoded = io.BytesIO()
        material.baseColorTexture.convert("RGB").save(encoded, "JPEG", quality=TEXTURE_QUALITY)
        material.baseColorTexture = Image.open(encoded)  # trimesh writes an image as what it was read
    return scene


def with_cameras(scene: trimesh.Scene, folder: Path) -> trimesh.Scene:
    """A scene amid the frusta of a bundle's cameras, each in a colour of its own; the first is red."""
    views = json.loads((folder / "results.json").read_text())["views"]
    cameras = read_best_poses(folder / "poses.json", views)
    shown = scene  # a copy would lose that its textures are JPEGs
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
        # glTF's vertex colours are linear, others are sRGB's.
        color[:3] = np.where(color[:3] <= 0.04045, color[:3] / 12.92, ((color[:3] + 0.055) / 1.055) ** 2.4)
        frustum.visual.vertex_colors = (color * 255).astype(np.uint8)
        shown.add_geometry(frustum)
    return shown


def without_background(sheet: np.ndarray) -> np.ndarray:
    """The sheet of novel views, uint8 [H, W, 3], with what is white from the tiles' borders on as transparent, uint8
    [H, W, 4]."""
    height, width = sheet.shape[:2]
    clear = np.ones((height, width), bool)  # between the tiles
    size = (width - PAD) // AZIMUTHS - PAD
    for row in range(ELEVATIONS):
        for column in range(AZIMUTHS):
            top, left = PAD + row * (size + PAD), PAD + column * (size + PAD)
            tile = sheet[top : top + size, left : left + size]
            white = np.pad((tile.min(-1) >= 255 - BACKGROUND).astype(np.uint8), 1, constant_values=1)
            cv2.floodFill(white, None, (0, 0), 2)
            clear[top : top + size, left : left + size] = white[1:-1, 1:-1] == 2
    # Edges stay soft: what is half white there is half clear.
    alpha = cv2.GaussianBlur((~clear).astype(np.float32), (0, 0), 0.6)
    alpha = np.where(clear, 0, alpha)
    return np.dstack([sheet, (alpha * 255).astype(np.uint8)])
