"""Trilinear interpolation on the CPU and both its gradients, compiled by Numba: one pass over the points for each.

A table [F · R³, C] holds the nodes of F fields, x fastest. Positions [F · P, 3] are in units of nodes, P of each field
in turn. Outside a field's nodes values and gradients are zero.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numba
import numpy as np
import torch

ALONE = 20_000  # so many points are not worth a second thread


def compiled(function: Callable) -> Callable:
    """Compiled at its first call; what was compiled is kept for the next process, where there is a place for it."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # neither beside this file nor in the user's folder
        return numba.njit(function, **options)


def interpolate(table: np.ndarray, nodes: np.ndarray, points: int, resolution: int) -> np.ndarray:
    """Values at positions, [F · P, C]."""
    values = np.empty((len(nodes), table.shape[1]), table.dtype)
    in_parts(partial(_values, table, nodes, points, resolution, values), len(nodes))
    return values


def slopes(table: np.ndarray, nodes: np.ndarray, points: int, resolution: int, gradient: np.ndarray) -> np.ndarray:
    """Gradient in the positions of that in the values [F · P, C]: [F · P, 3]."""
    found = np.empty_like(nodes)
    in_parts(partial(_slopes, table, nodes, points, resolution, gradient, found), len(nodes))
    return found


def spread(shape: tuple[int, int], nodes: np.ndarray, points: int, resolution: int, gradient: np.ndarray) -> np.ndarray:
    """Gradient in a table of this shape of that in the values [F · P, C].

    In one thread, because the order of sums counts: the same for any number of threads.
    """
    found = np.zeros(shape, gradient.dtype)
    _spread(nodes, points, resolution, gradient, found)
    return found


def in_parts(kernel: Callable[[int, int], None], count: int, each: int = 1) -> None:
    """Run a kernel on the ranges (first, last) of 0 … count − 1, with torch's number of threads.

    Args:
        each: points that one of them is.
    """
    threads = torch.get_num_threads() if count * each > ALONE else 1
    if threads == 1:
        kernel(0, count)
        return
    ends = np.linspace(0, count, threads + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(kernel, ends[:-1], ends[1:]))


@compiled
def locate(x, y, z, field, resolution):
    """First row in the table of a position's cell, −1 outside the nodes, and where in the cell it is."""
    last = resolution - 1
    if not (0 <= x <= last and 0 <= y <= last and 0 <= z <= last):
        return -1, x, y, z
    i, j, k = min(int(x), last - 1), min(int(y), last - 1), min(int(z), last - 1)
    first = ((field * resolution + k) * resolution + j) * resolution + i
    return first, x - np.float32(i), y - np.float32(j), z - np.float32(k)


@compiled
def corners(x, y, z):
    """Weights of a cell's eight nodes, x fastest, for a place in it."""
    one = np.float32(1)
    a, b, c = one - x, one - y, one - z
    ab, xb, ay, xy = a * b, x * b, a * y, x * y
    return ab * c, xb * c, ay * c, xy * c, ab * z, xb * z, ay * z, xy * z


@compiled
def value_at(table, c, first, beside, above, weights):
    """Of channel c, in the cell that begins in row `first`; `beside` and `above` are rows to the next along y and z."""
    low, high = first + beside, first + above
    top = high + beside
    below = weights[0] * table[first, c] + weights[1] * table[first + 1, c]
    below += weights[2] * table[low, c] + weights[3] * table[low + 1, c]
    over = weights[4] * table[high, c] + weights[5] * table[high + 1, c]
    return below + (over + weights[6] * table[top, c] + weights[7] * table[top + 1, c])


@compiled
def _values(table, nodes, points, resolution, values, begin, end):
    beside, above = resolution, resolution * resolution
    for row in range(begin, end):
        first, x, y, z = locate(nodes[row, 0], nodes[row, 1], nodes[row, 2], row // points, resolution)
        if first < 0:
            values[row] = 0
            continue
        weights = corners(x, y, z)
        for c in range(table.shape[1]):
            values[row, c] = value_at(table, c, first, beside, above, weights)


@compiled
def _slopes_at(table, c, first, beside, above, x, y, z):
    """Along x, y and z, of what `value_at` gives, at a place in the cell."""
    a, ax = table[first, c], table[first + 1, c] - table[first, c]
    low = first + beside
    b, bx = table[low, c], table[low + 1, c] - table[low, c]
    high = first + above
    d, dx = table[high, c], table[high + 1, c] - table[high, c]
    high += beside
    e, ex = table[high, c], table[high + 1, c] - table[high, c]
    a, b, d, e = a + ax * x, b + bx * x, d + dx * x, e + ex * x
    ay, dy = b - a, e - d
    ax += (bx - ax) * y
    dx += (ex - dx) * y
    return ax + (dx - ax) * z, ay + (dy - ay) * z, d + dy * y - a - ay * y


@compiled
def _slopes(table, nodes, points, resolution, gradient, found, begin, end):
    beside, above = resolution, resolution * resolution
    for row in range(begin, end):
        first, x, y, z = locate(nodes[row, 0], nodes[row, 1], nodes[row, 2], row // points, resolution)
        found[row] = 0
        if first < 0:
            continue
        for c in range(table.shape[1]):
            along = _slopes_at(table, c, first, beside, above, x, y, z)
            for axis in range(3):
                found[row, axis] += gradient[row, c] * along[axis]


@compiled
def _spread(nodes, points, resolution, gradient, found):
    beside, above = resolution, resolution * resolution
    for row in range(len(nodes)):
        first, x, y, z = locate(nodes[row, 0], nodes[row, 1], nodes[row, 2], row // points, resolution)
        if first < 0:
            continue
        weights = corners(x, y, z)
        for c in range(gradient.shape[1]):
            for plane in range(2):
                low = first + plane * above
                found[low, c] += weights[4 * plane] * gradient[row, c]
                found[low + 1, c] += weights[4 * plane + 1] * gradient[row, c]
                found[low + beside, c] += weights[4 * plane + 2] * gradient[row, c]
                found[low + beside + 1, c] += weights[4 * plane + 3] * gradient[row, c]
