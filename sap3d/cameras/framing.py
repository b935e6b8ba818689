"""Framing: the photos of one object, each with the object in the middle of its square, all at one scale.

With the bounding box in the middle of a photo, the object's own middle is beside it: a handle moves the box, and moves
it differently from side to side. Where the object's middle is, stage 1 finds out (docs/CONVENTIONS.md).
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from sap3d.cameras import maths as cam
from sap3d.images import MARGIN, bounding_box, resample, to_tensor, turn

# People stay at about one distance from what they photograph; boxes differ because objects are not round. Boxes that
# differ more come from other distances, or other zooms.
SAME_SCALE = 1.4


def square_sides(boxes: Tensor) -> Tensor:
    """Sides of the squares for photos with foreground boxes of longer sides [N]: the median's, or near one's own."""
    own = MARGIN * boxes
    return own.median().clamp(own / SAME_SCALE, own * SAME_SCALE)


def bounding_boxes(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Bounding boxes of masks [N, S, S].

    Returns:
        Middles in normalised image coordinates (x right, y down), [N, 2], and longer sides as shares of S, [N].
    """
    boxes = torch.tensor([bounding_box(mask) for mask in (masks > 0.5).numpy()]) / masks.shape[-1]
    top, bottom, left, right = boxes.unbind(-1)
    return torch.stack([left + right, top + bottom], -1) - 1, torch.maximum(bottom - top, right - left)


def reframe(images: Tensor) -> tuple[Tensor, Tensor]:
    """Views of one object as `sap3d.photos.import_photos` would frame them.

    Args:
        images: white-composited RGB + mask, [N, 4, S, S].

    Returns:
        Such images, and by what factor each shrank, [N]: a camera seems farther away by it.
    """
    middles, boxes = bounding_boxes(images[:, 3])
    scale = square_sides(boxes)
    theta = torch.cat([torch.eye(2) * scale[:, None, None], middles[..., None]], -1)
    return resample(images, F.affine_grid(theta, list(images.shape), align_corners=False)), scale


def centre(photos: list[np.ndarray], middles: Tensor) -> list[np.ndarray]:
    """Photos, uint8 RGBA [S, S, 4], moved by whole pixels so that `middles` come into the middle.

    Args:
        middles: normalised image coordinates (x right, y up), [N, 2].
    """
    moved = []
    for photo, middle in zip(photos, middles.tolist(), strict=True):
        x, y = (round(coordinate * photo.shape[0] / 2) for coordinate in middle)
        moved.append(ndimage.shift(photo, (y, -x, 0), order=0) if x or y else photo)
    return moved


def upright(photos: list[np.ndarray] | Tensor, cameras: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Small views for networks, which know upright ones alone.

    Args:
        photos: of `centre`, uint8 RGBA; or colour on white and alpha, [N, 4, S, S].
        cameras: [N, 3] or [N, 7], where the views are wanted.

    Returns:
        Colour on white and alpha, turned by the cameras' rolls where they have any, [N, 4, size, size], and the cameras
        that see them.
    """
    rolled = cameras.shape[-1] == 7 and bool(cameras[:, 5].any())
    images = photos
    if not isinstance(photos, Tensor):
        images = to_tensor(photos, 2 * size if rolled else size).to(cameras.device)
    if rolled:  # at twice the size, so that little is lost
        images = turn(images, -cameras[:, 5].to(images.device))
    if images.shape[-1] != size:
        images = F.interpolate(images, size=(size, size), mode="area")
    return images, cam.upright(cameras)
