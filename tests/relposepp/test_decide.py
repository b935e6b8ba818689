"""Stage 1's decision, each step with stand-ins for what it asks."""

import math
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from camerabooth import judge as judging
from camerabooth import regularisation
from camerabooth.judge import Judged
from relposepp import decide, descent
from relposepp.decide import ENERGY_SHARPNESS, HELD_SHARPNESS, MOST_LIKELY
from sap3d import images as im
from sap3d.scores.metrics import rotation_error


def test_poses_descend_towards_the_truth(monkeypatch):
    monkeypatch.setattr(descent, "DESCENT", descent.DESCENT[:1])
    images, truth = (part[0, :5] for part in regularisation.regularisation_views([0], 128))
    truth = truth - truth[0] * torch.tensor([0.0, 1.0, 0.0])
    start = truth.clone()
    start[1:, :2] += math.radians(10) * torch.tensor([[1, -1], [-1, 0.5], [0.5, 1], [-1, 1]])
    ends = descent.descend(images, start)
    assert rotation_error(ends, truth) < 0.6 * rotation_error(start, truth)
    assert ends[0, 1] == 0


@pytest.mark.parametrize(
    ("losses", "views", "kept"),
    [
        ([0.9, 0.1, 0.1], 5, 0.9),  # the first does not convince: it is the last
        ([0.5, 0.4, 0.3, 0.2], 5, 0.3),  # three at most
        ([0.5, 0.4, 0.3, 0.2], 2, 0.5),
        ([0.5, 0.6, 0.3], 5, 0.5),  # the second is worse: it is the last, and left
    ],
)
def test_descents_go_on_from_each_other_while_they_gain(losses, views, kept, monkeypatch):
    monkeypatch.setattr(descent, "descend", lambda _, cameras: cameras + 1)
    errors, photos = torch.ones(16, views), torch.ones(views, 4, 8, 8)
    initial = Judged(torch.zeros(views, 3), errors, synthesis=1.0)

    def examine(cameras):
        return Judged(cameras, errors - 0.5, losses[int(cameras[0, 0]) - 1])

    found = descent.descend_repeatedly(photos, initial, examine)
    assert (found.synthesis, found.cameras[0, 0].item()) == (kept, losses.index(kept) + 1)


@pytest.mark.parametrize(
    ("losses", "order", "moves"),
    [  # from both sides and of the photos alone: where the cameras are, and where a descent takes them
        ([(0.18, 0.1), (0.17, 0.1)], 2, False),  # met, and the descent gains little
        ([(0.18, 0.1), (0.12, 0.1)], 2, True),
        ([(0.18, 0.1), (0.12, 0.01)], 2, False),  # where it would not be met
        ([(0.28, 0.1), (0.2, 0.14)], 2, True),  # met there alone
        ([(0.28, 0.1), (0.2, 0.16)], 1, False),  # where the photos agree less with each other
        ([(0.28, 0.1), (0.22, 0.1)], 1, False),
        ([(0.6, 0.1), (0.12, 0.1)], 1, False),  # so far from it no descent is asked
    ],
)
def test_a_symmetry_is_asked_for_where_photos_agree_best_with_it(losses, order, moves, monkeypatch):
    photos = torch.ones(3, 4, 8, 8)
    monkeypatch.setattr(decide, "descend", lambda _, cameras, order: cameras + order - 1)
    monkeypatch.setattr(decide, "symmetric_loss", lambda _, cameras: losses[int(cameras[0, 0])][0])

    def examine(cameras):
        return Judged(cameras, photos, losses[int(cameras[0, 0])][1])

    start = examine(torch.zeros(3, 3))
    found, judged = decide.find_symmetry(photos, start, examine, 0.1, descent=True)
    both, alone = losses[moves]
    assert found == {"order": order, "excess": pytest.approx(both - alone)} and judged.cameras[0, 0] == moves
    held = decide.find_symmetry(photos, start, examine, 0.1, descent=False)
    assert (held[0]["order"] == 2) == (losses[0][0] < 0.2) and held[1] is start
    assert decide.find_symmetry(photos, judged, examine, None, descent=True) == ({"order": 1}, judged)


