"""Metrics against closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch
import trimesh

from sap3d.cameras.maths import pairwise_rotation_errors
from sap3d.scores import metrics


@pytest.fixture
def views():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(4, 3, generator=generator) * torch.tensor([0.7, 6.0, 0.5]) + torch.tensor([0.0, 0.0, 1.5])


def test_a_common_turn_of_all_views_is_no_pose_error(views):
    turned = views + torch.tensor([0, 1.7, 0])
    assert metrics.rotation_error(turned, views) == pytest.approx(0, abs=1e-3)
    assert metrics.camera_differences(turned, views)["Azimuth"] == pytest.approx(0, abs=1e-4)


def test_rotation_error_of_one_wrong_azimuth_at_the_equator():
    truth = torch.tensor([[0.0, 0.0, 2.0], [0.0, 1.0, 2.0], [0.0, 2.0, 2.0]])
    wrong = truth + torch.tensor([[0.0, 0, 0], [0, math.radians(30), 0], [0, 0, 0]])
    assert metrics.rotation_error(wrong, truth) == pytest.approx(20, abs=1e-3)  # 30° in four of six ordered pairs


def test_camera_differences(views):
    off = views + torch.tensor([[0.1, 0.0, 0.2], [-0.1, 0.3, 0.0], [0.1, -0.3, 0.0], [0.1, 2 * math.pi, -0.2]])
    differences = metrics.camera_differences(off, views)
    assert differences["Elevation"] == pytest.approx(math.degrees(0.1), rel=1e-4)
    assert differences["Azimuth"] == pytest.approx(math.degrees(0.2), rel=1e-4)
    assert differences["Radius"] == pytest.approx(0.1, rel=1e-4)


def test_one_view_has_no_relative_error():
    view = torch.tensor([[0.3, 0.0, 1.8]])
    assert metrics.rotation_error(view, view) is None
    assert metrics.camera_differences(view, view)["Azimuth"] is None


def test_symmetric_error_is_the_least_over_the_group(views):
    order = 3
    noisy = views + 0.1 * torch.sin(torch.arange(12.0)).reshape(4, 3)
    noisy[1, 1] += 2 * math.pi / order
    noisy[3, 1] -= 2 * math.pi / order
    least = min(
        pairwise_rotation_errors(noisy + torch.tensor(turns)[:, None] * torch.tensor([0, 1.0, 0]), views).mean().item()
        for turns in itertools.product([2 * math.pi * k / order for k in range(order)], repeat=4)
    )
    symmetric = metrics.rotation_error(noisy, views, order)
    assert symmetric == pytest.approx(math.degrees(least), abs=1e-3)
    assert symmetric < metrics.rotation_error(noisy, views) / 2


def test_on_a_bowl_azimuth_does_not_count(views):
    anyhow = views.clone()
    anyhow[:, 1] = torch.tensor([0.0, 3.0, 1.0, 5.0])
    assert metrics.rotation_error(anyhow, views, math.inf) == pytest.approx(0, abs=1e-3)
    anyhow[0, 0] += math.radians(10)
    assert 3 < metrics.rotation_error(anyhow, views, math.inf) < 10


def test_psnr_of_a_known_offset():
    truth = np.full((16, 16, 3), 0.5, np.float32)
    assert metrics.psnr(truth + np.float32(0.1), truth) == pytest.approx(20, abs=1e-3)
    assert metrics.psnr(truth, truth) == metrics.MAX_PSNR


def test_ssim_and_flip_of_equal_and_opposite_pictures():
    truth = np.random.default_rng(0).random((32, 32, 3), np.float32)
    black, white = np.zeros_like(truth), np.ones_like(truth)
    assert metrics.ssim(truth, truth) == pytest.approx(1)
    assert metrics.flip(truth, truth) == 0
    assert metrics.flip(black, white) > 0.9
    assert metrics.ssim(1 - truth, truth) < 0


def test_flip_around_what_differs_is_that_of_whole_pictures():
    rng = np.random.default_rng(1)
    truth = np.ones((160, 120, 3), np.float32)
    truth[40:70, 30:60] = rng.random((30, 30, 3), np.float32)
    image = truth.copy()
    image[50:66, 48:64] = rng.random((16, 16, 3), np.float32)
    whole = metrics.evaluate_flip(truth, image, "LDR", applyMagma=False, computeMeanError=False)[0]
    assert metrics.flip(image, truth) == pytest.approx(float(whole.mean()), rel=1e-5)


def test_lpips_weights_are_torchvisions():
    from torchvision.models import AlexNet_Weights

    assert AlexNet_Weights.IMAGENET1K_V1.url.endswith(f"/{metrics.ALEXNET}")


@pytest.mark.parametrize("damaged", [False, True])
def test_lpips_without_usable_weights_is_none(tmp_path, monkeypatch, capsys, damaged):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    if damaged:
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / metrics.ALEXNET).write_bytes(b"not")
    measures = metrics.picture_measures()
    picture = np.zeros((64, 64, 3), np.float32)
    assert measures["lpips"](picture, picture) is None
    assert capsys.readouterr().out.count("\n") == 1
    values = metrics.picture_metrics([picture], [picture], measures)
    assert values == {"psnr": metrics.MAX_PSNR, "ssim": 1.0, "lpips": None, "flip": 0.0}


def test_chamfer_and_f_scores_of_parallel_planes():
    plane = trimesh.Trimesh([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    lifted = plane.copy().apply_translation([0, 0, 0.045])
    values = metrics.mesh_metrics(lifted, plane)
    assert values["CD"] == pytest.approx(0.045, rel=0.01)
    assert values["F1_01"] == 0
    assert values["F1_02"] == values["F1_03"] == 1


def test_f_score_of_half_a_shape():
    distances = np.array([0.0, 0.0, 1.0, 1.0])
    assert metrics.f_score(np.zeros(4), distances, 0.05) == pytest.approx(2 / 3)
    assert metrics.f_score(distances + 1, distances + 1, 0.05) == 0


def test_iou_of_overlapping_boxes():
    box = trimesh.creation.box((0.6, 0.4, 0.3))
    shifted = box.copy().apply_translation([0.2, 0, 0])
    assert metrics.mesh_metrics(shifted, box)["IOU"] == pytest.approx(0.4 / 0.8, abs=0.02)


def test_occupancy_is_where_the_solid_is():
    grid = (np.arange(64) + 0.5) / 64 * 1.3 - 0.65
    x, y, z = np.meshgrid(grid, grid, grid, indexing="ij")
    sphere = trimesh.creation.icosphere(5, 0.3).apply_translation([0.1, -0.2, 0.05])
    radius = np.sqrt((x - 0.1) ** 2 + (y + 0.2) ** 2 + (z - 0.05) ** 2)
    near_surface = abs(radius - 0.3) < 0.002  # the mesh is inscribed in the sphere
    assert ((metrics.occupancy(sphere) == (radius < 0.3)) | near_surface).all()


def test_occupancy_of_a_scan_with_a_hole():
    whole = trimesh.creation.icosphere(4, 0.5)
    holed = whole.copy()
    holed.update_faces(whole.triangles_center[:, 2] > -0.47)
    assert not holed.is_watertight
    inside, true_inside = metrics.occupancy(holed), metrics.occupancy(whole)
    assert (inside & true_inside).sum() / (inside | true_inside).sum() > 0.95


def test_mesh_metrics_are_reproducible():
    sphere = trimesh.creation.icosphere(2, 0.5)
    assert metrics.mesh_metrics(sphere, sphere, seed=3) == metrics.mesh_metrics(sphere, sphere, seed=3)
    assert metrics.mesh_metrics(sphere, sphere)["CD"] < 0.005  # the spacing of the samples
