"""How photos were held: what stands in for the network says, and what the shipped one tells of toys."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

import relposepp
from dataset.render import Renderer
from dataset.toys import make_toy
from relposepp.attitude import ELEVATIONS, ROLLS, attitude_loss, expected
from relposepp.held import hold
from relposepp.model import IMAGE_SIZE, load_model
from sap3d.cameras import maths as cam
from sap3d.images import to_tensor

CAMERA = torch.tensor([0.4, 0.3, 1.8, 0.0, 0.0, 0.0, cam.FIELD_OF_VIEW])


class Told(nn.Module):
    """A network that is sure of one elevation and of these rolls."""

    def __init__(self, rolls: list[float], sharpness: float = 4.0):
        super().__init__()
        self.anchor, self.rolls, self.sharpness = nn.Parameter(torch.zeros(())), torch.tensor(rolls), sharpness

    def attitude(self, images):
        roll = -(self.sharpness * (ROLLS - self.rolls[:, None]) / math.radians(5)).square()
        elevation = -((ELEVATIONS - 0.4) / math.radians(5)).square()
        return elevation[None, :, None] + roll[:, None]


def toy(rolls: list[float], seed: int = 1_000_003, size: int = 128) -> list[np.ndarray]:
    cameras = CAMERA.repeat(len(rolls), 1)
    cameras[:, 5] = torch.tensor(rolls)
    return list(Renderer(make_toy(seed)).render(cameras, size))


def test_rolls_that_are_told_are_turned_away():
    rolls = [math.radians(25), math.radians(-20), 0.0]
    held = hold(Told(rolls), toy(rolls), torch.full((3,), 0.6), known=True)
    torch.testing.assert_close(held.likeliest_rolls, torch.tensor(rolls), atol=1e-3, rtol=0)
    level = to_tensor(toy([0.0]), 128)
    assert (held.views - level).abs().mean() < 0.3 * (to_tensor(toy(rolls[:1]), 128) - level).abs().mean()
    cameras = held.cameras(torch.tensor([[0.4, 0.3, 1.8]]).repeat(3, 1))
    torch.testing.assert_close(cam.plain(cameras), torch.tensor([[0.4, 0.3, 1.8]]).repeat(3, 1))
    torch.testing.assert_close(cameras[:, 5:], torch.tensor([[roll, 0.6] for roll in rolls]), atol=1e-3, rtol=0)
    assert not held.free_view


def test_a_vague_word_on_a_roll_is_taken_for_none_and_others_are_tried():
    held = hold(Told([math.radians(10)], sharpness=0.3), toy([0.0]), torch.full((1,), 0.8), known=False)
    assert held.likeliest_rolls.abs() < math.radians(6) and held.free_view
    tried = held.hypotheses(torch.zeros(200, 1, 3) + 1, torch.Generator().manual_seed(0))[:, 0, 5]
    assert tried[0] == held.likeliest_rolls
    assert 0.3 < (tried == held.likeliest_rolls).float().mean() < 0.9 and tried.std() > math.radians(3)


def test_the_loss_is_least_at_the_truth():
    logits = Told([0.2], sharpness=1.0).attitude(None)
    elevation, roll = expected(logits)
    torch.testing.assert_close(roll, torch.tensor([0.2]), atol=0.02, rtol=0)
    losses = [attitude_loss(logits, elevation, torch.tensor([angle])) for angle in (0.0, 0.2, 0.4)]
    assert losses[1] < min(losses[0], losses[2])


def test_the_shipped_network_sees_how_toys_stand():
    network = load_model(Path(relposepp.__file__).parent / "weights", torch.device("cpu"))
    rolls = [-0.5, -0.25, 0.0, 0.25, 0.5]
    told = torch.cat(
        [expected(network.attitude(to_tensor(toy(rolls, seed), IMAGE_SIZE)))[1] for seed in range(1_000_310, 1_000_318)]
    )
    error = (told - torch.tensor(rolls * 8)).abs().mean()
    assert error < 0.7 * torch.tensor(rolls).abs().mean()
