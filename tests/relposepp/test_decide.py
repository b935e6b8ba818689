"""Stage 1's decision, each step with stand-ins for what it asks."""

import math

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from camerabooth import regularisation
from camerabooth.judge import Judged
from relposepp import decide, descent
from relposepp.decide import NETWORK_SHARPNESS, SURPRISE_SHARPNESS, SYNTHESIS_SHARPNESS
from relposepp.proposals import Poses, uninformed
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
        ([2.5, 0.1, 0.1], 5, 2.5),  # the first is no better: it is the last
        ([0.5, 0.4, 0.3, 0.2], 5, 0.4),  # two at most
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


def test_a_symmetry_is_asked_for_of_so_many_photos():
    options = OmegaConf.create({"fewest": 2, "most": 4, "excess": [0.1, 0.2]})
    assert [decide.symmetry_bound(options, views) for views in (1, 2, 3, 4, 5)] == [None, 0.1, 0.2, 0.2, None]


@pytest.mark.parametrize(("loss", "order"), [(0.18, 2), (0.22, 1)])
def test_a_symmetry_is_what_photos_hardly_contradict(loss, order, monkeypatch):
    monkeypatch.setattr(decide, "symmetric_loss", lambda _, cameras: loss)
    found = decide.symmetry_at(torch.ones(3, 4, 8, 8), torch.zeros(3, 3), 0.1, 0.1)
    assert found == {"order": order, "excess": pytest.approx(loss - 0.1)}
    assert decide.symmetry_at(torch.ones(3, 4, 8, 8), torch.zeros(3, 3), 0.1, None) == {"order": 1}


def test_a_log_weight_has_a_part_of_each_judge_and_no_unit():
    evidence = {
        "network_log_probability": torch.tensor([-6.0, -3.0]),
        "synthesis_loss": torch.tensor([0.1, 0.2]),
        "surprise": torch.tensor([-4.0, -4.5]),
    }
    network, synthesis, surprised = 2 / 3 * 3.0, math.log(2), 0.5
    gap = NETWORK_SHARPNESS * network - SYNTHESIS_SHARPNESS * synthesis + SURPRISE_SHARPNESS * surprised
    weights = decide.weigh(evidence, 3)
    assert weights.max() == 0 and (weights[1] - weights[0]).item() == pytest.approx(gap, abs=1e-5)
    larger = evidence | {"synthesis_loss": 7 * evidence["synthesis_loss"], "surprise": evidence["surprise"] + 2}
    torch.testing.assert_close(decide.weigh(larger, 3), weights)
    del evidence["synthesis_loss"], evidence["surprise"]
    assert decide.weigh(evidence, 3).tolist() == pytest.approx([-NETWORK_SHARPNESS * network, 0])


def test_all_configurations_are_compared(monkeypatch):
    """The first one by network and voxels has the larger errors."""
    asked = []

    def said(model, photos, cameras):
        asked.append(cameras[0, 2].item())
        return 1.0 - cameras[0, 2].item()

    monkeypatch.setattr(decide, "surprise", said)
    cameras = torch.zeros(3, 3, 3)
    cameras[:, 0, 2], cameras[:, 1, 1] = torch.arange(3.0), torch.arange(3.0)
    evidence = {"network_log_probability": torch.zeros(3), "synthesis_loss": torch.tensor([0.1, 0.11, 0.12])}
    start = Poses(cameras, [0.0, 0.1, 5.0], torch.ones(3), cameras[0], uninformed(3), evidence)
    photos = [np.zeros((16, 16, 4), np.uint8)] * 3
    found = decide.compare(None, photos, start, torch.device("cpu"))
    assert asked == [0.0, 1.0, 2.0] and found.scores[0] == 0
    assert found.cameras[0, 0, 2] == 2 and found.evidence["surprise"].tolist() == [-1.0, 0.0, 1.0]
    assert (found.confidence < 1).all() and found.first(1).cameras.shape == (1, 3, 3)
    assert torch.equal(found.first(1).confidence, found.confidence)
