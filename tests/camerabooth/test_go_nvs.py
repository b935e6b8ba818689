"""Cameras of novel views from a transforms.json."""

import json
import math

import pytest
import torch

from camerabooth.go_nvs import FRAMES, orbit, read_transforms
from sap3d.cameras import maths as cam
from sap3d.errors import UserError


def write_transforms(path, cameras, field_of_view=cam.FIELD_OF_VIEW, roll=0.0, shift=0.0):
    frames = []
    turn = torch.tensor([[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]])
    for camera in cameras:
        matrix = torch.eye(4)
        axes = cam.camera_axes(camera)
        matrix[:3, :3], matrix[:3, 3] = axes @ turn, cam.camera_positions(camera) + shift * axes[:, 0]
        frames.append({"file_path": "x.png", "transform_matrix": matrix.tolist()})
    content = {"h": 400, "w": 400, "fl_y": 200 / math.tan(field_of_view / 2), "frames": frames}
    path.write_text(json.dumps(content))
    return path


def test_cameras_come_back(tmp_path):
    cameras = torch.tensor([[0.3, 0.5, 1.8], [-0.2, -2.0, 1.5], [1.2, 3.0, 2.2]])
    found = read_transforms(write_transforms(tmp_path / "t.json", cameras))
    torch.testing.assert_close(found, cam.full_cameras(cameras), atol=1e-6, rtol=1e-6)
    found = read_transforms(write_transforms(tmp_path / "t.json", cameras, field_of_view=0.6, roll=0.2))
    torch.testing.assert_close(cam.plain(found)[:, :2], cameras[:, :2], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found[:, 5:], torch.tensor([0.2, 0.6]).expand(3, 2), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"field_of_view": 0.3}, "field of view of 17.2°"),
        ({"roll": 1.2}, "frame 0 does not look at the origin"),
        ({"shift": 0.3}, "frame 0 does not look at the origin"),
    ],
)
def test_cameras_of_another_kind_are_refused(tmp_path, options, message):
    path = write_transforms(tmp_path / "t.json", torch.tensor([[0.3, 0.5, 1.8]]), **options)
    with pytest.raises(UserError, match=message):
        read_transforms(path)


@pytest.mark.parametrize("text", ["", "{}", '{"frames": [{"transform_matrix": [[1, 2], [3]]}], "h": 1, "fl_y": 1}'])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(UserError, match="not a transforms.json"):
        read_transforms(path)
    with pytest.raises(UserError, match="not a transforms.json"):
        read_transforms(tmp_path / "nowhere.json")


def test_a_video_goes_once_round_in_even_steps():
    cameras = orbit(torch.tensor([0.3, 0.5, 1.8, 0.0, 0.0, 0.1, 0.9]))
    assert cameras.shape == (FRAMES, 7) and torch.equal(cameras[0], torch.tensor([0.3, 0.5, 1.8, 0.0, 0.0, 0.1, 0.9]))
    steps = torch.cat([cameras[:, 1], cameras[:1, 1] + 2 * math.pi]).diff()
    torch.testing.assert_close(steps, torch.full((FRAMES,), 2 * math.pi / FRAMES))
    assert (cameras[:, [0, 2, 5]] == cameras[0, [0, 2, 5]]).all()
