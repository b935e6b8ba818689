"""Which of the ranked configurations stage 1 hands on, of which photos, and how sure it is of them."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from relposepp import infer
from relposepp.infer import taken
from relposepp.outliers import EVEN
from relposepp.proposals import Poses, uninformed
from sap3d.errors import UserError


def poses() -> Poses:
    """Three configurations of two views, in which the second view stands elsewhere."""
    cameras = torch.tensor([[[0.3, 0.0, 1.8], [0.3, azimuth, 1.8]] for azimuth in (0.5, 2.5, -2.0)])
    evidence = {"synthesis_loss": torch.tensor([0.1, 0.2, 0.3])}
    return Poses(cameras, [0.1, 0.4, 2.0], torch.tensor([0.6, 0.6]), cameras[0], None, evidence, symmetry={"order": 2})


def test_the_first_is_handed_on_unless_another_is_asked_for():
    ranked = poses()
    assert taken(ranked, 1) is ranked
    second = taken(ranked, 2)
    assert second.cameras[:, 1, 1].tolist() == [2.5, 0.5, -2.0] and second.scores == [0.4, 0.1, 2.0]
    assert second.evidence["synthesis_loss"].tolist() == pytest.approx([0.2, 0.1, 0.3])
    assert second.symmetry == {"order": 1} and second.confidence[1] < ranked.confidence[1]


@pytest.mark.parametrize("rank", [0, 4, -1])
def test_one_that_is_not_there_is_refused(rank):
    with pytest.raises(UserError, match="there are 3 configurations"):
        taken(poses(), rank)


@pytest.mark.parametrize("dropped", [True, False])
def test_photos_that_contradict_each_other_make_poses_doubtful(monkeypatch, capsys, dropped):
    """One of five contradicts the others; with it all cameras are as likely wrong as right."""

    def leave_each_out(images, cameras):
        odd = (images[:, 0].mean((1, 2)) < 0.5).float()
        return 0.9 * odd, 0.9 * odd, EVEN if odd.any() else 0.0

    def decided(kept: list[int]) -> Poses:
        cameras = torch.tensor([[0.3, 1.0 * view, 1.8, 0.0, 0.0, 0.0, 0.8] for view in kept])
        return Poses(cameras[None], [0.0], torch.full((len(kept),), 0.8), cameras, uninformed(len(kept)))

    monkeypatch.setattr(infer, "leave_each_out", leave_each_out)
    photos = [np.full((32, 32, 4), 255 * (view != 3), np.uint8) for view in range(5)]
    photos[3][..., 3] = 255
    config = OmegaConf.create({"drop_outliers": dropped, "hypothesis": 1})
    kept, poses, said = infer.consistent(decided(list(range(5))), photos, decided, config, torch.device("cpu"))
    assert "photo 3 does not fit the others" in capsys.readouterr().out
    assert said["outliers"]["named"] == [3] and said["outliers"]["contradiction"] == EVEN
    assert kept == ([0, 1, 2, 4] if dropped else [0, 1, 2, 3, 4]) and said.get("left_out") == ([3] if dropped else None)
    assert torch.allclose(poses.confidence, torch.full((len(kept),), 0.8 if dropped else 0.4))
