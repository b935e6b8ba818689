"""Photos of an object → a scene folder: upright, without background, the object in the middle, all at one scale.

    python -m sap3d.photos.import_photos --type DEMO --object my_mug --views 4 --input photos/

A folder, a zip or photos, in the natural order of their names. The foreground is the alpha channel where that says
something, else what a segmentation network finds (sap3d/photos/network.py), else what GrabCut finds. Look at
contact_sheet.png beside the images: it shows what the stages will see.
"""

import argparse
import hashlib
import json
import math
import tempfile
from pathlib import Path

import cv2
import imageio.v3 as imageio
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps
from scipy import ndimage
from tqdm import tqdm

from sap3d import images as im
from sap3d.cameras.framing import square_sides
from sap3d.cameras.maths import TAN_HALF_FOV
from sap3d.errors import UserError, one_line_errors
from sap3d.files import atomic_file, atomic_folder, write_json
from sap3d.names import shown
from sap3d.photos.intake import Limits, find_photos
from sap3d.photos.reading import KINDS, Photo, read_photos
from sap3d.scene import Scene, check_views
from sap3d.views import FOV, FOV_KNOWN, SHARE

SIZES, STEP = (512, 1024), 256  # least and greatest side of what is written, and of what it is a multiple
TILE = 192  # side of a photo on the contact sheet


def framed(photos: list[np.ndarray], fields_of_view: list[float | None]) -> tuple[list[np.ndarray], list[float]]:
    """Photos of one object as squares with its bounding box in the middle.

    Where the lens is known, the square is what a camera sees that is turned towards the box's middle.

    Args:
        photos: uint8 [H, W, 4].
        fields_of_view: vertical, radians, where they are known.

    Returns:
        uint8 [S, S, 4], with S for all as the largest square has in its photo but within SIZES, and the tangents of
        half the squares' fields of view as shares of those of half the photos' along their longer sides.
    """
    # The same lens sees the same angle along the longer side, whatever the number of pixels.
    lengths = torch.tensor([float(max(rgba.shape[:2])) for rgba in photos])
    boxes = [im.bounding_box(rgba[..., 3] > 127) for rgba in photos]
    longer = torch.tensor([float(max(bottom - top, right - left)) for top, bottom, left, right in boxes])
    sides = (square_sides(longer / lengths) * lengths).tolist()
    size = int(np.clip(round(max(sides) / STEP) * STEP, *SIZES))
    images, shares = [], []
    for rgba, side, length, field_of_view in zip(photos, sides, lengths.tolist(), fields_of_view):
        if field_of_view:
            image, tangent = turned_towards(rgba, side, 2 * size, rgba.shape[0] / 2 / math.tan(field_of_view / 2))
            share = tangent / (length / 2 / (rgba.shape[0] / 2 / math.tan(field_of_view / 2)))
        else:
            image, share = im.recentre(rgba, side), side / length
        images.append(im.straight_alpha(im.resize(image, size)))
        shares.append(float(share))
    return images, shares


