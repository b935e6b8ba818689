"""What is read off one file beside its pixels, which tests/intake/ has."""

import math

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from sap3d.photos.reading import Photo, focal_length, open_upright, same_shot
from tests.intake.files import HEIGHT, WIDTH, photo

EXIF, ORIENTATION, FOCAL_LENGTH, MOMENT = 0x8769, 0x0112, 0xA405, 0x9003


def test_field_of_view_is_that_of_the_upright_picture(tmp_path):
    for orientation, height in ((1, HEIGHT), (6, WIDTH)):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        exif.get_ifd(EXIF)[FOCAL_LENGTH] = 36
        exif.get_ifd(EXIF)[MOMENT] = "2024:05:06 07:08:09"
        photo().save(tmp_path / "a.jpg", exif=exif)
        image, kind, fov, taken = open_upright(tmp_path / "a.jpg", "a.jpg")
        assert image.size == ((WIDTH, HEIGHT) if orientation == 1 else (HEIGHT, WIDTH))
        # 36 mm on film whose diagonal is 43.27 mm.
        assert fov == pytest.approx(2 * math.atan(height / math.hypot(WIDTH, HEIGHT) * 43.27 / 2 / 36))
        assert kind == "JPEG" and taken == "2024:05:06 07:08:09"
    photo().save(tmp_path / "plain.png")
    assert open_upright(tmp_path / "plain.png", "plain.png")[2:] == (None, None)


@pytest.mark.parametrize(
    ("value", "length"),
    [
        (26, 26.0),
        ((26, 26), 26.0),
        ((0, 26), 26.0),
        ((), None),
        (IFDRational(53, 2), 26.5),
        (IFDRational(0, 0), None),
        (float("nan"), None),
        (float("inf"), None),
        (0, None),
        (-26, None),
        (65535, None),
        ("26", 26.0),
        ("wide", None),
        (b"\0", None),
        (None, None),
    ],
)
def test_only_what_can_be_a_focal_length_counts(value, length):
    assert focal_length(value) == length


@pytest.mark.parametrize(
    ("make", "model", "details", "length"),
    [
        ("Canon", "Canon EOS 450D", {0x920A: 50.0}, 50 * 43.27 / 26.8),
        ("NIKON CORPORATION", "NIKON D90", {0x920A: IFDRational(35)}, 35 * 43.27 / 28.2),
        ("Acme", "One", {0x920A: 50.0}, None),  # a sensor that nobody knows
        # 3000 pixels at 200 to the millimetre: 15 mm wide, and 4 to 3.
        ("Acme", "One", {0x920A: 20.0, 0xA20E: 5080.0, 0xA210: 2, 0xA002: 3000}, 20 * 43.27 / (15 * 1.25)),
        ("Acme", "One", {0x920A: 20.0, 0xA405: 30}, 30.0),
    ],
)
def test_real_focal_lengths_count_where_the_sensor_is_known(tmp_path, make, model, details, length):
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = make, model
    exif.get_ifd(EXIF).update(details)
    Image.new("RGB", (400, 300), "grey").save(tmp_path / "a.jpg", exif=exif)
    fov = open_upright(tmp_path / "a.jpg", "a.jpg")[2]
    assert fov == (length and pytest.approx(2 * math.atan(0.6 * 43.27 / 2 / length), rel=1e-4))


def shot(name: str, shift: int = 0, taken: str | None = None, noise: float = 0.0) -> Photo:
    rgb = np.asarray(photo(shift=shift)) + np.random.default_rng(0).normal(0, noise, (HEIGHT, WIDTH, 3))
    rgba = np.dstack([rgb.clip(0, 255), np.full((HEIGHT, WIDTH), 255)]).astype(np.uint8)
    return Photo(name, None, "JPEG", rgba, "alpha", taken=taken)


def test_one_shot_in_two_files_is_told_from_two_shots():
    assert same_shot(shot("a.jpg"), shot("b.jpg"))
    assert not same_shot(shot("a.jpg"), shot("b.jpg", noise=3))  # a burst, or a turntable
    assert same_shot(shot("IMG_1.HEIC"), shot("img_1.jpg", noise=3))
    assert same_shot(shot("a.jpg", taken="12:00"), shot("b.jpg", noise=3, taken="12:00"))
    assert not same_shot(shot("a.jpg", taken="12:00"), shot("b.jpg", noise=3, taken="12:01"))
    assert not same_shot(shot("a.jpg"), shot("a.png", shift=6))
