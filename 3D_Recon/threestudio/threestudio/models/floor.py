"""What the object stands on: photos from above do not see its underside."""

import torch
from torch import Tensor
from tqdm import tqdm

from sap3d.cameras.maths import SCENE_BOUND
from threestudio.models.renderers.culled import CulledRenderer

BISECTIONS = 7  # of SCENE_BOUND: half a hundredth of a unit


@torch.no_grad()
def find_floor(renderer: CulledRenderer, cameras: Tensor, masks: Tensor, spare: float) -> float:
    """The height up to which the field can be cut away from below before the photos' silhouettes get holes.

    Whatever hides behind an object's near lower edge is in all its silhouettes, so a field bulges there. Of the solids
    that fill the silhouettes the one with the highest flat base is taken.

    Args:
        cameras: of the photos, [N, 3].
        masks: the photos' alpha, [N, S, S].
        spare: share of the silhouettes, in the mean over photos, that may be lost.

    Returns:
        A height, at most the origin's. The renderer's own is left alone.
    """
    before, low, high = renderer.floor, -SCENE_BOUND, 0.0
    areas = masks.sum((1, 2)).clamp(min=1.0)

    def filled(floor: float) -> Tensor:
        renderer.floor = floor
        opacities = [renderer.image(camera, masks.shape[-1]).opacity for camera in cameras]
        return torch.minimum(torch.stack(opacities).cpu(), masks)

    whole = filled(-SCENE_BOUND)
    for _ in tqdm(range(BISECTIONS), desc="finding the floor", leave=False):
        middle = (low + high) / 2
        lost = ((whole - filled(middle)).sum((1, 2)) / areas).mean()
        low, high = (middle, high) if lost <= spare else (low, middle)
    renderer.floor = before
    return low
