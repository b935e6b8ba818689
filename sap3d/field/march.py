"""Rays through dense grids on the CPU, compiled by Numba: what `rendering.integrate` computes, and its gradients.

A ray is marched from front to back, some samples at a time. What is empty or hidden is not looked at, and the backward
pass computes the samples anew (march_back.py). Rays are shared out among torch's threads; these change no digit.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from sap3d.cameras.maths import SCENE_BOUND
from sap3d.field.march_back import scatter, trace_back
from sap3d.field.samples import CHUNK, DEPTH, DISTORTION, HIDDEN, OPACITY, activate, look
from sap3d.field.trilinear import compiled, in_parts


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
        in_parts(partial(trace_back, *arrays, *ctx.space, shown, upstream, posed, counts, raws, ways), rays, samples)
        table = None
        if ctx.needs_input_grad[0]:
            table = np.zeros_like(arrays[0])
            # A thread has planes of nodes of its own, and meets all samples in their order.
            in_parts(partial(scatter, *arrays[1:], *ctx.space[:2], counts, raws, table), len(table))
            table = torch.from_numpy(table)
        ways = torch.from_numpy(ways)
        parts = (ways[:, :3], ways[:, 3:6], ways[:, 6], ways[:, 7]) if posed else (None,) * 4
        return table, *parts, None, None, None, None, None


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
            look(
                table, origins, directions, near[ray], step, bins, resolution, ray // per_field,
                occupied, side, floor, ray, chunk, count, cells, seen,
            )  # fmt: skip
            activate(seen, scale * length, shift, count, active)
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
