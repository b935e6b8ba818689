"""Rays through dense grids on the CPU, compiled by Numba: what `rendering.integrate` computes, and its gradients.

A ray is marched from front to back, some samples at a time. What is empty or hidden is not looked at, and the backward
pass computes the samples anew. Rays are shared out among torch's threads; these change no digit.
"""

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


class March(torch.autograd.Function):
    """Rays of F grids, N in all, an equal number of each in turn; all in float32.

    Args:
        table: raw values of the nodes, [F · R³, 4].
        origins, directions: [N, 3].
        near, far: [N].
        bins: of the samples, [M, S]; ray n has row n % M.
        resolution: R.
        activation: scale and shift of the density.
        occupied: of an `Occupancy`, uint8 [side³]; empty: all of the sphere.
        floor: its height.

    Returns:
        [N, 6]: colour, opacity, depth and distortion of `rendering.Rendering`. The distortion's gradient is that of the
        weights alone.
    """

    @staticmethod
    def forward(ctx, table, origins, directions, near, far, bins, resolution, activation, occupied, floor) -> Tensor:
        tensors = [each.detach().contiguous() for each in (table, origins, directions, near, far, bins)]
        fields = len(table) // resolution**3
        ctx.space = (resolution, max(len(near) // fields, 1), *activation, occupied, floor)
        arrays = [each.numpy() for each in tensors]
        shown = np.empty((len(near), 6), np.float32)
        in_parts(partial(_show, *arrays, *ctx.space, shown), len(near), bins.shape[-1])
        shown = torch.from_numpy(shown)
        ctx.save_for_backward(*tensors, shown)
        return shown

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        *arrays, shown = (each.numpy() for each in ctx.saved_tensors)
        rays, samples = len(shown), arrays[5].shape[1]
        counts = np.empty(rays, np.int64)
        raws = np.empty((rays, samples, 4), np.float32)
        ways = np.zeros((rays, 8), np.float32)
        posed = any(ctx.needs_input_grad[1:5])
        upstream = gradient.contiguous().numpy()
        in_parts(partial(_trace_back, *arrays, *ctx.space, shown, upstream, posed, counts, raws, ways), rays, samples)
        table = None
        if ctx.needs_input_grad[0]:
            table = np.zeros_like(arrays[0])
            # A thread has planes of nodes of its own, and meets all samples in their order.
            in_parts(partial(_scatter, *arrays[1:], *ctx.space[:2], counts, raws, table), len(table))
            table = torch.from_numpy(table)
        ways = torch.from_numpy(ways)
        parts = (ways[:, :3], ways[:, 3:6], ways[:, 6], ways[:, 7]) if posed else (None,) * 4
        return table, *parts, None, None, None, None, None


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
def _look(
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
def _activate(seen, optical_scale, shift, count, active):
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


@compiled
def _show(
    table, origins, directions, near, far, bins, resolution, per_field, scale, shift, occupied, floor, shown, begin, end
):
    samples, side = bins.shape[1], round(len(occupied) ** (1 / 3))
    floor, scale, shift = np.float32(floor), np.float32(scale), np.float32(shift)
    unit = np.float32(1 / (2 * SCENE_BOUND))
    zero, one, two, third = np.float32(0), np.float32(1), np.float32(2), np.float32(1 / 3)
    cells, seen = np.empty(CHUNK, np.int64), np.zeros((9, CHUNK), np.float32)
    active = np.empty((6, CHUNK), np.float32)
    for ray in range(begin, end):
        dx, dy, dz = directions[ray, 0], directions[ray, 1], directions[ray, 2]
        step = (far[ray] - near[ray]) / np.float32(samples)
        length = step * np.sqrt(dx * dx + dy * dy + dz * dz)
        through, before, moment, reached, spread = one, zero, zero, zero, zero
        red, green, blue = zero, zero, zero
        for chunk in range(0, samples, CHUNK):
            count = min(CHUNK, samples - chunk)
            _look(
                table, origins, directions, near[ray], step, bins, resolution, ray // per_field,
                occupied, side, floor, ray, chunk, count, cells, seen,
            )  # fmt: skip
            _activate(seen, scale * length, shift, count, active)
            for i in range(count):
                if cells[i] == -2:
                    continue
                weight = through * (one - active[2, i])
                through *= active[2, i]
                red += weight * active[3, i]
                green += weight * active[4, i]
                blue += weight * active[5, i]
                middle = seen[0, i] * unit
                spread += two * weight * (middle * before - moment) + weight * weight * step * unit * third
                before += weight
                moment += weight * middle
                reached += weight * seen[0, i]
            if through < HIDDEN:
                break
        shown[ray, 0], shown[ray, 1], shown[ray, 2] = red, green, blue
        shown[ray, OPACITY], shown[ray, DEPTH], shown[ray, DISTORTION] = one - through, reached, spread


@compiled
def _trace_back(
    table, origins, directions, near, far, bins, resolution, per_field, scale, shift, occupied, floor,
    shown, gradient, posed, counts, raws, ways, begin, end,
):  # fmt: skip
    """Gradients of the loss.

    With T the transmittance, w = T (1 − exp(−τ)) a sample's weight and v what a unit of it adds to the loss, the
    gradient of an optical depth τ is T exp(−τ) v less Σ w v of all samples behind, plus the opacity's (1 − opacity).

    Fills:
        counts: how many samples of a ray were looked at, int64 [N].
        raws: gradients of these samples' raw values, [N, S, 4].
        ways: of origins, directions, near and far, where they are `posed`, [N, 8].
    """
    samples, side = bins.shape[1], round(len(occupied) ** (1 / 3))
    floor, scale, shift = np.float32(floor), np.float32(scale), np.float32(shift)
    unit, share = np.float32(1 / (2 * SCENE_BOUND)), np.float32(1 / samples)
    zero, one, two, third = np.float32(0), np.float32(1), np.float32(2), np.float32(1 / 3)
    cells, seen = np.empty(CHUNK, np.int64), np.zeros((9, CHUNK), np.float32)
    active = np.empty((6, CHUNK), np.float32)
    for ray in range(begin, end):
        of_red, of_green, of_blue = gradient[ray, 0], gradient[ray, 1], gradient[ray, 2]
        of_depth, of_spread = gradient[ray, DEPTH], gradient[ray, DISTORTION]
        dx, dy, dz = directions[ray, 0], directions[ray, 1], directions[ray, 2]
        step, norm = (far[ray] - near[ray]) * share, np.sqrt(dx * dx + dy * dy + dz * dz)
        length = step * norm
        of_opaque = gradient[ray, OPACITY] * (one - shown[ray, OPACITY])
        behind = of_red * shown[ray, 0] + of_green * shown[ray, 1] + of_blue * shown[ray, 2]
        # The distortion is quadratic in the weights: Σ w ∂/∂w is twice itself.
        behind += of_depth * shown[ray, DEPTH] + two * of_spread * shown[ray, DISTORTION]
        all_weight, all_moment = shown[ray, OPACITY], shown[ray, DEPTH] * unit
        through, before, moment, of_length = one, zero, zero, zero
        counts[ray] = 0
        for chunk in range(0, samples, CHUNK):
            count = min(CHUNK, samples - chunk)
            _look(
                table, origins, directions, near[ray], step, bins, resolution, ray // per_field,
                occupied, side, floor, ray, chunk, count, cells, seen,
            )  # fmt: skip
            _activate(seen, scale * length, shift, count, active)
            counts[ray] = chunk + count
            for i in range(count):
                sample, depth = chunk + i, seen[0, i]
                if cells[i] == -2:
                    for c in range(4):
                        raws[ray, sample, c] = 0
                    continue
                red, green, blue, passed = active[3, i], active[4, i], active[5, i], active[2, i]
                weight = through * (one - passed)
                through *= passed
                middle = depth * unit
                farther = all_moment - moment - weight * middle - middle * (all_weight - before - weight)
                of_weight = of_red * red + of_green * green + of_blue * blue + of_depth * depth
                of_weight += of_spread * two * (middle * before - moment + farther + weight * step * unit * third)
                before += weight
                moment += weight * middle
                behind -= weight * of_weight
                of_optical = through * of_weight - behind + of_opaque
                of_length += of_optical * scale * active[0, i]
                raws[ray, sample, 0] = of_optical * length * scale * active[1, i]
                raws[ray, sample, 1] = weight * of_red * red * (one - red)
                raws[ray, sample, 2] = weight * of_green * green * (one - green)
                raws[ray, sample, 3] = weight * of_blue * blue * (one - blue)
                if posed:
                    of_place = weight * of_depth
                    if cells[i] >= 0:
                        gx, gy, gz = _slopes(table, cells[i], resolution, seen[2:5, i], raws[ray, sample])
                        ways[ray, 0] += gx
                        ways[ray, 1] += gy
                        ways[ray, 2] += gz
                        ways[ray, 3] += gx * depth
                        ways[ray, 4] += gy * depth
                        ways[ray, 5] += gz * depth
                        of_place += gx * dx + gy * dy + gz * dz
                    ways[ray, 6] += of_place * (one - seen[1, i] * share)
                    ways[ray, 7] += of_place * seen[1, i] * share
            if through < HIDDEN:
                break
        if posed:
            ways[ray, 3] += of_length * step * dx / norm
            ways[ray, 4] += of_length * step * dy / norm
            ways[ray, 5] += of_length * step * dz / norm
            ways[ray, 6] -= of_length * norm * share
            ways[ray, 7] += of_length * norm * share


@compiled
def _slopes(table, first, resolution, place, gradient):
    """Gradient in a sample's world point of that in its raw values [4], in the cell that begins in row `first`."""
    beside, above = resolution, resolution * resolution
    low, high = first + beside, first + above
    top = high + beside
    a, b = _dot(table, first, gradient), _dot(table, first + 1, gradient)
    c, d = _dot(table, low, gradient), _dot(table, low + 1, gradient)
    e, f = _dot(table, high, gradient), _dot(table, high + 1, gradient)
    g, h = _dot(table, top, gradient), _dot(table, top + 1, gradient)
    x, y, z = place[0], place[1], place[2]
    b, d, f, h = b - a, d - c, f - e, h - g  # along x
    gx = (b + (d - b) * y) + ((f + (h - f) * y) - (b + (d - b) * y)) * z
    a, c, e, g = a + b * x, c + d * x, e + f * x, g + h * x
    c, g = c - a, g - e  # along y
    gy = c + (g - c) * z
    gz = (e + g * y) - (a + c * y)
    spacing = np.float32((resolution - 1) / (2 * SCENE_BOUND))
    return gx * spacing, gy * spacing, gz * spacing


@compiled
def _dot(table, row, gradient):
    return (
        table[row, 0] * gradient[0]
        + table[row, 1] * gradient[1]
        + table[row, 2] * gradient[2]
        + table[row, 3] * gradient[3]
    )


@compiled
def _scatter(origins, directions, near, far, bins, resolution, per_field, counts, raws, found, begin, end):
    """Add the samples' gradients to those of the table's planes of nodes that begin from row `begin` to `end`."""
    beside, above = resolution, resolution * resolution
    spacing, bound = np.float32((resolution - 1) / (2 * SCENE_BOUND)), np.float32(SCENE_BOUND)
    for ray in range(len(near)):
        step, row = (far[ray] - near[ray]) / np.float32(bins.shape[1]), ray % len(bins)
        field = ray // per_field
        for sample in range(counts[ray]):
            of_raw, of_red = raws[ray, sample, 0], raws[ray, sample, 1]
            of_green, of_blue = raws[ray, sample, 2], raws[ray, sample, 3]
            if of_raw == 0 and of_red == 0 and of_green == 0 and of_blue == 0:
                continue
            depth = near[ray] + bins[row, sample] * step
            x = (origins[ray, 0] + depth * directions[ray, 0] + bound) * spacing
            y = (origins[ray, 1] + depth * directions[ray, 1] + bound) * spacing
            z = (origins[ray, 2] + depth * directions[ray, 2] + bound) * spacing
            first, x, y, z = locate(x, y, z, field, resolution)
            if first < 0:
                continue
            weights = corners(x, y, z)
            plane = first // above * above
            if begin <= plane < end:
                _add(found, first, of_raw, of_red, of_green, of_blue, weights[0])
                _add(found, first + 1, of_raw, of_red, of_green, of_blue, weights[1])
                _add(found, first + beside, of_raw, of_red, of_green, of_blue, weights[2])
                _add(found, first + beside + 1, of_raw, of_red, of_green, of_blue, weights[3])
            first += above
            if begin <= plane + above < end:
                _add(found, first, of_raw, of_red, of_green, of_blue, weights[4])
                _add(found, first + 1, of_raw, of_red, of_green, of_blue, weights[5])
                _add(found, first + beside, of_raw, of_red, of_green, of_blue, weights[6])
                _add(found, first + beside + 1, of_raw, of_red, of_green, of_blue, weights[7])


@compiled
def _add(found, row, of_raw, of_red, of_green, of_blue, weight):
    found[row, 0] += weight * of_raw
    found[row, 1] += weight * of_red
    found[row, 2] += weight * of_green
    found[row, 3] += weight * of_blue
