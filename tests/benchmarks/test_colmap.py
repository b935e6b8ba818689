"""The comparison with COLMAP: its cameras' convention, and what is said of none."""

import math

import pytest
import torch

from benchmarks.colmap import degrees, pair_error
from sap3d.cameras import maths as cam

TRUTH = torch.tensor([[0.2, 0.0, 1.8], [0.5, 1.0, 1.8], [-0.1, 3.0, 1.8]])


def colmap_rotations(cameras: torch.Tensor) -> dict[int, torch.Tensor]:
    """Right, down and forward as rows, in a world of another orientation."""
    axes = cam.camera_axes(cameras)
    rows = torch.stack([axes[..., 0], -axes[..., 1], -axes[..., 2]], -2)
    world = cam.camera_axes(torch.tensor([0.7, -2.0, 1.0]))
    return dict(enumerate(rows @ world))


def test_true_cameras_have_no_error_and_a_turned_one_has_its_angle():
    assert pair_error(colmap_rotations(TRUTH), TRUTH) == pytest.approx(0, abs=0.1)
    turned = TRUTH.clone()
    turned[1, 0] += math.radians(12)
    assert pair_error(colmap_rotations(turned), TRUTH) == pytest.approx(8, abs=0.1), "12° in two of three pairs"


def test_fewer_than_two_photos_have_no_error():
    assert pair_error({1: torch.eye(3)}, TRUTH) is None and pair_error({}, TRUTH) is None
    assert degrees(None) == "–" and degrees(12.34) == "12.3°"
