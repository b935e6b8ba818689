"""How well masks are found: objects on twelve backgrounds, four photos each, by the network and by GrabCut.

OMP_NUM_THREADS=1 .venv/bin/python docs/figures/masks.py
OMP_NUM_THREADS=1 .venv/bin/python docs/figures/masks.py --sets cut_off same_colour     # of capture.py
OMP_NUM_THREADS=1 .venv/bin/python docs/figures/masks.py --doubts 48
OMP_NUM_THREADS=1 .venv/bin/python docs/figures/masks.py --points
OMP_NUM_THREADS=1 .venv/bin/python docs/figures/masks.py --write FOLDER                  # the photos, a folder each
OMP_NUM_THREADS=1 .venv/bin/python docs/figures/masks.py --poses "wood" poses.json       # of a run with these photos

Prints docs/CAPTURE.md's table of intersections over unions with the truth, and draws capture_backgrounds.png: the first
photo on each background, the network's outline above, GrabCut's below, in two rows of six. With --sets it prints what
import says of their photos. With --doubts it says how often import doubts an outline that is bad, and how often a
good one, of the four photos on each background and of so many others, whose toys and backgrounds are drawn by chance.
With --points it prints the overlap of the first on each background before and after points that a patient person would
set. With --poses it prints how far the poses of a stage are from those that the photos were taken with.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import capture
import imageio.v3 as imageio
import numpy as np
import torch
import trimesh
from PIL import Image
from scipy import ndimage

from dataset.prepare import load_object
from sap3d.cameras import maths as cam
from sap3d.cameras.poses import read_best_poses
from sap3d.errors import one_line_errors
from sap3d.photos import masks, quality
from sap3d.photos.grabcut import grabcut
from sap3d.photos.import_photos import outlined
from sap3d.photos.mending import mend
from sap3d.photos.network import segment
from sap3d.photos.reading import read_photo

# One an entry of BACKGROUNDS: (type, name) as dataset/prepare.py has them. The fifth becomes white.
OBJECTS = [("toy_demo", f"toy_{number:03d}") for number in range(301, 313)]
BAD = 0.9  # overlap with the truth of an outline that wants mending
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


def placed(index: int) -> list[capture.Shot]:
    """Where the photos on a background are taken from."""
    return [replace(shot, azimuth=shot.azimuth + 25 * index) for shot in capture.GOOD]


def shots(index: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The four photos on a background, and their true masks."""
    name, scenery = list(BACKGROUNDS.items())[index]
    mesh, rng = load_object(*OBJECTS[index]), np.random.default_rng(index)
    mesh = whitened(mesh) if "white object" in name else mesh
    for shot in placed(index):
        yield capture.photo(mesh, shot, scenery, rng)


def another(index: int) -> tuple[str, np.ndarray, np.ndarray]:
    """A photo that nothing was chosen by, and its true mask: a toy and a background that are drawn by chance."""
    rng = np.random.default_rng(1000 + index)
    colours = rng.integers(20, 240, (2, 3))
    surfaces = {
        "plain": capture.plain(tuple(colours[0])),
        "mottled": grain(tuple(colours), tuple(np.exp(rng.uniform(-2, 1, 2))), index),
        "striped": stripes(tuple(colours), rng.uniform(0.08, 0.5)),
    }
    kind, cluttered = rng.choice(list(surfaces)), bool(rng.random() < 0.25)
    shot = replace(capture.GOOD[index % 4], azimuth=rng.uniform(0, 360), elevation=rng.uniform(10, 45))
    scenery = capture.PhotoSet([], surfaces[kind], cluttered=cluttered)
    picture, truth = capture.photo(load_object("toy_demo", f"toy_{401 + index}"), shot, scenery, rng)
    return f"toy_{401 + index}, {kind}{', clutter' * cluttered}", picture, truth


