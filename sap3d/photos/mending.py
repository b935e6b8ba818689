"""What a person does to a photo's outline: points, boxes and strokes of a brush, one after the other.

An edit is {"kind": "keep" or "remove", "tool": "point", "box" or "brush", "points": [[x, y], …], "radius": r}: places
in shares of width and height, the brush's radius as a share of the longer side. An edit changes what it was put on, in
the direction that was asked for, and nothing else.
"""

import cv2
import numpy as np
from scipy import ndimage

from sap3d.errors import UserError
from sap3d.photos.grabcut import GRABCUT_SIZE, cut, meant, soften

KINDS, TOOLS = ("keep", "remove"), ("point", "box", "brush")
WINDOW = 0.25  # about a point, share of the longer side: beyond it nothing changes
DOT = 0.015  # about a point: what surely changes, share of the longer side
MOST_POINTS, LARGEST_BRUSH = 2000, 0.2  # of a stroke


def check_edit(edit: dict) -> dict:
    """An edit that came from a browser, with what belongs to it alone.

    Raises:
        UserError: it is none.
    """
    try:
        points = [[float(x), float(y)] for x, y in edit["points"]]
        radius = float(edit.get("radius", 0.0))
        known = edit["kind"] in KINDS and edit["tool"] in TOOLS and 1 <= len(points) <= MOST_POINTS
        if not (known and np.isfinite(points).all() and 0 <= radius <= LARGEST_BRUSH):
            raise ValueError
        if edit["tool"] == "box" and len(points) != 2:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise UserError("this is no edit of an outline") from None
    inside = np.clip(points, 0.0, 1.0).tolist()
    return {"kind": edit["kind"], "tool": edit["tool"], "points": inside, "radius": radius}


def mend(rgb: np.ndarray, mask: np.ndarray, edit: dict) -> np.ndarray:
    """A mask after an edit.

    Args:
        rgb, mask: uint8 [H, W, 3] and [H, W].
        edit: as above.

    Returns:
        uint8 [H, W].
    """
    keep = edit["kind"] == "keep"
    if edit["tool"] == "brush":
        region = stroke(mask.shape, edit["points"], edit["radius"])
        return np.where(region, 255 * keep, mask).astype(np.uint8)
    if edit["tool"] == "box":
        region = box(mask.shape, edit["points"])
        if not keep:
            return np.where(region, 0, mask).astype(np.uint8)
        return np.where(region, boxed(rgb, region), 0).astype(np.uint8)
    return spread(rgb, mask, np.array(edit["points"][0]), keep)


def stroke(shape: tuple[int, int], points: list[list[float]], radius: float) -> np.ndarray:
    """Where a brush went, bool [H, W]."""
    height, width = shape
    pixels = [(round(x * width), round(y * height)) for x, y in points]
    drawn = np.zeros(shape, np.uint8)
    size = max(1, round(radius * max(shape)))
    for start, end in zip(pixels, pixels[1:] or pixels):
        cv2.line(drawn, start, end, 1, 2 * size)
    for point in pixels:
        cv2.circle(drawn, point, size, 1, -1)
    return drawn > 0


def box(shape: tuple[int, int], corners: list[list[float]]) -> np.ndarray:
    """A box between two corners, bool [H, W]."""
    height, width = shape
    (left, top), (right, bottom) = np.sort(np.array(corners), 0)
    y, x = (np.arange(side) + 0.5 for side in shape)
    rows, columns = (y >= top * height) & (y <= bottom * height), (x >= left * width) & (x <= right * width)
    return rows[:, None] & columns


def boxed(rgb: np.ndarray, region: np.ndarray) -> np.ndarray:
    """GrabCut's object within a box, all outside being background, uint8 [H, W]."""
    small = shrunk(rgb)
    labels = np.where(shrunk(region.astype(np.uint8) * 255) > 127, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    cv2.setRNGSeed(0)
    return soften(cut(small, labels), rgb.shape[1], rgb.shape[0])


def spread(rgb: np.ndarray, mask: np.ndarray, point: np.ndarray, keep: bool) -> np.ndarray:
    """A mask after a point to keep or to remove, which takes along what GrabCut finds to go with it nearby.

    Args:
        point: (x, y) in shares of width and height.
    """
    small = shrunk(rgb)
    before = shrunk(mask) > 127
    height, width = before.shape
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot(rows - point[1] * height, columns - point[0] * width) / max(height, width)
    seeds = (distance <= DOT) | meant(small, point)
    free = distance < WINDOW
    labels = np.where(before, cv2.GC_FGD, cv2.GC_BGD).astype(np.uint8)
    labels[free & before], labels[free & ~before] = cv2.GC_PR_FGD, cv2.GC_PR_BGD
    labels[seeds] = cv2.GC_FGD if keep else cv2.GC_BGD
    cv2.setRNGSeed(0)
    found = cut(small, labels)
    turned = (found & ~before if keep else ~found & before) | seeds
    # Of what turned, the part that the point is on.
    parts, _ = ndimage.label(turned)
    turned = np.isin(parts, np.unique(parts[seeds]))
    softened = soften(turned, mask.shape[1], mask.shape[0])
    return np.maximum(mask, softened) if keep else np.minimum(mask, 255 - softened)


def shrunk(picture: np.ndarray) -> np.ndarray:
    """A picture at the size that GrabCut sees."""
    scale = GRABCUT_SIZE / max(picture.shape[:2])
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
