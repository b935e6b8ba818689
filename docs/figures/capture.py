"""Draw docs/CAPTURE.md's sets of photos: a toy carton on a table as a phone would take it, four photos a set.

python docs/figures/capture.py                         # docs/figures/capture_SET.png
python docs/figures/capture.py --check good rolled     # import and stage 1 of these; capture_SET_sheet.png
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import imageio.v3 as imageio
import numpy as np
import torch
import trimesh
from PIL import Image
from scipy import ndimage

from dataset import toys
from dataset.photo_errors import motion_kernel
from dataset.render import Renderer, merge
from dataset.toy_shapes import assemble, rotation
from sap3d import images as im
from sap3d.cameras import maths as cam
from sap3d.cameras.poses import read_best_poses
from sap3d.errors import one_line_errors
from sap3d.files import atomic_file, root_dir
from sap3d.meshes import normalise
from sap3d.scene import Scene

WIDTH, HEIGHT = 640, 480
SIDE = 800  # of the square that is rendered: the photo's diagonal, so that the photo can be turned within it
STRIP = (240, 180)  # of a photo in a figure
NOISE = 2.0  # of the sensor, in grey levels
SHEETS = ("good", "same_colour")  # whose contact sheets are shown
REPOSITORY = Path(__file__).resolve().parents[2]
GREEN, WHITE = (88, 150, 92), (226, 224, 219)
LYING = rotation("x", 90)


@dataclass
class Shot:
    """One photo: angles in degrees, lengths in units of the object's longest side."""

    elevation: float
    azimuth: float
    radius: float = 2.7
    roll: float = 0.0
    shift: tuple[int, int] = (0, 0)  # of the object in the photo, right and down, in pixels
    blur: float = 0.0  # way of the shaking hand, in pixels
    pose: np.ndarray = field(default_factory=lambda: np.eye(3))  # how the object lies


@dataclass
class PhotoSet:
    shots: list[Shot]
    table: Callable[[np.ndarray], np.ndarray]  # points [..., 2] → colours in [0, 255], [..., 3]
    cluttered: bool = False


def plain(colour: tuple[int, int, int]) -> Callable[[np.ndarray], np.ndarray]:
    """A large sheet of paper, brighter towards the window."""
    return lambda points: np.array(colour) * (1 + 0.04 * points[..., 1:].clip(-4, 4))


def checked(points: np.ndarray) -> np.ndarray:
    """A tablecloth in the carton's colours."""
    stripes = (np.floor(points * 3) % 2).sum(-1, keepdims=True)
    return np.choose(stripes.astype(int), [np.array(c) for c in ((238, 233, 225), (205, 150, 100), (120, 75, 45))])


GOOD = [Shot(22, 40), Shot(28, 130, 2.8), Shot(20, 215, 2.6), Shot(30, 310)]
SETS = {
    "good": PhotoSet(GOOD, plain(GREEN)),
    "cut_off": PhotoSet(
        [
            replace(shot, radius=1.8, shift=shift)
            for shot, shift in zip(GOOD, ((0, 130), (70, -120), (-60, 100), (0, -140)))
        ],
        plain(GREEN),
    ),
    "same_colour": PhotoSet(GOOD, plain(WHITE)),
    "cluttered": PhotoSet(GOOD, checked, cluttered=True),
    "rolled": PhotoSet([replace(shot, roll=roll) for shot, roll in zip(GOOD, (25, -20, 30, -25))], plain(GREEN)),
    "laid_down": PhotoSet([GOOD[0], replace(GOOD[1], pose=LYING), GOOD[2], replace(GOOD[3], pose=LYING)], plain(GREEN)),
    "one_side": PhotoSet([Shot(22, 40), Shot(25, 49), Shot(19, 56), Shot(27, 34)], plain(GREEN)),
    "too_small": PhotoSet([replace(shot, radius=12) for shot in GOOD], plain(GREEN)),
    "blurred": PhotoSet([replace(shot, blur=blur) for shot, blur in zip(GOOD, (30, 36, 42, 34))], plain(GREEN)),
}


