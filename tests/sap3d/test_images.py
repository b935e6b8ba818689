"""Reading, framing and compositing of photos."""

import numpy as np
import pytest
from PIL import Image

from sap3d import images
from sap3d.errors import UserError


def blob(height=60, width=100, box=(10, 30, 50, 90)) -> np.ndarray:
    rgba = np.zeros((height, width, 4), np.uint8)
    rgba[box[0] : box[1], box[2] : box[3]] = [200, 100, 50, 255]
    return rgba


def save(path, array):
    Image.fromarray(array).save(path)
    return path


def test_rgb_with_a_mask_is_the_rgba_image(tmp_path):
    rgba = blob()
    image = save(tmp_path / "a.png", rgba[..., :3])
    mask = save(tmp_path / "m.png", rgba[..., 3])
    assert (images.read_rgba(image, mask) == rgba).all()
    assert (images.read_rgba(save(tmp_path / "b.png", rgba)) == rgba).all()


def test_sixteen_bits_become_eight(tmp_path):
    grey, alpha = blob()[..., 0].astype(np.uint16), blob()[..., 3].astype(np.uint16)
    image, mask = save(tmp_path / "a.png", grey * 257), save(tmp_path / "m.png", alpha * 200)
    found = images.read_rgba(image, mask)
    assert (found[..., :3] == blob()[..., :1]).all() and found[..., 3].max() == 255 * 200 // 256


def test_bad_images_are_user_errors(tmp_path):
    garbage, empty = tmp_path / "garbage.png", tmp_path / "empty.png"
    garbage.write_bytes(b"not an image")
    empty.touch()
    rgb = save(tmp_path / "rgb.png", blob()[..., :3])
    whole = save(tmp_path / "whole.png", blob())
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:-60])
    for path, mask, message in [
        (garbage, None, "not a readable image"),
        (empty, None, "not a readable image"),
        (cut, None, "not a readable image"),
        (tmp_path / "absent.png", None, "not a readable image"),
        (rgb, None, "no alpha channel and no mask"),
        (rgb, tmp_path / "absent.png", "no mask at"),
        (rgb, save(tmp_path / "small.png", np.full((3, 3), 255, np.uint8)), "pixels"),
        (rgb, save(tmp_path / "black.png", np.zeros((60, 100), np.uint8)), "no foreground"),
        (save(tmp_path / "clear.png", np.zeros((60, 100, 4), np.uint8)), None, "no foreground"),
    ]:
        with pytest.raises(UserError, match=message):
            images.read_rgba(path, mask)


def test_recentre_puts_the_foreground_in_the_middle_of_a_square():
    square = images.recentre(blob(), side=40 * 1.5)
    rows, columns = np.nonzero(square[..., 3])
    assert square.shape[0] == square.shape[1]
    assert abs(rows.min() + rows.max() + 1 - square.shape[0]) <= 1
    assert abs(columns.min() + columns.max() + 1 - square.shape[1]) <= 1
    assert len(rows) == 20 * 40  # nothing is lost, though the square leaves the photo
    assert square.shape[0] == pytest.approx(40 * 1.5, abs=2)


def test_only_square_images_are_taken_as_framed():
    assert images.to_square(blob()).shape[0] != 60
    framed = blob(100, 100)
    assert images.to_square(framed) is framed


@pytest.mark.parametrize("size", [50, 37, 200])
def test_resize_bleeds_no_hidden_colour(size):
    rgba = np.zeros((100, 100, 4), np.uint8)
    rgba[..., 1] = 255  # what is transparent is green
    rgba[30:70, 30:70] = [255, 0, 0, 255]
    small = images.resize(rgba, size)
    assert small.shape == (size, size, 4)
    assert np.allclose(small[0, 0], [1, 1, 1, 0])
    assert np.allclose(small[size // 2, size // 2], [1, 0, 0, 1], atol=0.02)
    # Between red and white, green equals blue: no pixel holds the hidden green.
    assert np.allclose(small[..., 1], small[..., 2], atol=1e-5)


def test_white_compositing_of_half_transparency():
    rgba = np.full((8, 8, 4), [0, 0, 0, 51], np.uint8)
    assert np.allclose(images.resize(rgba, 8), [0.8, 0.8, 0.8, 0.2])


def test_read_on_white(tmp_path):
    path = save(tmp_path / "a.png", np.full((8, 8, 4), [0, 0, 0, 51], np.uint8))
    assert np.allclose(images.read_on_white(path, 16), 0.8, atol=1e-3)
    assert images.read_on_white(save(tmp_path / "b.png", blob(64, 64)[..., :3]), 64)[0, 0].tolist() == [0, 0, 0]


def test_tensors_and_sheets():
    tensor = images.to_tensor([blob(100, 100)], 50)
    assert tensor.shape == (1, 4, 50, 50)
    assert (images.to_uint8(tensor[0, 3]) == 255).sum() == 10 * 20
    sheet = images.sheet(np.zeros((5, 8, 8, 3), np.uint8), columns=3, pad=2)
    assert sheet.shape == (22, 32, 3)
    assert (sheet == 0).all(-1).sum() == 5 * 64
