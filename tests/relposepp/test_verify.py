import math
from dataclasses import replace

import pytest
import torch
from tqdm import tqdm

from relposepp.verify import Effort, best, mutate, reconsider, verify
from sap3d.cameras.maths import full_cameras
from sap3d.field.synthesis import Fit, Level
from tests.renders import BOX_CAMERAS, coloured_box, mean_error

LEVEL = Level(resolution=12, size=16, steps=60, pixels=96, samples=12)


def test_verify_turns_a_wrong_view_back():
    images, truth = coloured_box(BOX_CAMERAS), BOX_CAMERAS
    wrong = truth.clone()
    wrong[2, 1] -= math.pi / 2
    coarse = Level(resolution=8, size=16, steps=20, pixels=64, samples=12)
    middle, fine = replace(LEVEL, steps=30), replace(LEVEL, steps=40)
    effort = Effort(replace(coarse, steps=8), coarse, middle, middle, fine, beam=2, rounds=1, children=2)
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


def test_a_view_of_a_rolled_set_is_placed_anew_at_another_elevation():
    """The first one, too, whose azimuth is the gauge; upright sets keep their elevations."""
    plain = torch.tensor([[0.3, azimuth * math.pi / 3, 1.8] for azimuth in range(6)])
    images, truth, progress = coloured_box(plain), full_cameras(plain), tqdm(disable=True)
    for view in (0, 2):
        wrong = truth.clone()
        wrong[view, 0] += math.radians(50)
        found = reconsider(images, Fit(torch.empty(0), wrong[None], torch.zeros(1)), LEVEL, progress)
        errors = [mean_error(cameras[:, :3], plain) for cameras in found]
        assert len(found) == 2 * 6 and mean_error(wrong[:, :3], plain) > 15 and min(errors) < 6
    found = reconsider(images, Fit(torch.empty(0), plain[None], torch.zeros(1)), LEVEL, progress)
    assert len(found) == 2 * 5 and torch.equal(found[..., 0], plain[:, 0].expand(len(found), -1))
