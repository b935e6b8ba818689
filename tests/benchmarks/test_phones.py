"""Photos with faults, whose cameras and content are known."""

import numpy as np

from benchmarks import phones
from dataset.render import Renderer
from dataset.toys import make_toy, toy_seed
from relposepp.outliers import EVEN


def test_an_object_that_lay_is_seen_as_if_the_camera_had_turned():
    mesh = make_toy(toy_seed("toy_301"))
    standing, cameras = phones.set_cameras("plain", 3), phones.set_cameras("laid", 3)
    lying = (standing != cameras).any(1)
    assert lying.sum() == 2
    turned = mesh.copy()
    turned.vertices = turned.vertices @ phones.LAYING.numpy().T
    seen, expected = Renderer(mesh).render(cameras, 48), Renderer(turned).render(standing, 48)
    for view in range(phones.VIEWS):
        differs = (seen[view][..., 3] > 127) != (expected[view][..., 3] > 127)
        assert (differs.mean() < 0.01) == bool(lying[view])


def test_blur_smears_along_a_line_and_keeps_what_there_is():
    photo = np.zeros((129, 129, 4), np.uint8)
    photo[60:69, 60:69] = (200, 100, 50, 255)
    moved = phones.blurred(photo, np.random.default_rng(0))
    assert abs(moved[..., 3].sum(dtype=float) / photo[..., 3].sum(dtype=float) - 1) < 0.05
    y, x = np.nonzero(moved[..., 3] > 3)
    spread = np.linalg.eigvalsh(np.cov(np.stack([x, y])))
    assert spread[1] > 2 * spread[0]
    assert np.allclose(moved[moved[..., 3] > 60][:, :3], (200, 100, 50), atol=3)


def test_calibration_weighs_sets_by_how_often_they_are():
    stands = {"kind": "plain", "confidence": [0.8, 0.8], "placed": [1.0, 1.0], "contradiction": EVEN}
    lay = {"kind": "laid", "confidence": [0.8], "placed": [0.0], "contradiction": EVEN}
    expected = (-np.log(0.4) - phones.LAID * np.log(0.6)) / (1 + phones.LAID)
    assert np.isclose(phones.likelihood([stands, lay], EVEN, 2.5), expected)
    assert np.isclose(phones.likelihood([stands], np.inf, 2.5), -np.log(0.8))
