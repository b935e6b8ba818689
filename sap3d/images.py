"""Image IO: RGBA in, square views with the object in the middle out, white compositing."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sap3d.errors import UserError

# Side of a square over the longer side of the foreground's bounding box: the median of the training views.
MARGIN = 1.68
FORMATS = ("PNG", "JPEG", "WEBP")  # PIL's other readers are not asked: damaged files break them in more ways
# What PIL raises for files that are no pictures.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
MAX_PIXELS = 100_000_000  # of a picture that is read


def read_rgba(path: Path, mask_path: Path | None = None) -> np.ndarray:
    """Read an image with its foreground.

    The alpha channel is the foreground; an RGB image needs `mask_path` (white is foreground).

    Returns:
        uint8 RGBA, [H, W, 4].

    Raises:
        UserError: unreadable, empty, without foreground information or with an empty foreground, or a mask of
            another size.
    """
    image = _open(path)
    if image.mode == "RGBA":
        rgba = np.array(image)
    elif mask_path is None or not mask_path.exists():
        raise UserError(f"{path}: no alpha channel and no mask{f' at {mask_path}' if mask_path else ''}")
    else:
        mask = _open(mask_path).convert("L")
        if mask.size != image.size:
            raise UserError(f"{mask_path}: {mask.size} pixels, but {path.name} has {image.size}")
        rgba = np.dstack([np.array(image), np.array(mask)])
    if (rgba[..., 3] > 127).sum() < 16:
        raise UserError(f"{path}: no foreground (alpha or mask is empty)")
    return rgba


def read_on_white(path: Path, size: int) -> np.ndarray:
    """Read a picture (RGB, or RGBA composited on white), resized to size × size, float32 in [0, 1], [size, size, 3].

    Raises:
        UserError: unreadable.
    """
    return resize(np.array(_open(path).convert("RGBA")), size)[..., :3]


def _open(path: Path) -> Image.Image:
    """The picture in mode RGBA where it has transparency, else RGB."""
    try:
        with Image.open(path, formats=FORMATS) as opened:
            check_picture(path, opened)
            transparent = opened.mode in ("RGBA", "LA", "PA") or "transparency" in opened.info
            return eight_bits(opened).convert("RGBA" if transparent else "RGB")
    except UNREADABLE as error:
        raise UserError(f"{path}: not a readable image ({error})") from error


def eight_bits(image: Image.Image) -> Image.Image:
    """A grey picture of 16 bits a pixel with 8, which PIL's own conversion would clip; any other as it is."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image, np.float32) / 256).clip(0, 255).astype(np.uint8))


def check_picture(path: Path, opened: Image.Image) -> None:
    """Refuse what only its header has been read of.

    Raises:
        UserError: too many pixels, or an animation.
    """
    if opened.width * opened.height > MAX_PIXELS:
        raise UserError(
            f"{path}: {opened.width}×{opened.height} pixels, at most {MAX_PIXELS // 10**6} million are read"
        )
    if getattr(opened, "n_frames", 1) > 1 and opened.format in ("PNG", "WEBP", "AVIF"):
        raise UserError(f"{path}: an animation, not a picture")


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """First row, row after the last, first column and column after the last where a bool mask [H, W] is set."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def recentre(rgba: np.ndarray, side: float | None = None) -> np.ndarray:
    """Crop a square around the foreground's bounding box, padding with transparency where it leaves the image.

    Args:
        rgba: uint8 [H, W, 4].
        side: of the square, pixels; by default MARGIN times the longer side of the bounding box.

    Returns:
        uint8 [S, S, 4].
    """
    first_row, end_row, first_column, end_column = bounding_box(rgba[..., 3] > 127)
    side = math.ceil(side or MARGIN * max(end_row - first_row, end_column - first_column))
    top = round((first_row + end_row - side) / 2)
    left = round((first_column + end_column - side) / 2)
    padded = np.pad(rgba, ((side, side), (side, side), (0, 0)))
    return padded[top + side : top + 2 * side, left + side : left + 2 * side]


def to_square(rgba: np.ndarray) -> np.ndarray:
    """A square image is framed already (its centre is the object's); any other is recentred on its foreground."""
    return rgba if rgba.shape[0] == rgba.shape[1] else recentre(rgba)


def resize(rgba: np.ndarray, size: int) -> np.ndarray:
    """Resize to size × size with an area filter, in premultiplied alpha so that no background bleeds in.

    Returns:
        float32 in [0, 1]: colour composited on white, and alpha, [size, size, 4].
    """
    image = rgba.astype(np.float32) / 255
    image[..., :3] *= image[..., 3:]
    if image.shape[0] != size:
        channels = [Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(4)]
        kernel = Image.Resampling.BOX if image.shape[0] % size == 0 else Image.Resampling.LANCZOS
        image = np.stack([np.array(channel.resize((size, size), kernel)) for channel in channels], -1)
    image[..., :3] += 1 - image[..., 3:]
    return image.clip(0, 1)


def straight_alpha(image: np.ndarray) -> np.ndarray:
    """Inverse of `resize`'s compositing: colour on white and alpha → RGBA not premultiplied, uint8 [..., 4]."""
    alpha = image[..., 3:]
    color = np.where(alpha > 0, (image[..., :3] - 1 + alpha) / alpha.clip(1e-3), 0)
    return to_uint8(np.concatenate([color, alpha], -1))


def to_tensor(images: list[np.ndarray], size: int) -> Tensor:
    """uint8 RGBA images → float tensor in [0, 1] of white-composited colour and alpha, [N, 4, size, size]."""
    return torch.from_numpy(np.stack([resize(image, size) for image in images])).permute(0, 3, 1, 2).contiguous()


def resample(images: Tensor, grid: Tensor) -> Tensor:
    """Colour on white and alpha, [N, 4, S, S], at `F.grid_sample`'s grid [N, H, W, 2]; white and empty outside."""
    premultiplied = torch.cat([images[:, :3] - 1 + images[:, 3:], images[:, 3:]], 1)
    color, alpha = F.grid_sample(premultiplied, grid, align_corners=False).split((3, 1), 1)
    return torch.cat([color + 1 - alpha, alpha], 1)


def turn(images: Tensor, rolls: Tensor) -> Tensor:
    """Views as cameras that are rolled by `rolls` more see them; white and empty where they saw nothing.

    Args:
        images: colour on white and alpha, [N, 4, S, S].
        rolls: radians, [N]; a positive one turns the camera counter-clockwise, and so the image clockwise.
    """
    cos, sin, zero = rolls.cos(), rolls.sin(), torch.zeros_like(rolls)
    # In image coordinates with y downwards: where the old image shows what a point of the new one does.
    theta = torch.stack([torch.stack([cos, sin, zero], -1), torch.stack([-sin, cos, zero], -1)], -2)
    return resample(images, F.affine_grid(theta, list(images.shape), align_corners=False))


def to_uint8(image: Tensor | np.ndarray) -> np.ndarray:
    """Values in [0, 1] of any shape → uint8."""
    array = image.detach().cpu().float().numpy() if isinstance(image, Tensor) else image
    return (array.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def sheet(images: np.ndarray, columns: int, pad: int = 2) -> np.ndarray:
    """Contact sheet of uint8 images [N, H, W, C], row by row on white."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    canvas = np.full((rows * (height + pad) + pad, columns * (width + pad) + pad, channels), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = (pad + (index // columns) * (height + pad), pad + (index % columns) * (width + pad))
        canvas[top : top + height, left : left + width] = image
    return canvas
