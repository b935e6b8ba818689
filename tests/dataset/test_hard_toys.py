"""Hard toys are what their names say, and the same on every run."""

import numpy as np
import pytest
import torch

from dataset.hard_toys import FAMILIES, demo_toy, make_hard_toy
from dataset.prepare import load_object
from dataset.render import Renderer

FLAT_ON = [[0.0, turn, 2.0] for turn in np.radians(range(0, 360, 45))]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_makes_the_same_normalised_toy(family):
    extents = set()
    for seed in range(6):
        mesh = make_hard_toy(family, seed)
        np.testing.assert_array_equal(mesh.vertices, make_hard_toy(family, seed).vertices)
        assert np.isfinite(mesh.vertices).all() and mesh.extents.max() <= 1 + 1e-6
        extents.add(tuple(mesh.extents.round(4)))
    assert len(extents) == 6


def silhouettes(mesh) -> np.ndarray:
    return Renderer(mesh).render(torch.tensor(FLAT_ON), 48)[..., 3] > 127


def test_round_toys_have_nearly_the_same_outline_from_everywhere():
    for seed in range(4):
        views = silhouettes(make_hard_toy("round", seed))
        common, any_ = views.all(0).sum(), views.any(0).sum()
        assert common / any_ > 0.75


def test_flat_toys_are_thin_from_one_side_and_their_faces_differ():
    for seed in range(4):
        mesh = make_hard_toy("flat", seed)
        areas = silhouettes(mesh).sum((1, 2))
        assert areas.min() < 0.65 * areas.max()
        front = int(areas.argmax())
        pair = torch.tensor([FLAT_ON[front], FLAT_ON[(front + 4) % 8]])
        images = Renderer(mesh).render(pair, 48)
        both = (images[..., 3] == 255).all(0)
        difference = np.abs(images[0, ..., :3].astype(float) - images[1, :, ::-1, :3])[both & both[:, ::-1]]
        assert difference.mean() > 10


def test_demo_names():
    np.testing.assert_array_equal(load_object("toy_demo", "flat_003").vertices, demo_toy("flat_003").vertices)
    assert demo_toy("toy_003") is None and demo_toy("flat_3") is None
