"""What renders say of pairs, with a stand-in for the diffusion model that knows the object."""

import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F

from camerabooth.backbones.interface import Sources
from relposepp.model import Prediction
from relposepp.proposals import uninformed
from relposepp.rendered import azimuth_evidence, finer
from sap3d.cameras.maths import wrap_angle
from tests.renders import BOX_CAMERAS, coloured_box

BINS = 72


class Knowing:
    """Sees in any one view of the box which azimuth it was taken from, and so what is to be seen from elsewhere."""

    image_size, settings = 32, SimpleNamespace(energy_growth=0.0)

    def __init__(self, truth: torch.Tensor):
        self.truth, self.images = truth, F.interpolate(coloured_box(truth), size=(32, 32), mode="area")

    def embed_sources(self, images, cameras):
        which = (self.images - images).square().mean((1, 2, 3)).argmin()
        return Sources(images[None], cameras[None], which[None, None])

    def conditional_mean(self, sources, targets, generator, size):
        targets = targets.clone()
        targets[:, 1] += self.truth[sources.features[0, 0], 1]
        return F.interpolate(coloured_box(targets), size=(size, size), mode="area")


def test_the_likeliest_azimuths_are_the_true_ones():
    cameras = BOX_CAMERAS.clone()
    cameras[:, 1] = 0
    evidence = azimuth_evidence(Knowing(BOX_CAMERAS), coloured_box(BOX_CAMERAS), cameras, BINS)
    true = BOX_CAMERAS[None, :, 1] - BOX_CAMERAS[:, None, 1]
    found = evidence.argmax(-1) * (2 * math.pi / BINS)
    off_diagonal = ~torch.eye(len(BOX_CAMERAS), dtype=torch.bool)
    assert wrap_angle(found - true)[off_diagonal].abs().max() < math.radians(5.1), "within half a turn of the renders"
    mirrored = evidence.transpose(0, 1).flip(-1).roll(1, -1)
    torch.testing.assert_close(evidence, mirrored)
    assert (evidence[~off_diagonal] == 0).all()


def test_values_between_angles_are_linear_and_close_the_circle():
    values = torch.tensor([0.0, 1.0, 4.0, 3.0])
    assert finer(values, 8).tolist() == [0, 0.5, 1, 2.5, 4, 3.5, 3, 1.5]
    assert torch.equal(finer(values, 4), values)


def test_evidence_multiplies_what_is_said_of_pairs():
    nothing = uninformed(3)
    evidence = torch.zeros(3, 3, BINS)
    evidence[0, 1, 5] = 2.0
    said = nothing.informed(evidence)
    assert isinstance(said, Prediction) and said.azimuths[0, 1].argmax() == 5
    torch.testing.assert_close(said.azimuths[0, 1, 5] - said.azimuths[0, 1, 6], torch.tensor(2.0))
    torch.testing.assert_close(said.azimuths[0, 2], nothing.azimuths[0, 2])
    assert (said.azimuths.diagonal() == 0).all()
