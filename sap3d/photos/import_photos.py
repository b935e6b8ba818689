"""Photos of an object → a scene folder: upright, without background, the object in the middle, all at one scale.

    python -m sap3d.photos.import_photos --type DEMO --object my_mug --views 4 --input photos/

JPEG, PNG, WebP and HEIC, in the order of their names. The foreground is the alpha channel where there is one, else what
rembg finds (when it is installed with its model), else what GrabCut finds. Look at contact_sheet.png beside the images:
it shows what the stages will see.
"""

import argparse
import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import imageio.v3 as imageio
import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from pillow_heif import register_heif_opener
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.morphology import remove_small_holes
from tqdm import tqdm

from sap3d import images as im
from sap3d.cameras.framing import square_sides
from sap3d.errors import UserError, one_line_errors
from sap3d.files import atomic_file, atomic_folder, write_json
from sap3d.scene import IMAGE_SUFFIXES, Scene, check_views

SUFFIXES = (*IMAGE_SUFFIXES, ".heic", ".heif")
MAX_PHOTOS = 100
WORKING_SIZE = 1024  # longer side of a photo as it is worked on
SIZE = 512  # side of what is written
FILM_DIAGONAL = 43.27  # of 35 mm film, in mm: EXIF's equivalent focal length refers to it
GRABCUT_SIZE, GRABCUT_ITERATIONS = 384, 6
# About a point that a person has marked: colours that differ by so much, of 255, within so much of the longer side.
HINT_COLOURS, HINT_RADIUS = 24, 0.2
BORDER, SMALL_HOLE = 0.03, 0.001  # shares of the frame: what is background for sure, and which holes are closed
BORDER_COLOURS = 8
# What is no clear object: shares of the frame that are too small or too large, of the outline that lies on the frame's
# border, and of the colours that object and background have in common.
SMALLEST, LARGEST, CUT_OFF, ALIKE = 0.01, 0.9, 0.1, 0.6
REMBG_MODEL = Path.home() / ".u2net/u2net.onnx"


@dataclass
class Photo:
    """One picture on its way in."""

    path: Path
    rgba: np.ndarray  # upright, uint8 [H, W, 4]
    method: str  # what told the foreground: alpha, rembg or grabcut
    fov: float | None  # vertical field of view by EXIF, radians

    def problem(self) -> str | None:
        """Why there is no clear object in it, if there is none."""
        mask = self.rgba[..., 3] > 127
        edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        outline = (mask & ~ndimage.binary_erosion(mask, border_value=1)).sum() + edge.sum()
        if mask.mean() < SMALLEST:
            return "no clear object in it"
        if mask.mean() > LARGEST:
            return "the object fills the picture, or the background was not told from it"
        if edge.sum() > CUT_OFF * outline:
            return "the object is cut off by the picture's edge"
        if self.method == "grabcut" and colours_in_common(self.rgba) > ALIKE:
            return "object and background look alike; take a plain background of another colour"
        return None


def photo_paths(folder: Path) -> list[Path]:
    """The photos of a folder by name.

    Raises:
        UserError: no such folder, no photos or too many.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != "." and p.is_file())
    if not paths:
        raise UserError(f"{folder}: no photos in it ({', '.join(SUFFIXES)})")
    if len(paths) > MAX_PHOTOS:
        raise UserError(f"{folder}: {len(paths)} photos, at most {MAX_PHOTOS} are taken")
    return paths


def read_photo(path: Path) -> Photo:
    """Read a photo upright and find its foreground.

    Raises:
        UserError: not a readable still picture, or too large.
    """
    register_heif_opener()
    try:
        with Image.open(path, formats=(*im.FORMATS, "HEIF")) as opened:
            im.check_picture(path, opened)
            opened.draft("RGB", (WORKING_SIZE, WORKING_SIZE))  # a large JPEG need not be decoded in full
            fov = field_of_view(opened)
            image = ImageOps.exif_transpose(opened)
            image.thumbnail((WORKING_SIZE, WORKING_SIZE), Image.Resampling.LANCZOS)
    except im.UNREADABLE as error:
        raise UserError(f"{path}: not a readable picture ({str(error).splitlines()[0]})") from error
    rgba = np.array(im.eight_bits(image).convert("RGBA"))
    method = "alpha"
    if rgba[..., 3].min() > 127:
        rgba[..., 3], method = find_foreground(rgba[..., :3])
    return Photo(path, rgba, method, fov)


def field_of_view(image: Image.Image) -> float | None:
    """Vertical field of view of the upright picture by EXIF's focal length for 35 mm film, in radians."""
    exif = image.getexif()
    focal_length = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.FocalLengthIn35mmFilm)
    if not focal_length:
        return None
    turned = exif.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    height = (image.width if turned else image.height) / math.hypot(image.width, image.height)
    return 2 * math.atan(height * FILM_DIAGONAL / 2 / float(focal_length))


