"""Which of two faces that look alike from afar a photo shows."""

import math
from dataclasses import replace

import pytest
import torch

from relposepp import decide, rivals
from relposepp.decide import DETAIL_SHARPNESS, NEARLY, SYNTHESIS_SHARPNESS
from relposepp.proposals import Poses, uninformed
from sap3d.field.rendering import render_views
from sap3d.scores.metrics import rotation_error

CAMERAS = torch.tensor([[0.3, 0.0, 1.8], [0.2, 0.8, 1.8], [0.4, -0.9, 1.9], [0.2, 2.8, 1.8], [0.3, 3.7, 1.8]])


def carton(size: int) -> torch.Tensor:
    """Views of a grey box with a small red mark on its front and a small blue one, elsewhere, on its back."""
    axis = torch.linspace(-1, 1, 48)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    inside = (x.abs() < 0.25) & (y.abs() < 0.45) & (z.abs() < 0.6)
    mark = ((y - 0.2).abs() < 0.13) & ((z - 0.25).abs() < 0.13)
    density, grey = torch.where(inside, 12.0, -5.0), torch.zeros(48, 48, 48)
    red, blue = (torch.where(where, 4.0, 0.0) for where in (mark & (x > 0), mark.flip(0) & (x < 0)))
    grid = torch.stack([density, grey + red - blue, grey - red - blue, grey - red + blue])
    return render_views(grid, CAMERAS, size, 64)


@pytest.mark.parametrize(("views", "count"), [(3, 4), (4, 8), (5, 16), (6, 22)])
def test_half_turns_are_of_up_to_two_views_and_leave_the_first(views, count):
    cameras = torch.rand(views, 3, generator=torch.Generator().manual_seed(0))
    turned = rivals.half_turns(cameras)
    turns = (turned[..., 1] - cameras[:, 1]) / math.pi
    assert torch.equal(turned[0], cameras) and turned.shape == (count, views, 3)
    assert (turns[:, 0] == 0).all() and len({tuple(row) for row in turns.round().tolist()}) == count
    torch.testing.assert_close(turns, turns.round(), atol=1e-6, rtol=0)
    others = turns.sum(1)
    assert (others.minimum(views - others) <= 2.001).all()
    assert torch.equal(turned[..., ::2], cameras[..., ::2].expand(count, -1, -1))


def test_a_photo_of_the_other_face_is_found_out(monkeypatch):
    monkeypatch.setattr(rivals, "FAR", replace(rivals.FAR, resolution=8, size=8, steps=20))
    monkeypatch.setattr(rivals, "NEARER", replace(rivals.NEARER, resolution=12, size=12, steps=20, samples=16))
    monkeypatch.setattr(rivals, "DETAIL", replace(rivals.DETAIL, resolution=32, size=48, steps=80, samples=40))
    images, wrong = carton(48), CAMERAS.clone()
    wrong[3, 1] -= math.pi
    found, ratios = rivals.alike(images, wrong)
    errors = [rotation_error(each, CAMERAS) for each in found]
    assert min(errors) < 1 and len(found) == len(ratios) and (ratios < rivals.ALIKE).all()
    right = found[errors.index(min(errors))]
    moved, losses = rivals.fit_in_detail(images, torch.stack([wrong, right]))
    assert losses[1] < 0.8 * losses[0] and rotation_error(moved[1], CAMERAS) < 5


def settled(monkeypatch, losses: list[float], ratio: float = 1.1) -> tuple[Poses, bool, list]:
    """`decide.settle` of three configurations, of which the third is unlikely, and one half turn."""
    cameras = torch.zeros(3, 3, 3)
    cameras[:, 1, 1], cameras[:, 0, 2] = torch.arange(3.0), torch.arange(3.0)
    half = cameras[0] + torch.tensor([[0, 0, 10.0], [0, math.pi, 0], [0, 0, 0]])
    asked = []
    monkeypatch.setattr(decide, "alike", lambda *_: (half[None], torch.tensor([ratio])))

    def fitted(_, configurations):
        asked.append(configurations.clone())
        return configurations + 0.01, torch.tensor(losses)[: len(configurations)]

    monkeypatch.setattr(decide, "fit_in_detail", fitted)
    evidence = {"network_log_probability": torch.zeros(3), "synthesis_loss": torch.tensor([1.0, 1.2, 9.0]),
                "surprise": torch.tensor([-4.0, -4.0, -4.0])}  # fmt: skip
    scores = (-decide.weigh(evidence, 3)).tolist()
    poses = Poses(cameras, scores, torch.ones(3), cameras[0], uninformed(3), evidence)
    return *decide.settle(torch.ones(3, 4, 8, 8), cameras[0], poses), asked


def test_rivals_are_weighed_by_what_they_leave_in_detail(monkeypatch):
    found, won, (asked,) = settled(monkeypatch, [1.0, 0.8, 2.0])
    assert asked[:, 0, 2].tolist() == [0, 10, 1], "the likeliest first, and not what is no rival"
    assert won and found.cameras[0, 0, 2].item() == pytest.approx(10.01)
    gain = DETAIL_SHARPNESS * math.log(1 / 0.8) - SYNTHESIS_SHARPNESS * math.log(1.1)
    assert found.scores[:2] == pytest.approx([0, gain], abs=1e-4)
    # What was not compared keeps its distance from the chosen one.
    assert found.cameras[:, 0, 2].tolist() == pytest.approx([10.01, 0, 1.01, 2], abs=0.005)
    unlikely = next(score for score, each in zip(found.scores, found.cameras) if each[0, 2] == 2)
    assert unlikely == pytest.approx(gain + SYNTHESIS_SHARPNESS * math.log(9), abs=1e-4)
    assert found.evidence["detail_loss"].shape == (4,) and found.confidence.max() < 1


def test_the_chosen_one_stays_where_nothing_is_better(monkeypatch):
    found, won, _ = settled(monkeypatch, [1.0, 1.3, 2.0])
    assert not won and torch.equal(found.cameras[0], torch.zeros(3, 3))
    far_off = math.exp((NEARLY + 1) / SYNTHESIS_SHARPNESS)
    found, won, asked = settled(monkeypatch, [1.0, 0.1, 0.1], ratio=far_off)
    assert [len(each) for each in asked] == [2] and won, "the half turn is no rival then, the second configuration is"
    assert len(found.cameras) == 3
