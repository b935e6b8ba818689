"""Foregrounds of photos: by their alpha channel where it says something, else by the network, else by GrabCut.

What is not the object's is left out again: specks of a cut-out, things that lie about.
"""

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from sap3d.photos.grabcut import grabcut
from sap3d.photos.network import segment
from sap3d.photos.quality import DOUBTFUL, undecided

# An alpha channel tells the object from the rest if their levels differ by so much and so large a share is the rest's:
# rounded corners say nothing.
LEVELS, REST = 64, 0.02
# A part belongs to the object if its gap to it is at most so many times the part's own size: both shoes of a pair do,
# and so does what hangs on by a thread that the mask has lost; a speck does not.
GAP = 0.5


def find_foreground(rgba: np.ndarray) -> tuple[np.ndarray, str, list[str]]:
    """Soft mask of the object in a photo, uint8 [H, W, 4].

    Returns:
        uint8 [H, W]; what found it (alpha, network or grabcut); sentences on what was left out and on its doubts.
    """
    said = []
    if (mask := cut_out(rgba[..., 3])) is not None:
        method = "alpha"
    elif (mask := segment(np.ascontiguousarray(rgba[..., :3]))) is not None:
        method = "network"
        if undecided(mask) > DOUBTFUL:  # as a whole: of several things it may be sure of the wrong one
            said.append("the outline is doubtful: see that it follows the object")
    else:
        mask, method = grabcut(np.ascontiguousarray(rgba[..., :3])), "grabcut"
    mask, dropped = one_object(mask)
    return mask, method, dropped + said


def cut_out(alpha: np.ndarray) -> np.ndarray | None:
    """An alpha channel [H, W] with the background at 0 and the object at 255; None if it tells no object.

    Some editors leave a half-transparent background: what separates the two is Otsu's threshold, not a level.
    """
    if np.ptp(alpha) < LEVELS:
        return None
    rest = alpha <= threshold_otsu(alpha)
    low, high = np.median(alpha[rest]), np.median(alpha[~rest])
    if high - low < LEVELS or rest.mean() < REST:
        return None
    return ((alpha - low) * (255 / (high - low))).clip(0, 255).round().astype(np.uint8)


def one_object(mask: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """A soft mask, uint8 [H, W], without what is not the object's, and a sentence on that, if there was any.

    The object is the part that has most of the area, that in the middle counting more, and what belongs to it by `GAP`,
    or to what so belongs. Soft pixels go with the nearest part.
    """
    parts, count = ndimage.label(mask > 127, np.ones((3, 3)))
    if count < 2:
        return mask, []
    height, width = mask.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    numbers = np.arange(1, count + 1)
    areas = ndimage.sum_labels(np.ones_like(x), parts, numbers)
    kept = {1 + int(np.argmax(ndimage.sum_labels(np.exp(-2 * (x**2 + y**2)), parts, numbers)))}
    while True:
        gaps = ndimage.minimum(ndimage.distance_transform_edt(~np.isin(parts, list(kept))), parts, numbers) - 1
        near = {int(number) for number in numbers[gaps <= GAP * np.sqrt(areas)]}
        if near <= kept:
            break
        kept |= near
    left_out = [number for number in numbers if number not in kept]
    if not left_out:
        return mask, []
    nearest = ndimage.distance_transform_edt(parts == 0, return_distances=False, return_indices=True)
    mask = np.where(np.isin(parts[tuple(nearest)], list(kept)), mask, 0)
    share = areas[np.array(left_out) - 1].sum() / areas[np.array(list(kept)) - 1].sum()
    what = "a part" if len(left_out) == 1 else f"{len(left_out)} parts"
    size = f"{share:.0%} of its size" if share >= 0.005 else "specks"
    return mask, [f"{what} beside the object left out ({size})"]
