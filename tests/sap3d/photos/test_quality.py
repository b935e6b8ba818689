"""Which photos will not do, which will do badly, and in which words."""

import cv2
import numpy as np
import pytest

from sap3d.photos.quality import DOUBTFUL, OUTPUT, UNDECIDED, notices, problem, undecided
from tests.sap3d.photos.pictures import cutout, picture

METHODS = ("alpha", "network", "grabcut", "marked")


@pytest.mark.parametrize("method", METHODS)
def test_a_clear_object_will_do(method):
    assert problem(cutout(), method) is None and notices(cutout(), method) == []


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("where", "words"),
    [
        ({"axes": (0.1, 0.1)}, "no clear object"),
        ({"axes": (12, 12)}, "too small"),
        ({"centre": (230, 170)}, "cut off"),
        ({"centre": (60, 300), "axes": (40, 40)}, "cut off"),
        ({"axes": (400, 400)}, "fills the picture"),
    ],
)
def test_bad_photos_are_named_whatever_found_the_object(method, where, words):
    if method == "alpha" and words == "fills the picture":
        pytest.skip("an alpha channel without background says nothing, so it is not asked")
    assert words in problem(cutout(**where), method)


def test_a_mask_that_ends_just_before_the_border_is_cut_off():
    """A network's does by a pixel or two, GrabCut's by the frame that it is told to be background."""
    rgba = cutout(centre=(230, 170))
    rgba[-3:, :, 3] = 0
    assert "cut off" in problem(rgba, "network") and problem(rgba, "marked") is None
    rgba[-9:, :, 3] = 0
    assert "cut off" in problem(rgba, "grabcut") and problem(rgba, "network") is None


def test_a_cutout_that_is_cropped_to_its_object_is_not_cut_off():
    box = np.full((120, 80, 4), 255, np.uint8)
    box[:25, :20, 3] = 0
    assert problem(box, "alpha") is None and "fills" in problem(np.full_like(box, 255), "network")


def test_a_network_that_saw_nothing_in_particular_is_noticed():
    rgb, _ = picture()
    alpha = np.random.default_rng(0).integers(0, 256, rgb.shape[:2]).astype(np.uint8)
    assert problem(np.dstack([rgb, alpha]), "network") == "no clear object in it"


def test_what_looks_like_its_background_is_refused_from_grabcut_alone():
    rng = np.random.default_rng(0)
    rgba = cutout()
    rgba[..., :3] = rng.normal(120, 5, (*rgba.shape[:2], 3))
    assert "look alike" in problem(rgba, "grabcut") and problem(rgba, "network") is None


@pytest.mark.parametrize("angle", [0, 30, 75])
def test_a_smear_is_noticed(angle):
    rgba = cutout()
    assert notices(rgba, "network") == []
    kernel = np.zeros((31, 31), np.float32)
    cv2.ellipse(kernel, (15, 15), (15, 0), angle, 0, 360, 1.0)
    rgba[..., :3] = cv2.filter2D(rgba[..., :3], -1, kernel / kernel.sum())
    assert notices(rgba, "network") == ["blurred: hold still, or lean the camera on something"]


def test_a_second_object_is_noticed():
    both = np.maximum(cutout(centre=(120, 110)), cutout(centre=(120, 220)))
    assert "two things" in notices(both, "network")[0] and notices(both, "alpha") == []


def test_a_sharp_outline_is_not_undecided_however_thin_the_object():
    rods = np.zeros((OUTPUT, OUTPUT), np.uint8)
    rods[40:280, (np.arange(OUTPUT) % 20 < 5) & (np.arange(OUTPUT) > 40)] = 255
    thin = cv2.resize(cv2.blur(cv2.resize(rods, None, fx=3, fy=3), (3, 3)), (640, 480))  # soft over one output pixel
    assert ((thin > 63) & (thin < 192)).sum() > 0.1 * (thin > 127).sum()
    assert undecided(thin) < DOUBTFUL
    vague = cv2.GaussianBlur(rods, (0, 0), 8)  # about one half all over
    assert undecided(vague) > UNDECIDED
    ball = cv2.circle(np.zeros((480, 640), np.uint8), (320, 240), 100, 255, -1)
    assert undecided(ball) == 0
    ball[200:280, 300:340] = 128  # a part of which the network does not know
    assert undecided(ball) > 5 * DOUBTFUL
