"""What is wrong with a photo: what will not do (`problem`), and what will do worse than it might (`notices`)."""

import cv2
import numpy as np
from scipy import ndimage

# Shares of the frame that are no object, too small or too large; of the outline that lies on the frame's border; of the
# colours that object and background have in common.
NOTHING, SMALLEST, LARGEST, CUT_OFF, ALIKE = 0.0005, 0.01, 0.9, 0.1, 0.6
# How far from the frame's border, as a share of its longer side, each mask may end that goes on to it.
MARGINS = {"network": 0.01, "grabcut": 0.035}
OUTPUT = 320  # pixels a side, of U²-Net's masks
UNDECIDED = 0.5  # a network's mask of nothing: soft pixels over those of the foreground
DOUBTFUL = 0.02  # those of one that may be wrong: docs/CAPTURE.md
# Steepest slopes at a fine scale over those at a coarse one, in pixels, along the direction where they are least:
# 6 for a step, 1 for what is smeared over the coarse scale.
FINE, COARSE, BLURRED = 1.0, 6.0, 2.2
SECOND = 0.25  # a second part of so much of the first one's area may be a second object


def problem(rgba: np.ndarray, method: str) -> str | None:
    """Why there is no clear object in a photo, uint8 [H, W, 4] with its foreground as alpha, if there is none.

    Args:
        method: what told the foreground: alpha, network, grabcut or marked.
    """
    alpha = rgba[..., 3]
    mask = alpha > 127
    if mask.mean() < NOTHING or method == "network" and undecided(alpha) > UNDECIDED:
        return "no clear object in it"
    if mask.mean() < SMALLEST:
        return "the object is too small in it: go closer, or cut the picture down to it"
    if mask.mean() > LARGEST and not touches_all_sides(mask, method):
        return "the object fills the picture, or the background was not told from it"
    if cut_off(mask, MARGINS.get(method, 0.0)) and not touches_all_sides(mask, method):
        return "the object is cut off by the picture's edge"
    if method == "grabcut" and colours_in_common(rgba) > ALIKE:
        return "object and background look alike; take a plain background of another colour"
    return None


def notices(rgba: np.ndarray, method: str) -> list[str]:
    """What is not good about a photo that will do; arguments as `problem`'s."""
    said = []
    if sharpness(rgba) < BLURRED:
        said.append("blurred: hold still, or lean the camera on something")
    areas = np.sort(np.bincount(ndimage.label(rgba[..., 3] > 127)[0].ravel())[1:])
    if method == "network" and len(areas) > 1 and areas[-2] > SECOND * areas[-1]:
        said.append("two things in it: if only one is the object, take the other away or cut it out")
    return said


def undecided(alpha: np.ndarray) -> float:
    """Soft pixels of a network's mask over those of its foreground, without those that a sharp outline has.

    An outline is soft over one pixel of the network's output; of thin objects these are a large share.
    """
    mask = cv2.resize(alpha, (OUTPUT, OUTPUT), interpolation=cv2.INTER_AREA)
    inside, outside = (ndimage.binary_dilation(part, np.ones((3, 3))) for part in (mask > 191, mask < 64))
    soft = (mask > 63) & (mask < 192) & ~(inside & outside)
    return float(soft.sum() / max((mask > 127).sum(), 1))


def touches_all_sides(mask: np.ndarray, method: str) -> bool:
    """Whether the frame is a cut-out's bounding box, as phones crop them: then it cuts nothing off."""
    return method == "alpha" and all(edge.any() for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))


def cut_off(mask: np.ndarray, margin: float) -> bool:
    """Whether much of a mask's outline lies within a margin (a share of the longer side) of the frame's border."""
    pixels = round(margin * max(mask.shape))
    inner = mask[pixels : mask.shape[0] - pixels, pixels : mask.shape[1] - pixels]
    edge = np.concatenate([inner[0], inner[-1], inner[:, 0], inner[:, -1]])
    outline = (inner & ~ndimage.binary_erosion(inner, border_value=1)).sum() + edge.sum()
    return bool(edge.sum() > CUT_OFF * outline)


def sharpness(rgba: np.ndarray) -> float:
    """How much steeper edges on and about the object are at the fine scale than at the coarse one, where least so.

    The least over directions: a shaking hand smears along one.
    """
    grey = cv2.cvtColor(np.ascontiguousarray(rgba[..., :3]), cv2.COLOR_RGB2GRAY).astype(np.float32)
    about = ndimage.binary_dilation(rgba[..., 3] > 127, iterations=round(COARSE))
    slopes = []
    for scale in (FINE, COARSE):
        smooth = cv2.GaussianBlur(grey, (0, 0), scale)
        x, y = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
        turned = [x * np.cos(a) + y * np.sin(a) for a in np.arange(8) * np.pi / 8]
        slopes.append([np.percentile(abs(slope[about]), 99) for slope in turned])
    return float(min(fine / max(coarse, 1e-3) for fine, coarse in zip(*slopes)))


def colours_in_common(rgba: np.ndarray) -> float:
    """Intersection of the foreground's and the background's colour histograms, in [0, 1]."""
    lab = cv2.cvtColor(np.ascontiguousarray(rgba[..., :3]), cv2.COLOR_RGB2LAB) // 16
    bins = lab[..., 0].astype(int) * 256 + lab[..., 1] * 16 + lab[..., 2]
    inside, outside = (np.bincount(bins[part], minlength=4096) for part in (rgba[..., 3] > 200, rgba[..., 3] < 55))
    return float(np.minimum(inside / max(inside.sum(), 1), outside / max(outside.sum(), 1)).sum())
