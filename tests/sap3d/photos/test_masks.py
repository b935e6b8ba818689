"""What counts as the object: by alpha channels, by the network's masks, and what is left out."""

import numpy as np
import pytest

from sap3d.photos import masks
from sap3d.photos.masks import cut_out, find_foreground, one_object
from tests.sap3d.photos.pictures import HEIGHT, WIDTH, cutout, iou, picture


def disc(y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def soft(*parts: np.ndarray) -> np.ndarray:
    return np.any([np.zeros((HEIGHT, WIDTH), bool), *parts], 0) * np.uint8(255)


@pytest.mark.parametrize("background", [0, 30, 100, 127, 128, 160])
def test_an_alpha_channel_tells_the_object_whatever_its_background_is(background):
    mask = picture()[1]
    found = cut_out(np.where(mask, 255, background).astype(np.uint8))
    assert np.array_equal(found, mask * np.uint8(255))


def test_a_half_transparent_object_is_whole():
    mask = picture()[1]
    assert np.array_equal(cut_out(mask * np.uint8(110)), mask * np.uint8(255))


def test_soft_edges_of_a_cutout_stay_as_they_are():
    ramp = np.tile(np.linspace(0, 255, 64).round(), (40, 1))
    alpha = np.concatenate([np.zeros((40, 200)), ramp, np.full((40, 200), 255)], 1).astype(np.uint8)
    assert np.array_equal(cut_out(alpha), alpha)


@pytest.mark.parametrize("kind", ["nearly", "clear", "corners", "dot"])
def test_an_alpha_channel_that_says_nothing_is_not_asked(kind):
    alpha = np.full((HEIGHT, WIDTH), 0 if kind == "clear" else 255, np.uint8)
    if kind == "nearly":
        alpha[:100] = 250
    if kind == "corners":
        alpha[~disc(HEIGHT / 2, WIDTH / 2, 190)] = 0
    if kind == "dot":
        alpha[0, 0] = 0
    assert cut_out(alpha) is None


def test_a_stray_pixel_is_left_out_and_told():
    rgba = cutout()
    rgba[3, 310, 3] = 255
    found, method, said = find_foreground(rgba)
    assert method == "alpha" and np.array_equal(found, cutout()[..., 3])
    assert said == ["a part beside the object left out (specks)"]


def test_an_object_of_parts_keeps_them():
    pair = soft(disc(120, 110, 45), disc(120, 210, 40))  # two shoes
    kept, said = one_object(pair)
    assert np.array_equal(kept, pair) and not said
    chain = soft(*(disc(120, x, 18) for x in range(40, 300, 45)))  # each is near the next
    kept, said = one_object(chain)
    assert np.array_equal(kept, chain) and not said
    assert one_object(soft())[1] == []


def test_what_lies_far_from_the_object_is_left_out_with_its_soft_edge():
    mask = soft(disc(120, 100, 60))
    far = mask + (disc(30, 290, 12) * np.uint8(255)) + (disc(30, 290, 15) & ~disc(30, 290, 12)) * np.uint8(90)
    kept, said = one_object(far)
    assert np.array_equal(kept, mask) and said == ["a part beside the object left out (4% of its size)"]
    edge = (disc(120, 100, 64) & ~disc(120, 100, 60)) * np.uint8(60)
    assert np.array_equal(one_object(far + edge)[0], mask + edge)


def test_of_two_things_the_one_in_the_middle_counts():
    middle, aside = disc(120, 160, 40), disc(40, 30, 42)
    assert np.array_equal(one_object(soft(middle, aside))[0], soft(middle))


def test_the_network_is_asked_before_grabcut_and_after_alpha(monkeypatch):
    rgb, mask = picture()
    seen = []
    monkeypatch.setattr(masks, "segment", lambda rgb: seen.append(rgb.shape) or soft(mask, disc(10, 300, 4)))
    opaque = np.dstack([rgb, np.full(mask.shape, 255, np.uint8)])
    found, method, said = find_foreground(opaque)
    assert method == "network" and np.array_equal(found, soft(mask)) and len(said) == 1
    assert seen == [(HEIGHT, WIDTH, 3)]
    assert find_foreground(cutout())[1] == "alpha" and len(seen) == 1
    monkeypatch.setattr(masks, "segment", lambda rgb: None)
    found, method, said = find_foreground(opaque)
    assert method == "grabcut" and iou(found > 127, mask) > 0.93 and not said
