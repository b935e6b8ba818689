"""Which of the ranked configurations stage 1 hands on."""

import pytest
import torch

from relposepp.infer import taken
from relposepp.proposals import Poses
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
