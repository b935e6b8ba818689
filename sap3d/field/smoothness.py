"""How smooth grids are, on the CPU, compiled by Numba: mean squared differences of neighbouring nodes.

All of these are quadratic forms E = ½ v·∇E of the values v, so one pass over the rows of nodes gives a gradient and
with it the form. Planes are shared out among torch's threads; these change no digit of the gradients.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from sap3d.field.trilinear import compiled, in_parts


class Variation(torch.autograd.Function):
    """Total variation of fields [B, R, R, R, C], [B]: mean squared first differences, summed over the three axes."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        values = values.detach().contiguous()
        gradient = _variation(values)
        ctx.save_for_backward(gradient)
        return _form(values, gradient).sum((1, 2, 3, 4))

    @staticmethod
    def backward(ctx, upstream: Tensor) -> Tensor:
        return ctx.saved_tensors[0] * upstream[:, None, None, None, None]


class Roughness(torch.autograd.Function):
    """Of one field [R, R, R, 4]: the bending energy of its density and the total variation of its colour, [2].

    The former is the mean of squared second differences, summed over ordered pairs of axes (Duchon 1977); the latter is
    `Variation`, summed over channels.
    """

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        values = values.detach().contiguous()
        gradient = _variation(values[None])[0].mul_(values.shape[3])  # of a sum of means
        density, bending = values[..., 0].contiguous().numpy(), np.empty(values.shape[:3], np.float32)
        in_parts(partial(_bend, density, bending), len(values), len(values) ** 2)
        gradient[..., 0] = torch.from_numpy(bending)
        ctx.save_for_backward(gradient)
        forms = _form(values, gradient).sum((0, 1, 2))
        return torch.stack([forms[0], forms[1:].sum()])

    @staticmethod
    def backward(ctx, upstream: Tensor) -> Tensor:
        return ctx.saved_tensors[0] * upstream[[0, 1, 1, 1]]


def _form(values: Tensor, gradient: Tensor) -> Tensor:
    """½ v·∇E by node."""
    return (values * gradient) / 2


def _variation(values: Tensor) -> Tensor:
    """Gradients of the total variations of fields [B, R, R, R, C]."""
    batch, resolution, channels = len(values), values.shape[1], values.shape[4]
    rows, gradient = values.view(batch, resolution, resolution, -1).numpy(), torch.empty_like(values)
    share = 2 / (channels * resolution**2 * (resolution - 1))
    found = gradient.view(rows.shape).numpy()
    in_parts(partial(_vary, rows, channels, np.float32(share), found), batch * resolution, rows[0, 0].size)
    return gradient


@compiled
def _vary(rows, channels, share, found, begin, end):
    """Of planes `begin` to `end`, counted through all fields. Beyond its ends a row of nodes goes on as it ends."""
    last = rows.shape[1] - 1
    for plane in range(begin, end):
        field, k = plane // (last + 1), plane % (last + 1)
        for j in range(last + 1):
            here, out = rows[field, k, j], found[field, k, j]
            up, down = rows[field, min(k + 1, last), j], rows[field, max(k - 1, 0), j]
            left, right = rows[field, k, max(j - 1, 0)], rows[field, k, min(j + 1, last)]
            for i in range(len(here)):
                out[i] = share * (np.float32(4) * here[i] - up[i] - down[i] - left[i] - right[i])
            before, after = here[:-channels], here[channels:]
            lower, upper = out[:-channels], out[channels:]
            for i in range(len(before)):
                lower[i] += share * (before[i] - after[i])
            for i in range(len(before)):
                upper[i] += share * (after[i] - before[i])


@compiled
def _steps(place, last, weights):
    """Row `place` of DᵀD for first differences D, around its diagonal, [3]."""
    weights[0] = -1 if place > 0 else 0
    weights[2] = -1 if place < last else 0
    weights[1] = -weights[0] - weights[2]


@compiled
def _bends(place, last, weights):
    """Row `place` of DᵀD for second differences D, around its diagonal, [5]."""
    weights[:] = 0
    for middle in range(max(place - 1, 1), min(place + 1, last - 1) + 1):
        factor = np.float32(-2 if middle == place else 1)
        offset = middle - place + 2
        weights[offset - 1] += factor
        weights[offset] -= 2 * factor
        weights[offset + 1] += factor


@compiled
def _add_row(out, factor, row):
    for i in range(len(out)):
        out[i] += factor * row[i]


@compiled
def _bend(values, found, begin, end):
    """Gradient of the bending energy of [R, R, R], of planes `begin` to `end`."""
    size = len(values)
    last = size - 1
    straight, twisted = np.float32(2 / (size**2 * (size - 2))), np.float32(4 / (size * (size - 1) ** 2))
    bends_k, bends_j = np.zeros(5, np.float32), np.zeros(5, np.float32)
    steps_k, steps_j = np.zeros(3, np.float32), np.zeros(3, np.float32)
    sides, single = np.zeros(size, np.float32), np.zeros(size, np.float32)
    for k in range(begin, end):
        _bends(k, last, bends_k)
        _steps(k, last, steps_k)
        for j in range(size):
            _bends(j, last, bends_j)
            _steps(j, last, steps_j)
            out = found[k, j]
            out[:] = 0
            for a in range(5):
                if bends_k[a]:
                    _add_row(out, straight * bends_k[a], values[k + a - 2, j])
                if bends_j[a]:
                    _add_row(out, straight * bends_j[a], values[k, j + a - 2])
            for a in range(3):
                for b in range(3):
                    if steps_k[a] * steps_j[b]:
                        _add_row(out, twisted * steps_k[a] * steps_j[b], values[k + a - 1, j + b - 1])
            sides[:] = 0
            for a in range(3):
                if steps_k[a]:
                    _add_row(sides, steps_k[a], values[k + a - 1, j])
                if steps_j[a]:
                    _add_row(sides, steps_j[a], values[k, j + a - 1])
            for i in range(size - 1):
                single[i] = twisted * (sides[i] - sides[i + 1])
            _add_row(out[:-1], np.float32(1), single[:-1])
            _add_row(out[1:], np.float32(-1), single[:-1])
            row = values[k, j]
            for i in range(size - 2):
                single[i] = straight * (row[i] - np.float32(2) * row[i + 1] + row[i + 2])
            _add_row(out[:-2], np.float32(1), single[:-2])
            _add_row(out[1:-1], np.float32(-2), single[:-2])
            _add_row(out[2:], np.float32(1), single[:-2])
