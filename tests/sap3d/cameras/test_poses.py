"""The poses.json between stages."""

import json
import math

import pytest
import torch

from sap3d.cameras import maths as cam
from sap3d.cameras.poses import (
    MAX_ROLL,
    SYMMETRY,
    PoseTable,
    read_best_poses,
    read_kept,
    read_middles,
    read_pose_hypotheses,
    read_symmetry_order,
    write_poses,
)
from sap3d.errors import UserError


def test_round_trip(tmp_path):
    configurations = torch.rand(3, 4, 3, generator=torch.Generator().manual_seed(0)) + 0.5
    write_poses(tmp_path / "poses.json", configurations, [1.0, 2.0, 3.5], evidence={"pairs": [1, 2]})
    read, scores = read_pose_hypotheses(tmp_path / "poses.json", 4)
    assert torch.allclose(read, configurations, atol=1e-6)
    assert scores == [1.0, 2.0, 3.5]
    assert torch.equal(read_best_poses(tmp_path / "poses.json", 4), read[0])
    assert json.loads((tmp_path / "poses.json").read_text())["evidence"] == {"pairs": [1, 2]}


def test_azimuths_of_many_turns_are_written_as_one_would(tmp_path):
    turns = torch.tensor([[[0.3, 0.0, 1.8], [0.3, 4 * math.pi - 0.5, 1.8], [0.3, -7.0, 1.8]]])
    write_poses(tmp_path / "poses.json", turns, [0.0])
    azimuths = read_best_poses(tmp_path / "poses.json", 3)[:, 1]
    torch.testing.assert_close(azimuths, torch.tensor([0.0, -0.5, 2 * math.pi - 7]), atol=1e-5, rtol=0)


def test_principal_points_are_handed_on_beside_the_cameras(tmp_path):
    configurations = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(0)) + 0.5
    write_poses(tmp_path / "poses.json", configurations, [1.0, 2.0])
    torch.testing.assert_close(read_pose_hypotheses(tmp_path / "poses.json", 4)[0], configurations)
    torch.testing.assert_close(read_best_poses(tmp_path / "poses.json", 4), configurations[0, :, :3])
    torch.testing.assert_close(read_middles(tmp_path / "poses.json", 4), configurations[0, :, 3:])
    write_poses(tmp_path / "poses.json", configurations[..., :3], [1.0, 2.0])
    assert torch.equal(read_middles(tmp_path / "poses.json", 4), torch.zeros(4, 2))


def test_rolls_and_fields_of_view_are_handed_on_in_degrees(tmp_path):
    path = tmp_path / "poses.json"
    cameras = torch.tensor([[0.3, 0.0, 2.0, 0.1, -0.1, 0.4, 0.7], [1.4, 2.0, 1.9, 0.0, 0.2, -0.5, 0.7]])
    write_poses(path, cameras[None], [0.0])
    content = json.loads(path.read_text())
    assert content["columns"][5:] == ["roll_deg", "fov_deg"]
    assert content["hypotheses"][0]["cameras"][1][5] == pytest.approx(math.degrees(-0.5), rel=1e-6)
    torch.testing.assert_close(read_pose_hypotheses(path, 2)[0][0], cameras)
    best, middles = read_best_poses(path, 2), read_middles(path, 2)
    torch.testing.assert_close(best[:, [0, 1, 2, 5, 6]], cameras[:, [0, 1, 2, 5, 6]])
    assert not best[:, 3:5].any()
    torch.testing.assert_close(middles, cameras[:, 3:5])
    torch.testing.assert_close(cam.with_principal_points(best, cameras), cameras)


def test_views_that_are_left_out_are_not_read(tmp_path):
    path, cameras = tmp_path / "poses.json", torch.rand(4, 5, generator=torch.Generator().manual_seed(0)) + 0.5
    write_poses(path, cameras[None], [0.0], left_out=[2])
    assert read_kept(path, 4) == [0, 1, 3]
    torch.testing.assert_close(read_best_poses(path, 4), cameras[[0, 1, 3], :3])
    torch.testing.assert_close(read_middles(path, 4), cameras[[0, 1, 3], 3:])
    torch.testing.assert_close(read_pose_hypotheses(path, 4)[0][0], cameras)
    for wrong in ("2", [0.5], [0, 1, 2, 3]):
        write_poses(path, cameras[None], [0.0], left_out=wrong)
        with pytest.raises(UserError, match="left_out"):
            read_best_poses(path, 4)


