"""The hash grid against closed forms, and in a run of stage 3."""

import pytest
import torch

from sap3d.cameras.maths import SCENE_BOUND
from sap3d.field import grid as dense
from threestudio.models.geometry.dense_grid import DenseGrid
from threestudio.models.geometry.hash_grid import HashGrid, interpolate


def test_a_dense_level_is_trilinear_interpolation():
    side, generator = 7, torch.Generator().manual_seed(0)
    table = torch.randn(side**3, 2, generator=generator)
    unit = torch.rand(200, 3, generator=generator)
    grid = table.T.view(1, 2, side, side, side)  # indexed [channel, z, y, x]
    expected = dense.sample(grid, ((2 * unit - 1) * SCENE_BOUND)[None])[0]
    torch.testing.assert_close(interpolate(table, side, unit), expected, atol=1e-5, rtol=1e-4)


def test_a_hashed_level_interpolates_its_corners():
    side, table = 50, torch.randn(512, 3, generator=torch.Generator().manual_seed(0))
    node = torch.tensor([[3.0, 40.0, 17.0], [4.0, 40.0, 17.0]]) / (side - 1)
    entry = (3 ^ (40 * 2_654_435_761) ^ (17 * 805_459_861)) % 512
    first, second = interpolate(table, side, node)
    torch.testing.assert_close(first, table[entry], atol=1e-3, rtol=1e-3)
    middle = interpolate(table, side, node.mean(0, keepdim=True))[0]
    torch.testing.assert_close(middle, (first + second) / 2, atol=1e-3, rtol=1e-3)


def tiny(resolution: int = 16) -> HashGrid:
    torch.manual_seed(0)
    return HashGrid(HashGrid.Config([[0, resolution]], levels=4, base=4, finest=32, log2_entries=10, hidden=16))


def test_the_regular_grid_holds_the_fields_values():
    field = tiny(8)
    for table in field.tables:
        torch.nn.init.normal_(table)
    grid = field.grid
    axis = torch.linspace(-SCENE_BOUND, SCENE_BOUND, 8)
    points = torch.stack([axis[[1, 5]], axis[[2, 0]], axis[[7, 3]]], -1)
    torch.testing.assert_close(grid[0, :, [7, 3], [2, 0], [1, 5]].T, field.raw(points))


def test_finer_levels_wait_for_their_milestone():
    field = tiny(8)
    unit = torch.rand(10, 3)
    assert field.sides == [4, 8, 16, 32]
    assert (field.encode(unit).view(10, 4, 2).abs().sum((0, 2)) > 0).tolist() == [True, True, False, False]
    field.resize(32)
    assert (field.encode(unit).view(10, 4, 2).abs().sum((0, 2)) > 0).all()


def test_roughness_is_the_density_s_squared_curvature_and_the_colour_s_squared_slope():
    def raw(points):
        x, y, _ = points.unbind(-1)
        return torch.stack([x**2 + 3 * x * y + 5 * y, x, 2 * y, x + 3 * y], -1)

    dense_field, hashed = DenseGrid(DenseGrid.Config([[0, 9]])), tiny(9)
    axis = torch.linspace(-SCENE_BOUND, SCENE_BOUND, 9)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    dense_field.load({"grid": raw(torch.stack([x, y, z], -1)).permute(3, 0, 1, 2)})
    hashed.raw = raw
    expected = (2**2 + 2 * 3**2) * hashed.spacing**4, (1 + 4 + 1 + 9) * hashed.spacing**2
    for field in (dense_field, hashed):
        for value, known in zip(field.roughness(torch.Generator()), expected, strict=True):
            assert value.item() == pytest.approx(known, rel=1e-3)


def test_it_learns_a_ball_and_is_saved():
    field, other = tiny(32), tiny(8)
    optimizer = torch.optim.Adam(field.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        points = (2 * torch.rand(2048, 3, generator=generator) - 1) * SCENE_BOUND
        inside = (points.norm(dim=-1) < 0.4).float()
        loss = (field.raw(points)[:, 0] - 10 * inside).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 4  # 19 at the start
    other.load(field.state())
    torch.testing.assert_close(other.grid, field.grid)
