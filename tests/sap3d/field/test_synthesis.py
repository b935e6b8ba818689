import math
from dataclasses import replace

import pytest
import torch
import torch._dynamo  # FakeTensorMode loads it, and it must be whole before Generator is replaced
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from tqdm import tqdm

from dataset.render import Renderer
from dataset.toys import make_toy
from sap3d.cameras import maths as cam
from sap3d.field import synthesis
from sap3d.field.rendering import render_views
from sap3d.field.synthesis import BATCH, Level, coarse_to_fine, fit_all, joint_fit, prior_cost
from sap3d.images import to_tensor
from tests.renders import BOX_CAMERAS, coloured_box, mean_error

LEVEL = Level(resolution=12, size=16, steps=60, pixels=96, samples=12)


@pytest.fixture
def scene(device) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of a coloured box off the axis, [4, 4, 32, 32], and their cameras."""
    cameras = BOX_CAMERAS.to(device)
    return coloured_box(cameras), cameras


def test_fit_reduces_pose_errors_and_ranks(scene):
    images, truth = scene
    generator = torch.Generator().manual_seed(0)
    near = truth + torch.randn(3, 4, 3, generator=generator).to(truth) * truth.new_tensor([0.12, 0.12, 0.05])
    wrong = truth.clone()
    wrong[2, 1] -= math.pi / 2
    hypotheses = torch.cat([near, wrong[None]])
    hypotheses[:, 0, 1] = 0
    fit = joint_fit(images, hypotheses, LEVEL)
    for start, end in zip(near, fit.cameras):
        assert mean_error(end, truth) < 0.7 * mean_error(start, truth)
    assert fit.losses[:3].max() < fit.losses[3]
    # No view is the gauge, so that a wrong one does not stay where it is.
    torch.testing.assert_close(fit.cameras[..., 1].mean(1), hypotheses[..., 1].mean(1))


def test_as_many_photos_as_hypotheses_are_fitted_in_batches(scene):
    """Estimates are the views', not the hypotheses', though there are as many."""
    count = 2 * BATCH
    images, cameras = (each.repeat(count // 4, *[1] * (each.dim() - 1)) for each in scene)
    level = replace(LEVEL, resolution=6, size=8, steps=2, pixels=8, samples=6)
    hypotheses = cameras + 0.1 * torch.randn(count, count, 3, generator=torch.Generator().manual_seed(0)).to(cameras)
    with tqdm(disable=True) as progress:
        fit = fit_all(images, hypotheses, level, progress, estimates=cameras)
    alone = joint_fit(images, hypotheses[-1:], level, estimates=cameras)
    torch.testing.assert_close(fit.losses[-1:], alone.losses)


def test_a_wrong_first_view_is_mended(scene):
    images, truth = scene
    start = truth.clone()
    start[0, 1] += 0.3
    fit = joint_fit(images, start[None], LEVEL)
    moves = fit.cameras[0, :, 1] - start[:, 1]
    assert moves[0] < -0.2 and moves[1:].abs().max() < 0.15  # 0.3 in all, of which a quarter is the gauge's
    assert mean_error(fit.cameras[0], truth) < 0.7 * mean_error(start, truth)


def test_the_mean_radius_is_anchored(scene):
    images, truth = scene
    fit = joint_fit(images, truth[None], LEVEL)
    drift = fit.cameras[0, :, 2].mean() - truth[:, 2].mean()
    free = joint_fit(images, truth[None], LEVEL, estimates=truth + truth.new_tensor([0.0, 0.0, 0.5]))
    assert drift.abs() < 0.05 < (free.cameras[0, :, 2].mean() - truth[:, 2].mean())


def test_principal_points_are_found(scene):
    images, truth = scene
    axes = torch.tensor([[2, 0], [0, -2], [-2, 1], [0, 1]], device=truth.device)  # pixels to the right and up
    moved = torch.stack([image.roll((-int(y), int(x)), (1, 2)) for image, (x, y) in zip(images, axes)])
    middles = axes * 2 / 32
    held = joint_fit(moved, truth[None], LEVEL)
    fit = joint_fit(moved, F.pad(truth, (0, 2))[None], LEVEL)
    assert fit.losses[0] < 0.7 * held.losses[0]
    # Where the field lies is free: what is wrong with the middles must be as if the field had been moved.
    moves = cam.camera_axes(truth)[..., :2].transpose(-1, -2) / (truth[:, 2:, None] * cam.TAN_HALF_FOV)
    wrong = fit.cameras[0, :, 3:] - middles
    field = torch.linalg.lstsq(moves.flatten(0, 1), wrong.flatten()).solution
    assert (wrong - moves @ field).norm() < 0.35 * middles.norm()
    assert mean_error(fit.cameras[0], truth) < mean_error(held.cameras[0], truth)


def test_fits_of_a_batch_are_independent_and_repeatable(scene):
    images, truth = scene
    hypotheses = truth + truth.new_tensor([[[0.1, 0.0, 0.0]], [[0.0, 0.0, 0.2]]])
    level = Level(resolution=8, size=16, steps=4, pixels=16, samples=8)
    both = joint_fit(images, hypotheses, level)
    alone = joint_fit(images, hypotheses[1:], level)
    torch.testing.assert_close(both.cameras[1:], alone.cameras, atol=1e-5, rtol=1e-5)
    assert torch.equal(both.cameras, joint_fit(images, hypotheses, level).cameras)


def test_held_cameras_stay_and_voxels_are_those_of_cameras_that_cannot_move(scene):
    images, truth = scene
    level = Level(resolution=8, size=16, steps=4, pixels=16, samples=8, pose_rate=0.0)
    held = joint_fit(images, truth[None], level)
    slow = joint_fit(images, truth[None], replace(level, pose_rate=1e-30))
    torch.testing.assert_close(held.cameras[0], truth)
    assert torch.equal(held.grid, slow.grid)
    assert not torch.equal(held.grid, joint_fit(images, truth[None], replace(level, pose_rate=0.1)).grid)


def test_a_view_left_out_has_no_influence(scene):
    images, truth = scene
    level = Level(resolution=8, size=16, steps=4, pixels=16, samples=8, pose_rate=0.0)
    other = images.clone()
    other[2] = torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(0)).to(images)
    other[2, 3] = images[2, 3]  # the mask also says where pixels are drawn
    weights = images.new_tensor([[1.0, 1.0, 0.0, 1.0]])
    grids = [joint_fit(i, truth[None], level, view_weights=weights).grid for i in (images, other)]
    assert torch.equal(*grids)


def test_rolls_and_fields_of_view_count(scene):
    _, cameras = scene
    truth = cam.full_cameras(cameras)
    truth[:, 5] = truth.new_tensor([0.3, -0.2, 0.0, 0.1])
    truth[:, 6] = truth.new_tensor([0.7, 0.9, 0.8, 1.0])
    images = coloured_box(truth)
    start = truth.clone()
    start[:, 1] += truth.new_tensor([0.12, -0.12, 0.1, -0.1])
    fit = joint_fit(images, torch.stack([start, cam.full_cameras(start[:, :5])]), LEVEL)
    torch.testing.assert_close(fit.cameras[0, :, 6], truth[:, 6])
    assert fit.losses[0] < 0.7 * fit.losses[1]


def test_what_is_unexplained_is_a_share_of_what_an_empty_field_leaves(device, monkeypatch):
    views = torch.ones(2, 4, 64, 64, device=device)
    views[:, 3] = 0
    views[:, :, :32, :32] = torch.tensor([0.0, 0.0, 0.0, 1.0], device=device)[:, None, None]  # black, on a quarter
    fit = synthesis.Fit(None, None, torch.tensor([0.05], device=device))
    monkeypatch.setattr(synthesis, "joint_fit", lambda *_: fit)
    assert synthesis.unexplained(views, torch.zeros(2, 3, device=device)) == pytest.approx(0.05 / (0.25 + 0.25))


def test_levels_go_on_from_each_others_voxels(scene):
    images, truth = scene
    short = replace(LEVEL, steps=20, pose_rate=0.0)
    grown = coarse_to_fine(images, truth, (short, replace(short, resolution=16)))
    assert grown.grid.shape == (1, 4, 16, 16, 16)
    assert grown.losses[0] < joint_fit(images, truth[None], replace(short, resolution=16)).losses[0]


@pytest.mark.parametrize("columns", [3, 5, 7])
def test_all_of_a_fit_is_where_its_images_are(columns, monkeypatch):
    """By tensors that have a device and no values: an operation that mixes devices raises."""
    generator = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device: generator())
    monkeypatch.setattr(torch.Tensor, "backward", lambda _: None)  # asks for a real device
    with FakeTensorMode():
        images, cameras = torch.rand(4, 4, 16, 16, device="cuda"), torch.rand(2, 4, columns, device="cuda")
        weights = torch.ones(2, 4, device="cuda")
        with tqdm(disable=True) as progress:
            fit = fit_all(images, cameras, replace(LEVEL, steps=2), progress, cameras[0], view_weights=weights)
        seen = synthesis.view_losses(fit.grid, fit.cameras, torch.rand(1, 256, 4, device="cuda"), LEVEL)
        views = render_views(fit.grid[0], fit.cameras[0], 16, 8)
        assert {each.device.type for each in (fit.grid, fit.cameras, fit.losses, seen, views)} == {"cuda"}


def test_rolls_are_found(scene):
    _, plain = scene
    truth = cam.full_cameras(plain)
    truth[:, 5] = truth.new_tensor([0.25, -0.2, 0.0, 0.15])
    start = truth.clone()
    # Errors that a tilt of the whole world does not explain: that is no error.
    start[:, 5] += truth.new_tensor([0.2, -0.2, 0.2, -0.2])
    held = joint_fit(coloured_box(truth), start[None], replace(LEVEL, pose_rate=0.0))
    fit = joint_fit(coloured_box(truth), start[None], LEVEL)
    assert mean_error(fit.cameras[0], truth) < 0.75 * mean_error(start, truth)
    assert fit.losses[0] < 0.7 * held.losses[0]


@pytest.mark.parametrize("degrees", [30.0, 68.0])
def test_a_common_field_of_view_is_found(degrees, device):
    """From five views of a toy at true poses; a third of the way, as the prior and the coarse voxels go."""
    plain = torch.tensor([[0.3, 0, 1.8], [0.5, 1.3, 1.9], [0.2, 2.6, 1.75], [0.4, -1.2, 1.8], [0.6, -2.2, 1.9]])
    start = cam.full_cameras(plain)
    truth = start.clone()
    truth[:, 6] = math.radians(degrees)
    truth[:, 2] *= cam.TAN_HALF_FOV / math.tan(truth[0, 6] / 2)  # where the object looks as large
    images = to_tensor(list(Renderer(make_toy(1_000_003)).render(truth, 48)), 48).to(device)
    level = Level(resolution=16, size=48, steps=120, pixels=192, samples=16, pose_rate=0.03, free_view=True)
    found = joint_fit(images, start[None].to(device), level).cameras[0].cpu()
    torch.testing.assert_close(found[:, 6], found[:1, 6].expand(5))
    assert abs(found[0, 6] - truth[0, 6]) < 0.85 * abs(start[0, 6] - truth[0, 6])
    torch.testing.assert_close(cam.plain(found)[:, 2], plain[:, 2], atol=0.15, rtol=0)


def test_estimates_of_tilted_views_may_be_far_off():
    estimates = cam.full_cameras(torch.tensor([[[0.3, 0.0, 1.8], [0.3, 2.0, 1.8]]]))
    costs = {}
    for degrees in (1, 60):
        moved = estimates.clone()
        moved[0, 0, 0] += math.radians(degrees)
        costs[degrees] = prior_cost(moved, estimates).item(), prior_cost(moved[..., :3], estimates[..., :3]).item()
    assert costs[1][0] == pytest.approx(costs[1][1], rel=0.01) == pytest.approx(0.1**2 / 4, rel=0.01)
    assert costs[60][1] == pytest.approx(6**2 / 4) and costs[60][0] == pytest.approx(2 * math.log(1 + 18) / 4)