def backgrounds() -> None:
    """Print the table and draw the figure."""
    strips, scores = {"network": [], "GrabCut": []}, {"network": [], "GrabCut": []}
    print("| background | network: mean, worst | GrabCut: mean, worst |\n|---|---|---|")
    for index, name in enumerate(BACKGROUNDS):
        found = {"network": [], "GrabCut": []}
        for number, (picture, truth) in enumerate(shots(index)):
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


def points() -> None:
    """Print what points do for the first photo on each background."""
    for index, name in enumerate(BACKGROUNDS):
        picture, truth = next(shots(index))
        mask = masks.one_object(segment(picture))[0]
        scores = clicks(picture, truth, mask, 10)
        print(f"{name}: {scores[0]:.3f}, after 5 and 10 points {scores[5]:.3f} and {scores[10]:.3f}", flush=True)


def doubts(count: int) -> None:
    """Print how soft the network's masks are, how good, and what is said of them; and how well that goes together."""
    for photos in (
        ((name, *shot) for index, name in enumerate(BACKGROUNDS) for shot in shots(index)),
        (another(index) for index in range(count)),
    ):
        found = np.array([judged(*photo) for photo in photos])
        print(f"{len(found)} photos, {int((found[:, 1] < BAD).sum())} of them with an overlap below {BAD}")
        for title, said in (
            *((f"softness above {level}", found[:, 0] > level) for level in (0.01, quality.DOUBTFUL, 0.03, 0.1)),
            ("whatever import says", found[:, 2] > 0),
        ):
            right, bad = (said & (found[:, 1] < BAD)).sum(), (found[:, 1] < BAD).sum()
            print(f"  {title}: said of {said.sum()}, right in {right}; {right} of {bad} bad ones found", flush=True)


def judged(name: str, picture: np.ndarray, truth: np.ndarray) -> tuple[float, float, bool]:
    """How soft a photo's mask is, its overlap with the truth, and whether import says anything of it; printed, too."""
    whole = segment(picture)
    soft, (mask, said) = quality.undecided(whole), masks.one_object(whole)
    cut, overlap = np.dstack([picture, mask]), iou(mask > 127, truth)
    said += ["the outline is doubtful"] * (soft > quality.DOUBTFUL)  # as masks.find_foreground has it
    trouble = quality.problem(cut, "network")
    said = [trouble] if trouble else [*said, *quality.notices(cut, "network")]
    print(f"  {name}: softness {soft:.3f}, overlap {overlap:.3f}; {'; '.join(said) or 'nothing'}", flush=True)
    return soft, overlap, bool(said)


def write(folder: Path) -> None:
    """Write all photos."""
    for index, name in enumerate(BACKGROUNDS):
        target = folder / name.replace(",", "").replace(" ", "_")
        target.mkdir(parents=True, exist_ok=True)
        for number, (picture, _) in enumerate(shots(index)):
            imageio.imwrite(target / f"{number}.jpg", picture, quality=92)


def pose_error(name: str, path: Path) -> None:
    """Print how far the poses of a run with all photos on a background are from the true ones."""
    truth = torch.stack([capture.axes(shot) for shot in placed(list(BACKGROUNDS).index(name))])
    estimate = cam.camera_axes(read_best_poses(path, len(truth)).double())
    print(f"{name}: rotation error {capture.rotation_error(estimate, truth):.1f}°")


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
    parser.add_argument("--doubts", type=int, metavar="COUNT", help="what is said of good and bad masks")
    parser.add_argument("--points", action="store_true", help="what points do for masks")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="keep the photos")
    parser.add_argument(
        "--poses", nargs=2, metavar=("BACKGROUND", "FILE"), help="how far a poses.json is from the truth"
    )
    arguments = parser.parse_args()
    if arguments.sets:
        verdicts(arguments.sets)
    elif arguments.doubts is not None:
        doubts(arguments.doubts)
    elif arguments.points:
        points()
    elif arguments.poses:
        pose_error(arguments.poses[0], Path(arguments.poses[1]))
    elif arguments.write:
        write(arguments.write)
    else:
        backgrounds()


if __name__ == "__main__":
    with one_line_errors():
        main()