def toy(family: Callable, seed: int) -> trimesh.Trimesh:
    return normalise(assemble(family(np.random.default_rng(seed))))


def placed(mesh: trimesh.Trimesh, x: float, y: float, size: float, turn: float) -> trimesh.Trimesh:
    """A copy that stands on z = 0."""
    mesh = mesh.copy()
    mesh.vertices = mesh.vertices @ rotation("z", turn).T * size
    mesh.vertices += (x, y, -mesh.vertices[:, 2].min())
    return mesh


def clutter() -> list[trimesh.Trimesh]:
    """What stands on a kitchen table; on z = 0."""
    return [
        placed(toy(toys.mug, 2_000_002), -0.75, 0.7, 0.6, 0),
        placed(toy(toys.carton, 2_000_002), 0.8, 0.85, 0.7, 30),
        placed(toy(toys.teapot, 2_000_002), 0.85, -0.75, 0.8, 80),
        placed(toy(toys.mug, 2_000_000), -0.9, -0.7, 0.6, 0),
        placed(toy(toys.bowl, 2_000_003), -1.4, 0.0, 0.8, 0),
        placed(toy(toys.can, 2_000_004), 0.0, 1.2, 0.6, 0),
        placed(toy(toys.carton, 2_000_007), 0.1, -1.3, 0.6, 20),
    ]


def shadow(mesh: trimesh.Trimesh, floor: float, points: np.ndarray) -> np.ndarray:
    """Share of the light that a mesh takes from points of the table, float [...], of [..., 2]: soft, from above."""
    reach, cells = 2.5, 250
    surface = trimesh.sample.sample_surface(mesh, 60_000, seed=0)[0]
    dark = np.zeros((cells, cells))
    heights = (0.04, 0.15, 0.4, 0.8)
    for height in heights:  # what is higher throws a wider shadow, farther from the light
        low = surface[surface[:, 2] - floor < height, :2] - np.array([0.35, 0.25]) * height / 2
        seen = np.histogram2d(*low.T, bins=cells, range=[[-reach, reach]] * 2)[0] > 0
        dark += ndimage.gaussian_filter(ndimage.binary_fill_holes(seen).astype(float), (height / 4 + 0.01) * cells / 5)
    cell = (points / reach + 1) * cells / 2 - 0.5
    return ndimage.map_coordinates(dark / len(heights), np.moveaxis(cell, -1, 0), order=1) * 0.6