def test_the_symmetry_is_handed_on(tmp_path):
    path = tmp_path / "poses.json"
    for found, expected in (({}, 1), ({SYMMETRY: {"order": 2, "excess": 0.1}}, 2), ({SYMMETRY: {"order": 1}}, 1)):
        write_poses(path, torch.ones(1, 2, 3), [0.0], **found)
        assert read_symmetry_order(path) == expected


@pytest.mark.parametrize(
    "text", ["", "[]", '{"symmetry": 2}', '{"symmetry": {"order": 0}}', '{"symmetry": {"order": "2"}}']
)
def test_a_malformed_symmetry_is_a_user_error(tmp_path, text):
    (tmp_path / "poses.json").write_text(text)
    with pytest.raises(UserError, match="not a pose file"):
        read_symmetry_order(tmp_path / "poses.json")
    with pytest.raises(UserError, match="no poses"):
        read_symmetry_order(tmp_path / "nowhere.json")


@pytest.mark.parametrize("text", ["", "{}", '{"hypotheses": [{"cameras": [[0, 0]]}]}', '{"hypotheses": []}', "[1]"])
def test_malformed_files_are_user_errors(tmp_path, text):
    (tmp_path / "poses.json").write_text(text)
    with pytest.raises(UserError, match="poses.json"):
        read_best_poses(tmp_path / "poses.json", 4)


def test_missing_file_and_wrong_number_of_views(tmp_path):
    with pytest.raises(UserError, match="no poses"):
        read_best_poses(tmp_path / "poses.json", 4)
    write_poses(tmp_path / "poses.json", torch.zeros(1, 3, 3), [0.0])
    with pytest.raises(UserError, match="poses of 3 views, not 4"):
        read_best_poses(tmp_path / "poses.json", 4)


def test_pose_table_keeps_bounds_gauge_and_mean_radius():
    start = torch.tensor([[0.3, 0.4, 1.6], [0.5, 2.0, 1.8], [0.1, -2.0, 1.7]])
    table = PoseTable(start)
    torch.testing.assert_close(table(), start)
    table.offsets.data.copy_(torch.tensor([[5.0, 5.0, 4.0], [5.0, 5.0, -2.0], [-5.0, 5.0, 1.0]]))
    table.project()
    cameras = table.cameras()
    torch.testing.assert_close(cameras[0, 1], start[0, 1])
    assert table()[0, 1] == start[0, 1]
    torch.testing.assert_close(torch.rad2deg(cameras[:, 0]), torch.tensor([88.0, 88.0, -30.0]))
    torch.testing.assert_close(cameras[:, 2], torch.tensor([2.6, 1.2, 1.7]))  # the mean offset is taken away first
    assert (cameras[:, 1].abs() <= math.pi).all()


def test_an_unanchored_pose_table_moves_view_0_too_and_keeps_the_mean_azimuth():
    start = torch.tensor([[0.3, 0.4, 1.6], [0.5, 2.0, 1.8], [0.1, -2.0, 1.7]])
    table = PoseTable(start, anchored=False)
    table().sum().backward()
    assert table.offsets.grad[0, 1] == 1
    table.offsets.data[:, 1] = torch.tensor([0.5, 0.1, 0.0])
    table.project()
    torch.testing.assert_close(table()[:, 1] - start[:, 1], torch.tensor([0.3, -0.1, -0.2]))


def test_pose_table_refines_rolls_and_holds_lenses():
    start = torch.tensor([[0.3, 0.4, 2.6, 0.0, 0.0, 0.2, 0.5], [0.5, 2.0, 2.9, 0.1, 0.0, -0.3, 0.5]])
    table = PoseTable(start)
    table().sum().backward()
    assert table.offsets.grad[0].tolist() == [1, 0, 1, 0, 0, 1, 0]
    table.offsets.data.fill_(2.0)
    table.project()
    cameras = table.cameras()
    torch.testing.assert_close(cameras[:, [3, 4, 6]], start[:, [3, 4, 6]])
    torch.testing.assert_close(cameras[:, 5], torch.full((2,), MAX_ROLL))
    # At half the usual angle 2.9 is not out of bounds.
    torch.testing.assert_close(cameras[:, 2], start[:, 2])


def test_pose_table_takes_cameras_out_of_bounds_as_they_are():
    start = torch.tensor([[1.5, 0.0, 3.0], [0.0, 1.0, 1.0]])
    table = PoseTable(start)
    table.project()
    torch.testing.assert_close(table(), start)
