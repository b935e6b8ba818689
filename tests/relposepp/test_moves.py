"""Views in other places, with a stand-in for the diffusion model that knows the object."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from camerabooth.backbones.interface import Sources
from relposepp import moves as moving
from relposepp.moves import moves, parts
from tests.renders import BOX_CAMERAS, coloured_box


class Knowing:
    """Shows the true object wherever it is asked, turned as most of its sources say that they stand."""

    image_size, settings = 32, SimpleNamespace(energy_growth=0.0)

    def __init__(self, truth: torch.Tensor):
        self.truth = truth

    def embed_sources(self, images, cameras):
        return Sources(images[None], cameras[None], torch.arange(len(cameras))[None])

    def conditional_mean(self, sources, targets, generator, size):
        turns = self.truth[sources.features[0], 1] - sources.cameras[0, :, 1]
        targets = targets.clone()
        targets[:, 1] += turns[torch.cos(turns[:, None] - turns).sum(1).argmax()]
        return F.interpolate(coloured_box(targets), size=(size, size), mode="area")


def photos(cameras: torch.Tensor) -> list[np.ndarray]:
    images = coloured_box(cameras)
    colour = (images[:, :3] - 1 + images[:, 3:]) / images[:, 3:].clamp(min=1e-3)
    straight = torch.cat([colour.clamp(0, 1), images[:, 3:]], 1)
    return list((straight * 255).round().byte().permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("view", [1, 2])
def test_a_view_half_a_turn_off_is_turned_back_first(view, monkeypatch):
    monkeypatch.setattr(moving, "PAIRS", 0)  # of two sources none are most
    wrong = BOX_CAMERAS.clone()
    wrong[view, 1] += math.pi
    mirrored, first, *_ = moves(Knowing(BOX_CAMERAS), photos(BOX_CAMERAS), wrong, keep=3)
    turn = (first - BOX_CAMERAS)[:, 1]
    assert torch.cos(turn - turn[0]).min() > math.cos(math.radians(8)), "the true azimuths, within half a step"
    torch.testing.assert_close(torch.cos(mirrored[:, 1]), torch.cos(wrong[:, 1] - wrong[0, 1]))
    assert first[0, 1] == 0 and torch.equal(first[:, ::2], BOX_CAMERAS[:, ::2])


def test_two_of_few_views_move_together():
    assert parts(3) == [[0], [1], [2]]
    assert len(parts(5)) == 5 + 10 and [0, 4] in parts(5)
    assert len(parts(moving.PAIRS + 1)) == moving.PAIRS + 1
