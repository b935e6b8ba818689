"""The backward pass of march.py: gradients of what rays show in the nodes' values and in the rays, by Numba."""

import numpy as np

from sap3d.cameras.maths import SCENE_BOUND
from sap3d.field.samples import CHUNK, DEPTH, DISTORTION, HIDDEN, OPACITY, activate, look
from sap3d.field.trilinear import compiled, corners, locate


@compiled
def trace_back(
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
            look(
                table, origins, directions, near[ray], step, bins, resolution, ray // per_field,
                occupied, side, floor, ray, chunk, count, cells, seen,
            )  # fmt: skip
            activate(seen, scale * length, shift, count, active)
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
def scatter(origins, directions, near, far, bins, resolution, per_field, counts, raws, found, begin, end):
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