def find_foreground(rgb: np.ndarray) -> tuple[np.ndarray, str]:
    """Soft mask, uint8 [H, W], of uint8 [H, W, 3], and what found it."""
    if REMBG_MODEL.exists():
        try:
            import rembg
        except ImportError:
            pass
        else:
            return np.asarray(rembg.remove(rgb, only_mask=True)), "rembg"
    return grabcut(rgb), "grabcut"


def grabcut(rgb: np.ndarray) -> np.ndarray:
    """GrabCut (Rother et al. 2004), started from what is unlike the frame's border; uint8 [H, W].

    Of what it finds, the part that has most of the middle counts; its small holes are closed.
    """
    height, width = rgb.shape[:2]
    scale = GRABCUT_SIZE / max(height, width)
    small = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    y, x = np.mgrid[-1 : 1 : small.shape[0] * 1j, -1 : 1 : small.shape[1] * 1j]
    border = np.maximum(abs(x), abs(y)) > 1 - 2 * BORDER
    cv2.setRNGSeed(0)
    labels = np.where(unlike(small, border) & (np.hypot(x, y) < 1.2), cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[border] = cv2.GC_BGD
    found = ndimage.binary_opening(cut(small, labels))
    parts, count = ndimage.label(found)
    if count:
        middle = np.exp(-4 * (x**2 + y**2))
        found = parts == 1 + np.argmax(ndimage.sum(middle, parts, range(1, count + 1)))
    return soften(found, width, height)


def correct_mask(rgb: np.ndarray, mask: np.ndarray, keep: np.ndarray, remove: np.ndarray) -> np.ndarray:
    """GrabCut once more, from a mask and points of which a person says that they are object or background.

    Args:
        rgb, mask: uint8 [H, W, 3] and [H, W].
        keep, remove: (x, y) in shares of width and height, [K, 2] and [R, 2].

    Returns:
        uint8 [H, W]; parts that touch nothing of what was foreground, or was marked as such, are left out.
    """
    height, width = rgb.shape[:2]
    scale = GRABCUT_SIZE / max(height, width)
    small = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    before = cv2.resize(mask, small.shape[1::-1], interpolation=cv2.INTER_AREA) > 127
    labels = np.where(before, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    for points, label in ((keep, cv2.GC_FGD), (remove, cv2.GC_BGD)):
        for point in points:
            labels[meant(small, point)] = label
    cv2.setRNGSeed(0)
    found = cut(small, labels)
    parts, _ = ndimage.label(found)
    known = np.unique(parts[before & found | (labels == cv2.GC_FGD)])
    return soften(np.isin(parts, known[known > 0]), width, height)


def meant(rgb: np.ndarray, point: np.ndarray) -> np.ndarray:
    """What a person means by a point: what lies about it in one piece and looks like it, bool [H, W].

    Args:
        point: (x, y) in shares of width and height.
    """
    height, width = rgb.shape[:2]
    x, y = (min(int(share * side), side - 1) for share, side in zip(point, (width, height)))
    piece = np.zeros((height + 2, width + 2), np.uint8)
    how = 4 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | 1 << 8
    cv2.floodFill(np.ascontiguousarray(rgb), piece, (x, y), 0, (HINT_COLOURS,) * 3, (HINT_COLOURS,) * 3, how)
    rows, columns = np.mgrid[:height, :width]
    return (piece[1:-1, 1:-1] > 0) & (np.hypot(rows - y, columns - x) < HINT_RADIUS * max(height, width))


def cut(rgb: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What GrabCut takes for the foreground, bool [H, W], of uint8 [H, W, 3] and OpenCV's labels [H, W]."""
    if np.isin(labels, (cv2.GC_PR_FGD, cv2.GC_FGD)).any() and np.isin(labels, (cv2.GC_PR_BGD, cv2.GC_BGD)).any():
        labels = labels.copy()
        cv2.grabCut(rgb[..., ::-1].copy(), labels, None, np.zeros((1, 65)), np.zeros((1, 65)),
                    GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_MASK)  # fmt: skip
    return np.isin(labels, (cv2.GC_PR_FGD, cv2.GC_FGD))


def soften(found: np.ndarray, width: int, height: int) -> np.ndarray:
    """A bool mask without small holes, at the photo's size and with a soft edge, uint8 [height, width]."""
    found = remove_small_holes(found, max_size=int(SMALL_HOLE * found.size))
    mask = cv2.GaussianBlur(found.astype(np.float32), (0, 0), 0.7)
    return im.to_uint8(cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR))


def unlike(rgb: np.ndarray, border: np.ndarray) -> np.ndarray:
    """Where a picture's colours are far from all that occur on its border, bool [H, W]."""
    lab = cv2.cvtColor(cv2.GaussianBlur(rgb, (0, 0), 1.5), cv2.COLOR_RGB2LAB).astype(np.float32)
    lab[..., 0] *= 0.5  # shadows and shading change lightness, hardly hue
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 0.5)
    _, _, clusters = cv2.kmeans(lab[border], BORDER_COLOURS, None, stop, 2, cv2.KMEANS_PP_CENTERS)
    distance = np.linalg.norm(lab[..., None, :] - clusters, axis=-1).min(-1)
    # The border itself tells how far from its clusters a background's colours lie.
    return distance > max(threshold_otsu(distance) * 0.5, np.percentile(distance[border], 98))


def colours_in_common(rgba: np.ndarray) -> float:
    """Intersection of the foreground's and the background's colour histograms, in [0, 1]."""
    lab = cv2.cvtColor(np.ascontiguousarray(rgba[..., :3]), cv2.COLOR_RGB2LAB) // 16
    bins = lab[..., 0].astype(int) * 256 + lab[..., 1] * 16 + lab[..., 2]
    inside, outside = (np.bincount(bins[part], minlength=4096) for part in (rgba[..., 3] > 200, rgba[..., 3] < 55))
    return float(np.minimum(inside / max(inside.sum(), 1), outside / max(outside.sum(), 1)).sum())


def framed(photos: list[np.ndarray]) -> list[np.ndarray]:
    """Photos of one object, uint8 [H, W, 4], as squares with its bounding box in the middle, uint8 [SIZE, SIZE, 4]."""
    # The same lens sees the same angle along the longer side, whatever the number of pixels.
    lengths = torch.tensor([float(max(rgba.shape[:2])) for rgba in photos])
    boxes = [im.bounding_box(rgba[..., 3] > 127) for rgba in photos]
    longer = torch.tensor([float(max(bottom - top, right - left)) for top, bottom, left, right in boxes])
    sides = (square_sides(longer / lengths) * lengths).tolist()
    return [im.straight_alpha(im.resize(im.recentre(rgba, side), SIZE)) for rgba, side in zip(photos, sides)]


def outlined(rgba: np.ndarray) -> np.ndarray:
    """The photo with its foreground's outline in red, uint8 [H, W, 3]."""
    rgb, mask = rgba[..., :3].copy(), rgba[..., 3] > 127
    rgb[mask ^ ndimage.binary_dilation(mask, iterations=max(rgb.shape) // 200 + 1)] = (255, 0, 0)
    return rgb


def contact_sheet(photos: list[Photo], framed_photos: list[np.ndarray]) -> np.ndarray:
    """Above the photos with their foreground's outline in red, below what the stages see, uint8 [H, W, 3]."""
    side, above = 192, []
    for photo in photos:
        above.append(np.array(ImageOps.pad(Image.fromarray(outlined(photo.rgba)), (side, side), color="white")))
    below = [im.to_uint8(im.resize(image, side))[..., :3] for image in framed_photos]
    return im.sheet(np.stack(above + below), columns=len(photos))


def import_photos(scene: Scene, folder: Path) -> None:
    """Write the photos of a folder into a scene folder; nothing happens if just these were imported before.

    Raises:
        UserError: unreadable photos, pictures without a clear object (all are named), fewer than VIEWS, or a scene of
            that name which was not made of these photos.
    """
    paths = photo_paths(folder)
    if len(paths) < scene.views:
        raise UserError(f"{folder}: {len(paths)} photos, but VIEWS is {scene.views}")
    sources = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    same = Counter(sources.values()).most_common(1)[0]
    if same[1] > 1:
        names = ", ".join(name for name, digest in sources.items() if digest == same[0])
        raise UserError(f"{folder}: {names} are the same picture; keep one of them")
    record = scene.photo_record
    if (scene.train / "images").exists():
        if record.exists() and json.loads(record.read_text())["sources"] == sources:
            return
        raise UserError(f"{scene.train}: exists and was not made of these photos; take another name or remove it")
    with tqdm(paths, desc="photos") as bar:  # so that an error ends its line
        photos = [read_photo(path) for path in bar]
    refused = [f"{photo.path.name}: {problem}" for photo in photos if (problem := photo.problem())]
    if refused:
        raise UserError(f"{folder}: {'; '.join(refused)}")
    if any(photo.method == "grabcut" for photo in photos):
        sheet = scene.train / "contact_sheet.png"
        print(f"backgrounds were told by their colours alone (GrabCut): look at {sheet}", flush=True)
    images = framed([photo.rgba for photo in photos])
    with atomic_file(scene.train / "contact_sheet.png") as partial:
        imageio.imwrite(partial, contact_sheet(photos, images))
    views = [{"photo": photo.path.name, "foreground": photo.method, "fov": photo.fov} for photo in photos]
    write_json(record, {"sources": sources, "views": views})
    with atomic_folder(scene.train / "images") as partial:
        for index, image in enumerate(images):
            imageio.imwrite(partial / f"{index:03d}.png", image)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--type", required=True)
    parser.add_argument("--object", required=True)
    parser.add_argument("--views", default="1", help="at least so many photos are wanted")
    parser.add_argument("--input", type=Path, required=True, help="folder of photos")
    arguments = parser.parse_args()
    scene = Scene(arguments.type, arguments.object, check_views(arguments.views))
    import_photos(scene, arguments.input)
    print(f"photos: {scene.train / 'images'}, contact sheet beside them")


if __name__ == "__main__":
    with one_line_errors():
        main()