def turned_towards(rgba: np.ndarray, side: float, size: int, focal: float) -> tuple[np.ndarray, float]:
    """A square photo by the same camera, turned by the shortest way so that the object's box is in the middle.

    Off its middle a lens stretches what it shows, by 7 % at 15°.

    Args:
        rgba: uint8 [H, W, 4].
        side: of the square where the box is, pixels.
        size: of what is returned, pixels.
        focal: focal length in pixels.

    Returns:
        uint8 [size, size, 4], and the tangent of half its field of view.
    """
    top, bottom, left, right = im.bounding_box(rgba[..., 3] > 127)
    middle = np.array([rgba.shape[1] / 2, rgba.shape[0] / 2])
    towards = np.array([*(np.array([(left + right) / 2, (top + bottom) / 2]) - middle) / focal, 1.0])
    cosine = 1 / np.linalg.norm(towards)
    towards *= cosine
    axis = np.cross([0.0, 0.0, 1.0], towards)
    rotation = cv2.Rodrigues(axis / max(np.linalg.norm(axis), 1e-12) * math.acos(min(cosine, 1.0)))[0]
    tangent = side / 2 * cosine / focal
    lens = np.array([[focal, 0, middle[0]], [0, focal, middle[1]], [0, 0, 1]])
    view = np.array([[2 * tangent / size, 0, -tangent], [0, 2 * tangent / size, -tangent], [0, 0, 1]])
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # OpenCV's pixel centres are at whole numbers
    warp = np.linalg.inv(half) @ lens @ rotation @ view @ half
    premultiplied = rgba.astype(np.float32)
    premultiplied[..., :3] *= premultiplied[..., 3:] / 255
    seen = cv2.warpPerspective(premultiplied, warp, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    seen[..., :3] *= 255 / seen[..., 3:].clip(1)
    return (seen.clip(0, 255) + 0.5).astype(np.uint8), tangent


def lenses(photos: list[Photo], shares: list[float]) -> tuple[list[float], bool]:
    """Fields of view of the squares in degrees, and whether any photo's EXIF told: the others are of the same lens.

    Where none does, the median square has the usual one.
    """
    tangents = [long_tangent(photo) for photo in photos]
    known = [tangent for tangent in tangents if tangent]
    common = float(np.median(known)) if known else TAN_HALF_FOV / float(np.median(shares))
    halves = [share * (tangent or common) for share, tangent in zip(shares, tangents)]
    return [2 * math.degrees(math.atan(half)) for half in halves], bool(known)


def long_tangent(photo: Photo) -> float | None:
    """Tangent of half the field of view along the longer side, if EXIF tells."""
    height, width = photo.rgba.shape[:2]
    return math.tan(photo.fov / 2) * max(height, width) / height if photo.fov else None


def outlined(rgba: np.ndarray) -> np.ndarray:
    """The photo with its foreground's outline in red, uint8 [H, W, 3]."""
    rgb, mask = rgba[..., :3].copy(), rgba[..., 3] > 127
    rgb[mask ^ ndimage.binary_dilation(mask, iterations=max(rgb.shape) // 200 + 1)] = (255, 0, 0)
    return rgb


def contact_sheet(photos: list[Photo], framed_photos: list[np.ndarray]) -> np.ndarray:
    """Above the photos with their foreground's outline in red and what told it, below what the stages see, uint8."""
    above = []
    for photo in photos:
        tile = ImageOps.pad(Image.fromarray(outlined(photo.rgba)), (TILE, TILE), color="white")
        ImageDraw.Draw(tile).text((4, 2), photo.method, fill="black", stroke_width=2, stroke_fill="white")
        above.append(np.array(tile))
    below = [im.to_uint8(im.resize(image, TILE))[..., :3] for image in framed_photos]
    return im.sheet(np.stack(above + below), columns=len(photos))


def import_photos(scene: Scene, sent: list[Path]) -> None:
    """Write photos into a scene folder; nothing happens if just these were imported before.

    What is no photo, shows no clear object or is there twice is left out, with a sentence on each.

    Args:
        sent: folders, zips and photos.

    Raises:
        UserError: too many photos, fewer than VIEWS that will do (the others are named), or a scene of that name that
            was not made of these photos.
    """
    where = ", ".join(shown(path) for path in sent)
    with tempfile.TemporaryDirectory() as scratch:
        found, refused = find_photos(sent, Path(scratch), Limits())
        if not found:
            raise UserError(f"{'; '.join(refused) or where}: no photos in it ({KINDS})")
        sources = {file.name: hashlib.sha256(file.path.read_bytes()).hexdigest() for file in found}
        if (scene.train / "images").exists():
            check_imported(scene, sources)
            return
        if len(found) < scene.views:
            raise UserError(too_few(where, len(found), scene.views, refused))
        with tqdm(found, desc="photos") as bar:  # so that an error ends its line
            photos, unread = read_photos(bar)
    refused += unread + [f"{photo.name}: {photo.problem}" for photo in photos if photo.problem]
    photos = [photo for photo in photos if not photo.problem]
    if len(photos) < scene.views:
        raise UserError(too_few(where, len(photos), scene.views, refused))
    write(scene, photos, sources, refused)


def too_few(where: str, count: int, views: int, refused: list[str]) -> str:
    """The sentence on photos that are fewer than VIEWS, with what else is known."""
    return "; ".join([f"{where}: {count} photo{'s' * (count != 1)}, but VIEWS is {views}", *refused])


def check_imported(scene: Scene, sources: dict[str, str]) -> None:
    """Say what was left out when just these photos were imported.

    Raises:
        UserError: the scene was made of others.
    """
    record = json.loads(scene.photo_record.read_text()) if scene.photo_record.exists() else {}
    if record.get("sources") != sources:
        raise UserError(f"{scene.train}: exists and was not made of these photos; take another name or remove it")
    tell(record.get("refused", []), [])


def tell(refused: list[str], photos: list[Photo]) -> None:
    """Print what was left out, and what is not good about the rest."""
    for sentence in refused:
        print(f"left out: {sentence}", flush=True)
    for photo in photos:
        for notice in photo.notices:
            print(f"{photo.name}: {notice}", flush=True)


def write(scene: Scene, photos: list[Photo], sources: dict[str, str], refused: list[str]) -> None:
    """Write the scene's images, contact sheet and record."""
    tell(refused, photos)
    if any(photo.method == "grabcut" for photo in photos):
        sheet = scene.train / "contact_sheet.png"
        print(f"outlines were found by colour alone (GrabCut): check {sheet}", flush=True)
    images, shares = framed([photo.rgba for photo in photos], [photo.fov for photo in photos])
    fields_of_view, known = lenses(photos, shares)
    with atomic_file(scene.train / "contact_sheet.png") as partial:
        imageio.imwrite(partial, contact_sheet(photos, images))
    views = [{"photo": photo.name, "foreground": photo.method, "fov": photo.fov, "notices": photo.notices,
              FOV: field_of_view, SHARE: share}
             for photo, field_of_view, share in zip(photos, fields_of_view, shares)]  # fmt: skip
    write_json(scene.photo_record, {"sources": sources, "refused": refused, "views": views, FOV_KNOWN: known})
    with atomic_folder(scene.train / "images") as partial:
        for index, image in enumerate(images):
            imageio.imwrite(partial / f"{index:03d}.png", image)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--type", required=True)
    parser.add_argument("--object", required=True)
    parser.add_argument("--views", default="1", help="at least so many photos are wanted")
    parser.add_argument("--input", type=Path, nargs="+", required=True, help="a folder, a zip, or photos")
    arguments = parser.parse_args()
    scene = Scene(arguments.type, arguments.object, check_views(arguments.views))
    import_photos(scene, arguments.input)
    print(f"photos: {scene.train / 'images'}, contact sheet beside them")


if __name__ == "__main__":
    with one_line_errors():
        main()
