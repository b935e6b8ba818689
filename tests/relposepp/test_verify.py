import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tqdm import tqdm

from relposepp.verify import BATCH, Effort, best, fit_all, mutate, verify
from sap3d.cameras import maths as cam
from sap3d.field.synthesis import Fit, Level, joint_fit
from tests.renders import render_images

LEVEL = Level(resolution=12, size=16, steps=60, pixels=96, samples=12)


@pytest.fixture(scope="module")
def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """Views of a coloured box off the axis, [4, 4, 32, 32], and their cameras."""
    axis = torch.linspace(-1, 1, 24)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    inside = ((x - 0.1).abs() < 0.55) & ((y + 0.15).abs() < 0.35) & (z.abs() < 0.5)
    grid = torch.stack([torch.where(inside, 12.0, -5.0), 6 * x, 6 * y, 6 * z])
    cameras = torch.tensor([[0.3, 0.0, 1.8], [0.5, 1.4, 2.0], [0.1, 2.9, 1.7], [0.4, -1.5, 1.9]])
    rendering = render_images(grid, cameras, 32, 48)
    return torch.cat([rendering.color, rendering.opacity[..., None]], -1).permute(0, 3, 1, 2), cameras


def mean_error(cameras: torch.Tensor, truth: torch.Tensor) -> float:
    return cam.pairwise_rotation_errors(cameras, truth).mean().rad2deg().item()


def test_fit_reduces_pose_errors_and_ranks(scene):
    images, truth = scene
    generator = torch.Generator().manual_seed(0)
    near = truth + torch.randn(3, 4, 3, generator=generator) * torch.tensor([0.12, 0.12, 0.05])
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
    hypotheses = cameras + 0.1 * torch.randn(count, count, 3, generator=torch.Generator().manual_seed(0))
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
    free = joint_fit(images, truth[None], LEVEL, estimates=truth + torch.tensor([0.0, 0.0, 0.5]))
    assert drift.abs() < 0.05 < (free.cameras[0, :, 2].mean() - truth[:, 2].mean())


def test_principal_points_are_found(scene):
    images, truth = scene
    axes = torch.tensor([[2, 0], [0, -2], [-2, 1], [0, 1]])  # pixels to the right and up
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
    hypotheses = truth + torch.tensor([[[0.1, 0.0, 0.0]], [[0.0, 0.0, 0.2]]])
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
    other[2] = torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(0))
    other[2, 3] = images[2, 3]  # the mask also says where pixels are drawn
    weights = torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    grids = [joint_fit(i, truth[None], level, view_weights=weights).grid for i in (images, other)]
    assert torch.equal(*grids)


def test_verify_turns_a_wrong_view_back(scene):
    images, truth = scene
    wrong = truth.clone()
    wrong[2, 1] -= math.pi / 2
    coarse = Level(resolution=8, size=16, steps=20, pixels=64, samples=12)
    middle, fine = replace(LEVEL, steps=30), replace(LEVEL, steps=40)
    effort = Effort(replace(coarse, steps=8), coarse, middle, middle, fine, fine, beam=2, rounds=1, children=2)
    fit = verify(images, wrong[None], truth, effort)
    assert mean_error(wrong, truth) > 40 and mean_error(fit.cameras[0], truth) < 15
    assert (fit.losses.diff() >= 0).all()


def test_best_keeps_distinct_fits():
    cameras = torch.zeros(3, 2, 3)
    cameras[:, 1, 1] = torch.tensor([0.0, 0.05, 1.0])
    fit = best(Fit(torch.zeros(3, 4, 2, 2, 2), cameras, torch.tensor([0.3, 0.1, 0.2])), keep=3)
    assert fit.losses.tolist() == pytest.approx([0.1, 0.2])


def test_evolution_turns_some_views_and_never_the_first():
    parents = torch.zeros(2, 4, 3)
    parents[1, :, 0] = 1  # told by their elevations
    parents[:, 0, 1] = 0
    children = mutate(parents, 400, torch.Generator().manual_seed(0))
    turned = children[:, 1:, 1] != 0
    assert (children[:, 0, 1] == 0).all() and 0.4 < turned.float().mean() < 0.6
    several = [row[t] for row, t in zip(children[:, 1:, 1], turned) if t.sum() >= 2]
    together = [len(row.unique()) == 1 for row in several]
    assert 0.4 < sum(together) / len(several) < 0.6
    single = torch.cat([row for row, same in zip(several, together) if not same])
    assert math.radians(20) < single.std() < math.radians(50)  # 60° / √3 where deviations are uniform up to 60°
    of_second = children[..., 0].mean(1)
    mixed = (of_second > 0) & (of_second < 1)
    assert mixed.any() and (of_second == 0).sum() > (of_second == 1).sum()  # the better parent has more children
    assert torch.equal(children, mutate(parents, 400, torch.Generator().manual_seed(0)))
