"""What is at a ray's samples in dense grids: kernels that march.py and march_back.py have in common, by Numba."""

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from sap3d.cameras.maths import SCENE_BOUND
from sap3d.field.trilinear import compiled, corners, in_parts, locate, value_at

CHUNK = 16  # samples at a time; loops over them are vectorised because their length is an argument
HIDDEN = 1e-5  # transmittance behind which nothing is looked at
COLOR, OPACITY, DEPTH, DISTORTION = slice(0, 3), 3, 4, 5  # columns of what rays show


def first_and_last(
    origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, samples: int, occupied: np.ndarray, floor: float
) -> tuple[Tensor, Tensor]:
    """The first and the last of a ray's samples that are in occupied space, int64 [N]; `samples` and −1 if none is."""
    arrays = [each.detach().contiguous().numpy() for each in (origins, directions, near, far)]
    found = np.empty((len(near), 2), np.int64)
    in_parts(partial(_find, *arrays, samples, occupied, floor, found), len(near), samples)
    return torch.from_numpy(found).unbind(1)


@compiled
def fast_exp(x):
    """exp of a float32 to 2e-7, by a power of two and a polynomial (as Cephes' expf); no call, so loops vectorise."""
    x = min(max(x, np.float32(-87)), np.float32(88))
    whole = np.float32(math.floor(x * np.float32(1.44269504) + np.float32(0.5)))
    rest = x - whole * np.float32(0.693359375) + whole * np.float32(2.12194440e-4)
    series = np.float32(1.9875691500e-4)
    series = series * rest + np.float32(1.3981999507e-3)
    series = series * rest + np.float32(8.3334519073e-3)
    series = series * rest + np.float32(4.1665795894e-2)
    series = series * rest + np.float32(1.6666665459e-1)
    series = series * rest + np.float32(5.0000001201e-1)
    power = np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)
    return (series * rest * rest + rest + np.float32(1)) * power


@compiled
def fast_log1p(x):
    """log(1 + x) of a float32 x ≥ 0 to 2e-7, by 2 artanh(s) with s = (m − 1) / (m + 1) of the mantissa m."""
    one = np.float32(1)
    y = np.float32(one + x)
    bits = y.view(np.int32)
    power = (bits - np.int32(0x3F3504F3)) >> np.int32(23)  # m between √½ and √2
    mantissa = np.int32(bits - (power << np.int32(23))).view(np.float32)
    # What 1 + x has lost of x.
    small = (x - (y - one)) / y
    s = (mantissa - one) / (mantissa + one)
    t = s * s
    series = np.float32(0.2222222222) + t * np.float32(0.1818181818)
    series = np.float32(0.2857142857) + t * series
    series = np.float32(0.4) + t * series
    series = np.float32(0.6666666667) + t * series
    return np.float32(power) * np.float32(0.69314718) + (s * (np.float32(2) + t * series) + small)


@compiled
def _is_occupied(x, y, z, occupied, side, floor):
    """As `Occupancy.contains`."""
    if z < floor:
        return False
    scale, bound = np.float32((side - 1) / (2 * SCENE_BOUND)), np.float32(SCENE_BOUND)
    if len(occupied) == 0:
        return x * x + y * y + z * z <= bound * bound
    i = min(max(int((x + bound) * scale + np.float32(0.5)), 0), side - 1)
    j = min(max(int((y + bound) * scale + np.float32(0.5)), 0), side - 1)
    k = min(max(int((z + bound) * scale + np.float32(0.5)), 0), side - 1)
    return occupied[i + side * (j + side * k)] != 0


@compiled
def _find(origins, directions, near, far, samples, occupied, floor, found, begin, end):
    side, floor = round(len(occupied) ** (1 / 3)), np.float32(floor)
    for ray in range(begin, end):
        first, last = samples, -1
        for sample in range(samples):
            depth = near[ray] + (far[ray] - near[ray]) * np.float32((sample + 0.5) / samples)
            x = origins[ray, 0] + depth * directions[ray, 0]
            y = origins[ray, 1] + depth * directions[ray, 1]
            z = origins[ray, 2] + depth * directions[ray, 2]
            if _is_occupied(x, y, z, occupied, side, floor):
                first, last = min(first, sample), sample
        found[ray, 0], found[ray, 1] = first, last


@compiled
def look(
    table,
    origins,
    directions,
    near,
    step,
    bins,
    resolution,
    field,
    occupied,
    side,
    floor,
    ray,
    begin,
    count,
    cells,
    seen,
):
    """Raw values, and the places in their cells, of a chunk of samples from `begin` on.

    Fills:
        cells: first rows of the cells, −1 outside the nodes and −2 where it is empty, int64 [CHUNK].
        seen: depth, bin, place in the cell and raw values, [9, CHUNK].
    """
    beside, above = resolution, resolution * resolution
    spacing, bound = np.float32((resolution - 1) / (2 * SCENE_BOUND)), np.float32(SCENE_BOUND)
    row = ray % len(bins)
    for i in range(count):
        cells[i] = -2
        for k in range(5, 9):
            seen[k, i] = 0
        place = bins[row, begin + i]
        depth = near + place * step
        x = origins[ray, 0] + depth * directions[ray, 0]
        y = origins[ray, 1] + depth * directions[ray, 1]
        z = origins[ray, 2] + depth * directions[ray, 2]
        seen[0, i], seen[1, i] = depth, place
        if not _is_occupied(x, y, z, occupied, side, floor):
            continue
        first, x, y, z = locate((x + bound) * spacing, (y + bound) * spacing, (z + bound) * spacing, field, resolution)
        cells[i], seen[2, i], seen[3, i], seen[4, i] = first, x, y, z
        if first >= 0:
            weights = corners(x, y, z)
            seen[5, i] = value_at(table, 0, first, beside, above, weights)
            seen[6, i] = value_at(table, 1, first, beside, above, weights)
            seen[7, i] = value_at(table, 2, first, beside, above, weights)
            seen[8, i] = value_at(table, 3, first, beside, above, weights)


@compiled
def activate(seen, optical_scale, shift, count, active):
    """Optical depth per unit of `optical_scale`, its slope, transmittance and colour of a chunk, [6, CHUNK]."""
    one = np.float32(1)
    for i in range(count):
        grown = fast_exp(seen[5, i] + shift)
        density = fast_log1p(grown)
        active[0, i] = density
        active[1, i] = grown / (one + grown)
        active[2, i] = fast_exp(-optical_scale * density)
    for k in range(3):
        for i in range(count):
            active[3 + k, i] = one / (one + fast_exp(-seen[6 + k, i]))
