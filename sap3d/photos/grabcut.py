"""GrabCut (Rother et al. 2004): foregrounds told by colour, where there is no network or a person has set a point."""

import cv2
import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.morphology import remove_small_holes

from sap3d import images as im

GRABCUT_SIZE, GRABCUT_ITERATIONS = 384, 6
# About a point that a person has marked: colours that differ by so much, of 255, within so much of the longer side.
HINT_COLOURS, HINT_RADIUS = 24, 0.2
BORDER, SMALL_HOLE = 0.03, 0.001  # shares of the frame: what is background for sure, and which holes are closed
BORDER_COLOURS = 8


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