def photo(
    mesh: trimesh.Trimesh, shot: Shot, scenery: PhotoSet, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A photo of an object, uint8 [HEIGHT, WIDTH, 3], and which pixels show it, before it is blurred, bool."""
    mesh = mesh.copy()
    mesh.vertices = mesh.vertices @ shot.pose.T
    floor, alone = mesh.vertices[:, 2].min(), Renderer(mesh)
    if scenery.cluttered:
        others = clutter()
        for other in others:
            other.vertices += (0, 0, floor)
        mesh = merge(trimesh.Scene([mesh, *others]))
    camera = torch.tensor([np.radians(shot.elevation), np.radians(shot.azimuth), shot.radius], dtype=torch.float32)
    origin, directions = (values.numpy() for values in cam.rays(camera, cam.pixel_grid(SIDE)))
    steps = (floor - origin[..., 2:]) / directions[..., 2:].clip(max=-1e-2)
    points = (origin + directions * steps)[..., :2].reshape(SIDE, SIDE, 2)
    picture = scenery.table(points) * (1 - shadow(mesh, floor, points))[..., None]
    renderer = Renderer(mesh) if scenery.cluttered else alone
    rgba = renderer.render(camera[None], SIDE)[0].astype(float)
    alpha = rgba[..., 3:] / 255
    picture = (picture * (1 - alpha) + rgba[..., :3] * alpha).clip(0, 255)
    depths = (of.depth(camera[None], SIDE)[0] for of in (alone, renderer))
    seen = np.isclose(*depths, rtol=0, atol=1e-4).astype(float) * (alpha[..., 0] > 0)
    picture = ndimage.rotate(np.dstack([picture, seen]), shot.roll, reshape=False, order=1)
    left, top = (SIDE - WIDTH) // 2 - shot.shift[0], (SIDE - HEIGHT) // 2 - shot.shift[1]
    picture = picture[top : top + HEIGHT, left : left + WIDTH]
    picture, seen = picture[..., :3], picture[..., 3] > 0.5
    if shot.blur:
        picture = cv2.filter2D(picture, -1, motion_kernel(shot.blur, rng.uniform(0, np.pi)))
    return (picture + rng.normal(0, NOISE, picture.shape)).clip(0, 255).astype(np.uint8), seen


def photos(name: str) -> list[np.ndarray]:
    rng, carton = np.random.default_rng(0), toy(toys.gable_carton, 2_000_000)
    return [photo(carton, shot, SETS[name], rng)[0] for shot in SETS[name].shots]


def write_strip(name: str, pictures: list[np.ndarray]) -> None:
    small = np.stack([np.array(Image.fromarray(p).resize(STRIP, Image.Resampling.LANCZOS)) for p in pictures])
    write_small(name, im.sheet(small, len(small)))


def write_small(name: str, picture: np.ndarray) -> None:
    """With a palette, so that the file is small."""
    with atomic_file(Path(__file__).with_name(f"capture_{name}.png")) as partial:
        Image.fromarray(picture).quantize(256, Image.Quantize.FASTOCTREE).save(partial)


def axes(shot: Shot) -> torch.Tensor:
    """Rotation from the camera to the object as it stands, [3, 3]."""
    level = cam.camera_axes(torch.tensor([np.radians(shot.elevation), np.radians(shot.azimuth), shot.radius]).double())
    return torch.from_numpy(shot.pose.T) @ level @ torch.from_numpy(rotation("z", -shot.roll))


def rotation_error(estimate: torch.Tensor, truth: torch.Tensor) -> float:
    """`metrics.rotation_error` of rotations [N, 3, 3], so that a truth with roll can be told; degrees."""
    first, second = (axes.transpose(-1, -2)[:, None] @ axes for axes in (estimate, truth))
    angles = cam.rotation_angle(first.transpose(-1, -2) @ second)
    return angles[~torch.eye(len(truth), dtype=torch.bool)].rad2deg().mean().item()


def check(name: str, pictures: list[np.ndarray]) -> None:
    """Put a set through import and stage 1 below ROOT_DIR; print what they say, and the true error of the poses."""
    folder = root_dir() / "photos" / name
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pictures):
        imageio.imwrite(folder / f"{index}.jpg", picture, quality=92)
    scene = Scene("DEMO", f"capture_{name}", len(pictures))
    arguments = ["--type", scene.type, "--object", scene.object, "--views", str(scene.views)]
    print(f"--- {name}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "sap3d.photos.import_photos", *arguments, "--input", folder], cwd=REPOSITORY
    )
    if done.returncode:
        return
    if name in SHEETS:
        write_small(f"{name}_sheet", np.asarray(Image.open(scene.train / "contact_sheet.png")))
    subprocess.run([sys.executable, "relposepp/infer.py", *arguments, "threads=1"], cwd=REPOSITORY, check=True)
    estimate = cam.camera_axes(read_best_poses(scene.initial_poses, scene.views).double())
    truth = torch.stack([axes(shot) for shot in SETS[name].shots])
    print(f"{name}: rotation error {rotation_error(estimate, truth):.1f}°", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", nargs="+", choices=SETS, default=[], metavar="SET", help=", ".join(SETS))
    arguments = parser.parse_args()
    for name in arguments.check or SETS:
        pictures = photos(name)
        if arguments.check:
            check(name, pictures)
        else:
            write_strip(name, pictures)


if __name__ == "__main__":
    with one_line_errors():
        main()
