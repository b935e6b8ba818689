import pytest

from sap3d.errors import UserError
from threestudio.config import build, ever, milestone, scheduled
from threestudio.models.geometry.dense_grid import DenseGrid

GRID = "threestudio.models.geometry.dense_grid.DenseGrid"


def test_schedule_is_constant_linear_constant():
    schedule = [10, 1.0, 3.0, 20]
    assert [scheduled(schedule, step) for step in (0, 10, 15, 20, 99)] == [1.0, 1.0, 2.0, 3.0, 3.0]
    assert scheduled(0.5, 7) == 0.5
    assert [ever(value) for value in (0, 0.1, [9, 0.0, 0.0, 20], [9, 0.0, 1.0, 20], [9, 1.0, 0.0, 20])] == [
        0,
        1,
        0,
        1,
        1,
    ]
    assert scheduled([5, 0.0, 1.0, 5], 4) == 0.0 and scheduled([5, 0.0, 1.0, 5], 6) == 1.0


def test_milestones_hold_from_their_step_on():
    table = [[0, 32], [100, 64], [200, 96]]
    assert [milestone(table, step) for step in (0, 99, 100, 199, 200, 1000)] == [32, 32, 64, 64, 96, 96]
    assert milestone([[50, 8]], 0) == 8


def test_component_is_built_by_its_dotted_path():
    grid = build({"target": GRID, "resolution": [[0, 5]]})
    assert isinstance(grid, DenseGrid) and grid.resolution == 5


@pytest.mark.parametrize("target", ["", "DenseGrid", "threestudio.nothing.DenseGrid", GRID.replace("DenseGrid", "No")])
def test_unknown_component_is_named(target):
    with pytest.raises(UserError, match=f"no component '{target}'"):
        build({"target": target})


def test_unknown_key_is_named():
    with pytest.raises(UserError, match="DenseGrid has no 'resolutions'"):
        build({"target": GRID, "resolutions": 1})
