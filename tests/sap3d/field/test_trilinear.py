import numba
import numpy as np
import torch

from sap3d.field import trilinear


def test_threads_change_no_digit():
    rng = np.random.default_rng(0)
    fields, points, resolution = 3, trilinear.ALONE, 6
    table = rng.standard_normal((fields * resolution**3, 4), np.float32)
    nodes = rng.uniform(-1, resolution, (fields * points, 3)).astype(np.float32)
    gradient = rng.standard_normal((len(nodes), 4), np.float32)
    found, before = [], torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        values = trilinear.interpolate(table, nodes, points, resolution)
        found.append((values, trilinear.slopes(table, nodes, points, resolution, gradient)))
    torch.set_num_threads(before)
    assert all(np.array_equal(one, many) for one, many in zip(*found))
    assert len(found[0][0].nonzero()[0]) > 1000, "and nothing was left out"


def test_gradients_are_the_slopes_of_the_values():
    rng = np.random.default_rng(1)
    table, resolution = rng.standard_normal((27, 2)), 3
    nodes, gradient = rng.uniform(0.1, 0.9, (5, 3)) + [0, 1, 0], rng.standard_normal((5, 2))

    def loss(table, nodes):
        return (trilinear.interpolate(table, nodes, 5, resolution) * gradient).sum()

    slopes = trilinear.slopes(table, nodes, 5, resolution, gradient)
    spread = trilinear.spread(table.shape, nodes, 5, resolution, gradient)
    for each, found in ((nodes, slopes), (table, spread)):
        for place in np.ndindex(each.shape):
            step = np.zeros_like(each)
            step[place] = 1e-6
            moved = [
                (table, nodes + sign * step) if each is nodes else (table + sign * step, nodes) for sign in (1, -1)
            ]
            slope = (loss(*moved[0]) - loss(*moved[1])) / 2e-6
            assert abs(slope - found[place]) < 1e-5


def test_without_a_place_for_it_it_is_compiled_anew(monkeypatch):
    njit = numba.njit

    def nowhere(function, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(function, **options)

    monkeypatch.setattr(numba, "njit", nowhere)

    def double(x):
        return 2 * x

    assert trilinear.compiled(double)(2.5) == 5.0
