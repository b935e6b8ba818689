"""Other places for some views of a configuration, by what the diffusion model makes of the rest.

Faces that look alike and flat things leave configurations in which one view, or two, stand half a turn off, or in which
everything is mirrored. No small turn leads out of these. So every view and every two are left out, and the model shows
where the others' volume looks like them.
"""

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from camerabooth.backbones.interface import DiffusionModel, Sources
from camerabooth.judge import angles, errors_on_object, unexpected
from sap3d.cameras.framing import centre, upright
from sap3d.cameras.maths import anchored, centred, principal_points

TURNS = 24  # places all round
SIZE = 32  # pixels of the images that are compared there
PAIRS = 6  # of no more views every two are moved together, too


@torch.no_grad()
def moves(model: DiffusionModel, photos: list[np.ndarray], cameras: Tensor, keep: int) -> Tensor:
    """Configurations [≤ keep + 1, N, C] like cameras [N, C] but for the place of a part of the views, and the mirrored
    one.

    Those come first whose moved views are least surprising there (`camerabooth.judge.unexpected`), compared with where
    they stand.

    Args:
        photos: uint8 RGBA, N ≥ 3.
    """
    images, seen_from = upright(centre(photos, principal_points(cameras)), centred(cameras), model.image_size)
    sources = model.embed_sources(images, seen_from)
    small = F.interpolate(images, size=(SIZE, SIZE), mode="area")
    found: list[tuple[float, Tensor]] = []
    for part in parts(len(cameras)):
        profile = surprises(model, sources, small, seen_from, part)
        drop = profile - profile[0]
        drop[[-1, 0, 1]] = math.inf  # where they stand
        minima = (drop <= drop.roll(1)) & (drop <= drop.roll(-1)) & drop.isfinite()
        for place in minima.nonzero()[:, 0].tolist():
            moved = cameras.clone()
            moved[part, 1] += place * (2 * math.pi / TURNS)
            found.append((drop[place].item(), moved))
    best = [moved for _, moved in sorted(found, key=lambda entry: entry[0])[:keep]]
    mirrored = cameras.clone()
    mirrored[:, 1] = -mirrored[:, 1]
    return anchored(torch.stack([mirrored, *best]))


def parts(views: int) -> list[list[int]]:
    """Every view, and every two of few; those of three views would be the third, seen from them."""
    pairs = itertools.combinations(range(views), 2) if 4 <= views <= PAIRS else ()
    return [[view] for view in range(views)] + [list(pair) for pair in pairs]


def surprises(model: DiffusionModel, sources: Sources, images: Tensor, cameras: Tensor, part: list[int]) -> Tensor:
    """`unexpected` errors of the images [N, 4, S, S] of a part of the views, made of all others, if that stood turned
    together by each of TURNS angles, from 0 on, in the mean over the part, [TURNS]."""
    rest = torch.tensor([view for view in range(len(cameras)) if view not in part])
    turned = cameras[part].repeat(TURNS, 1, 1)
    turned[..., 1] += torch.arange(TURNS, device=cameras.device)[:, None] * (2 * math.pi / TURNS)
    turned, wanted = turned.flatten(0, 1), images[part].repeat(TURNS, 1, 1, 1)
    means = model.conditional_mean(sources.select(rest), turned, torch.Generator().manual_seed(0), SIZE)
    errors = torch.cat([errors_on_object(*pair) for pair in zip(means.split(1), wanted.split(1), strict=True)])
    nearest = angles(turned, cameras[rest]).amin(1)
    return unexpected(model, errors, nearest).view(TURNS, -1).mean(1).cpu()