def test_a_symmetry_is_asked_for_of_so_many_photos():
    options = OmegaConf.create({"views": 4, "excess": [0.1, 0.2]})
    assert [decide.symmetry_bound(options, views) for views in (1, 2, 3, 4, 5)] == [0.1, 0.2, 0.2, 0.2, None]


class Model:
    """Of a diffusion model, what `choose` asks for besides the energies."""

    image_size, settings = 16, SimpleNamespace(energy_of="mean")


@pytest.fixture
def compared(monkeypatch):
    """Five photos, three configurations that the first view's radius tells apart, and whose energies were asked for."""
    energies, asked = {0.0: 1.0, 1.0: 0.8, 2.0: 0.9}, []

    def errors(model, images, cameras, draws):
        asked.append(cameras[0, 2].item())
        return torch.full((6, len(cameras)), energies[cameras[0, 2].item()])

    monkeypatch.setattr(judging, "leave_one_out", errors)
    photos = list(im.to_uint8(torch.rand(5, 16, 16, 4, generator=torch.Generator().manual_seed(0))))
    hypotheses = torch.zeros(3, 5, 3)
    hypotheses[:, 0, 2] = torch.arange(3.0)
    return photos, hypotheses, asked


RISE = ENERGY_SHARPNESS * 0.25  # of the first's energy over the lowest


@pytest.mark.parametrize(("score", "first"), [(RISE - 0.01, 1), (RISE + 0.01, 0)])
def test_two_photos_are_compared_by_scores_and_energies(compared, score, first):
    photos, hypotheses, asked = compared
    total, evidence = decide.choose(Model(), photos[:2], hypotheses[:, :2], [0.0, score, RISE], bound=0.0)
    assert total.argmin() == first and evidence["score"] == [0.0, score, RISE]
    assert evidence["energy"] == pytest.approx([1.0, 0.8, 0.9]) and "unexplained" not in evidence
    assert asked == [0.0, 1.0, 2.0]


def test_what_is_unlikely_is_not_looked_at(compared):
    photos, hypotheses, asked = compared
    scores = [0.0, 1.1 * MOST_LIKELY, 1.2 * MOST_LIKELY]
    total, evidence = decide.choose(Model(), photos, hypotheses, scores, None)
    assert total.tolist() == pytest.approx(scores) and evidence == {"score": [0.0]} and not asked
    total, evidence = decide.choose(Model(), photos[:2], hypotheses[:, :2], [0.0, 0.5, 1.1 * MOST_LIKELY], None)
    assert total.argmax() == 2 and len(evidence["energy"]) == 2


@pytest.mark.parametrize(
    ("bound", "more"),  # of the second's loss from both sides
    [(0.0003, 0), (0.0004, 0), (0.0006, -0.25 * HELD_SHARPNESS), (None, 0)],
)
def test_more_photos_are_compared_by_unexplainedes_and_from_both_sides(compared, bound, more, monkeypatch):
    photos, hypotheses, asked = compared
    losses, both = {0.0: 0.0015, 1.0: 0.001, 2.0: 0.003}, {0.0: 0.002, 1.0: 0.0025, 2.0: 0.004}

    def held(photos, cameras):
        assert photos.shape == (5, 4, decide.CARVED_SIZE, decide.CARVED_SIZE)
        return losses[cameras[0, 2].item()]

    monkeypatch.setattr(decide, "unexplained", held)
    monkeypatch.setattr(decide, "symmetric_loss", lambda _, cameras: both[cameras[0, 2].item()])
    rise = RISE + HELD_SHARPNESS * 0.5 + more
    for score, first in ((rise - 0.01, 1), (rise + 0.01, 0)):
        total, evidence = decide.choose(Model(), photos, hypotheses, [0.0, score, MOST_LIKELY], bound)
        assert total.argmin() == first and evidence["unexplained"] == pytest.approx(list(losses.values()))
        hopeless = bound is None or (bound == 0.0003 and first == 1)
        assert evidence.get("both sides") == (None if hopeless else list(both.values()))
