"""Descents of cameras with voxels, from coarse to fine: what makes poses exact once they are about right."""

from collections.abc import Callable

from torch import Tensor

from camerabooth.judge import Judged
from sap3d.cameras.maths import anchored
from sap3d.field.synthesis import DESCENT, coarse_to_fine

# At most; toys' cameras 20° off gain most from the second, but two views drift apart.
DESCENTS, DESCENTS_OF_TWO = 2, 1


def descend(photos: Tensor, cameras: Tensor) -> Tensor:
    """Cameras [N, 3] after a joint fit of voxels and cameras to views [N, 4, S, S] from coarse to fine."""
    return anchored(coarse_to_fine(photos, cameras, DESCENT).cameras[0])


def descend_repeatedly(photos: Tensor, initial: Judged, examine: Callable[[Tensor], Judged]) -> Judged:
    """Poses after a descent and, where it makes them better, after further ones as long as they do.

    Each starts from new voxels: those of the descent before have learned the images where the cameras used to be.
    """
    found = examine(descend(photos, initial.cameras))
    most = DESCENTS if len(photos) > 2 else DESCENTS_OF_TWO
    for _ in range(most - 1 if found.better_than(initial) else 0):
        further = examine(descend(photos, found.cameras))
        if not further.better_than(found):
            break
        found = further
    return found
