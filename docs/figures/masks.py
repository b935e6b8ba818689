"""How well masks are found: objects on twelve backgrounds, four photos each, by the network and by GrabCut.

OMP_NUM_THREADS=1 .venv/bin/python docs/figures/masks.py
OMP_NUM_THREADS=1 .venv/bin/python docs/figures/masks.py --sets cut_off same_colour     # of capture.py
OMP_NUM_THREADS=1 .venv/bin/python docs/figures/masks.py --doubts

Prints docs/CAPTURE.md's table of intersections over unions with the truth, and draws capture_backgrounds.png: the first
photo on each background, the network's outline above, GrabCut's below, in two rows of six. With --sets it prints what
import says of their photos; with --doubts, of the first photo on each background, how soft the network's mask is, its
overlap with the truth, now and after points that a patient person would set, and what import says.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import capture
import imageio.v3 as imageio
import numpy as np
import trimesh
from PIL import Image
from scipy import ndimage

from dataset.prepare import load_object
from sap3d.errors import one_line_errors
from sap3d.photos import masks, quality
from sap3d.photos.grabcut import grabcut
from sap3d.photos.import_photos import outlined
from sap3d.photos.mending import mend
from sap3d.photos.network import segment
from sap3d.photos.reading import read_photo

# One an entry of BACKGROUNDS: (type, name) as dataset/prepare.py has them. The fifth becomes white.
OBJECTS = [("toy_demo", f"toy_{number:03d}") for number in range(301, 313)]
TILE = (160, 120)  # of a photo in the figure


def grain(colours: tuple, scale: tuple[float, float], seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """A mottled surface between two colours, stretched along its axes."""
    rng = np.random.default_rng(seed)
    layers = [ndimage.gaussian_filter(rng.normal(size=(256, 256)), sigma, mode="wrap") for sigma in (1.5, 8)]
    pattern = sum(layer / layer.std() for layer in layers) / 2

    def table(points: np.ndarray) -> np.ndarray:
        place = np.moveaxis(points * np.array(scale) * 20, -1, 0)
        share = (0.5 + 0.25 * ndimage.map_coordinates(pattern, place, order=1, mode="grid-wrap")).clip(0, 1)[..., None]
        return np.array(colours[0]) * share + np.array(colours[1]) * (1 - share)

    return table


def stripes(colours: tuple, width: float) -> Callable[[np.ndarray], np.ndarray]:
    """Lines of a cloth, or of print on paper."""
    return lambda points: np.array(colours)[(np.floor(points[..., 0] / width) % len(colours)).astype(int)]


WOOD, LINEN = (
    grain(((170, 120, 75), (110, 70, 40)), (0.15, 2.0), 1),
    grain(((214, 205, 188), (190, 180, 160)), (3, 3), 2),
)
BACKGROUNDS = {
    "green paper": capture.PhotoSet([], capture.plain((88, 150, 92))),
    "grey paper": capture.PhotoSet([], capture.plain((128, 128, 130))),
    "black paper": capture.PhotoSet([], capture.plain((35, 35, 38))),
    "white paper": capture.PhotoSet([], capture.plain(capture.WHITE)),
    "white paper, white object": capture.PhotoSet([], capture.plain(capture.WHITE)),
    "wood": capture.PhotoSet([], WOOD),
    "marble": capture.PhotoSet([], grain(((235, 232, 228), (170, 170, 175)), (0.5, 0.5), 3)),
    "linen": capture.PhotoSet([], LINEN),
    "striped cloth": capture.PhotoSet([], stripes(((40, 60, 120), (215, 215, 205)), 0.12)),
    "chequered cloth": capture.PhotoSet([], capture.checked),
    "clutter on wood": capture.PhotoSet([], WOOD, cluttered=True),
    "clutter on chequered cloth": capture.PhotoSet([], capture.checked, cluttered=True),
}


def whitened(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """The object, of white china."""
    colours = np.tile((236, 234, 230, 255), (len(mesh.vertices), 1)).astype(np.uint8)
    return trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_colors=colours, process=False)


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / max((first | second).sum(), 1))


def backgrounds() -> None:
    """Print the table and draw the figure."""
    strips, scores = {"network": [], "GrabCut": []}, {"network": [], "GrabCut": []}
    print("| background | network: mean, worst | GrabCut: mean, worst |\n|---|---|---|")
    for index, (name, scenery) in enumerate(BACKGROUNDS.items()):
        mesh = load_object(*OBJECTS[index])
        mesh = whitened(mesh) if "white object" in name else mesh
        rng, found = np.random.default_rng(index), {"network": [], "GrabCut": []}
        for number, shot in enumerate(capture.GOOD):
            picture, truth = capture.photo(mesh, replace(shot, azimuth=shot.azimuth + 25 * index), scenery, rng)
            for way, cut in (("network", segment), ("GrabCut", grabcut)):
                mask = masks.one_object(cut(picture))[0]
                found[way].append(iou(mask > 127, truth))
                if number == 0:
                    small = Image.fromarray(outlined(np.dstack([picture, mask]))).resize(TILE, Image.Resampling.LANCZOS)
                    strips[way].append(np.array(small))
        cells = [f"{np.mean(values):.3f}, {min(values):.3f}" for values in found.values()]
        print(f"| {name} | {cells[0]} | {cells[1]} |", flush=True)
        for way, values in found.items():
            scores[way] += values
    cells = [f"{np.mean(values):.3f}, {min(values):.3f}" for values in scores.values()]
    print(f"| **all** | {cells[0]} | {cells[1]} |")
    half = len(BACKGROUNDS) // 2
    rows = [tile for part in (slice(half), slice(half, None)) for way in strips for tile in strips[way][part]]
    capture.write_small("backgrounds", capture.im.sheet(np.stack(rows), half))


def clicks(picture: np.ndarray, truth: np.ndarray, mask: np.ndarray, count: int) -> list[float]:
    """Overlaps with the truth before and after each of so many points, each amid the largest part that is wrong."""
    scores = [iou(mask > 127, truth)]
    for _ in range(count):
        parts, number = ndimage.label((mask > 127) != truth)
        largest = parts == 1 + np.argmax(np.bincount(parts.ravel(), minlength=number + 1)[1:]) if number else truth
        depth = ndimage.distance_transform_edt(np.pad(largest, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(np.argmax(depth), truth.shape)
        point = [(column + 0.5) / truth.shape[1], (row + 0.5) / truth.shape[0]]
        kind = "keep" if truth[row, column] else "remove"
        mask = mend(picture, mask, {"kind": kind, "tool": "point", "points": [point], "radius": 0.0})
        scores.append(iou(mask > 127, truth))
    return scores


def doubts() -> None:
    """Print how soft the network's masks are, how good, and what is said of them."""
    for index, (name, scenery) in enumerate(BACKGROUNDS.items()):
        mesh = load_object(*OBJECTS[index])
        mesh = whitened(mesh) if "white object" in name else mesh
        shot = replace(capture.GOOD[0], azimuth=capture.GOOD[0].azimuth + 25 * index)
        picture, truth = capture.photo(mesh, shot, scenery, np.random.default_rng(index))
        opaque = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
        mask, method, said = masks.find_foreground(opaque)
        said += quality.notices(np.dstack([picture, mask]), method)
        soft = quality.undecided(segment(picture))
        scores = clicks(picture, truth, mask, 10)
        overlaps = f"overlap {scores[0]:.3f}, after 5 and 10 points {scores[5]:.3f} and {scores[10]:.3f}"
        print(f"{name}: softness {soft:.3f}, {overlaps}; {'; '.join(said)}", flush=True)


def verdicts(names: list[str]) -> None:
    """Print what import says of the photos of capture.py's sets."""
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            for index, picture in enumerate(capture.photos(name)):
                path = Path(folder) / f"{index}.jpg"
                imageio.imwrite(path, picture, quality=92)
                photo = read_photo(path, path.name)
                said = photo.problem or "; ".join(photo.notices) or "nothing"
                print(f"{name} {photo.name}, by {photo.method}: {said}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=capture.SETS, metavar="SET", help="what import says of these")
    parser.add_argument("--doubts", action="store_true", help="softness and overlap of the network's masks")
    arguments = parser.parse_args()
    if arguments.sets:
        verdicts(arguments.sets)
    elif arguments.doubts:
        doubts()
    else:
        backgrounds()


if __name__ == "__main__":
    with one_line_errors():
        main()
