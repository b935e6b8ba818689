"""What photos have and renders lack: exposure, white balance and imperfect masks of a batch, and blur."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

EXPOSURE, WHITE_BALANCE = 0.08, 0.03  # standard deviations of the logarithms of gains


def photo_errors(images: Tensor, generator: torch.Generator) -> Tensor:
    """Photo-like images from renders.

    Half of the objects keep perfect photos; of the others' views each has its own exposure and white balance, and each
    third one a mask that is a pixel too small or too large.

    Args:
        images: colour on white and alpha in [0, 1], [B, N, 4, S, S].
    """
    batch, views = images.shape[:2]
    on = {"generator": generator, "device": generator.device}

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, **on).to(images.device)

    imperfect = (torch.rand(batch, 1, 1, 1, 1, **on) < 0.5).to(images.device)
    gain = EXPOSURE * normal(batch, views, 1, 1, 1) + WHITE_BALANCE * normal(batch, views, 3, 1, 1)
    alpha = images[:, :, 3:]
    colour = (images[:, :, :3] - 1 + alpha) * (gain * imperfect).exp()  # premultiplied
    kind = torch.randint(6, (batch, views, 1, 1, 1), **on).to(images.device) * imperfect
    flat = alpha.flatten(0, 1)
    eroded = -F.max_pool2d(-flat, 3, 1, 1).unflatten(0, (batch, views))
    dilated = F.max_pool2d(flat, 3, 1, 1).unflatten(0, (batch, views))
    # What a mask that is too large takes in is some background.
    background = torch.rand(batch, views, 3, 1, 1, **on).to(images.device)
    small, large = kind == 1, kind == 2
    colour = torch.where(small, colour * (eroded / alpha.clamp(min=1e-3)), colour)
    colour = torch.where(large, colour + (dilated - alpha) * background, colour)
    alpha = torch.where(small, eroded, torch.where(large, dilated, alpha))
    return torch.cat([(colour + 1 - alpha).clamp(0, 1), alpha], 2)


def motion_kernel(length: float, angle: float) -> np.ndarray:
    """A kernel that averages along a line of so many pixels, [K, K]; the angle is in radians."""
    half = int(length / 2) + 1
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kernel = (1 - abs(across)).clip(0) * (abs(along) <= length / 2)
    return kernel / kernel.sum()
