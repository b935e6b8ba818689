"""Photos into a scene folder: what is written, and what happens the second time. tests/intake/ has kinds of files."""

import json
import math

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from PIL import Image

from sap3d.errors import UserError
from sap3d.photos import import_photos
from sap3d.photos.reading import Photo
from sap3d.scene import Scene
from sap3d.views import read_fields_of_view, read_images
from tests.sap3d.photos.pictures import cutout, picture


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def test_the_scene_holds_centred_squares_and_says_where_they_come_from(folder):
    Image.fromarray(cutout()).save(folder / "a.png")
    Image.fromarray(picture(centre=(100, 120))[0]).save(folder / "b.jpg", quality=95)
    scene = Scene("DEMO", "thing", 2)
    import_photos.import_photos(scene, [folder])
    first, second = read_images(scene)
    for image in (first, second):
        rows, columns = (np.flatnonzero((image[..., 3] > 127).any(axis)) for axis in (1, 0))
        assert image.shape == (512, 512, 4)
        assert abs(rows.mean() - 255.5) < 4 and abs(columns.mean() - 255.5) < 4
        assert np.ptp(rows) == pytest.approx(512 / 1.68, abs=8)
    # Colours are not darkened where the foreground fades out.
    rim = (first[..., 3] > 60) & (first[..., 3] < 200)
    assert rim.any() and first[rim][:, 0].min() > 120
    record = json.loads((scene.train / "photos.json").read_text())
    assert [view["foreground"] for view in record["views"]] == ["alpha", "grabcut"]
    fields_of_view, known = read_fields_of_view(scene)
    assert not known and fields_of_view.rad2deg().mean() == pytest.approx(49.1, abs=5)
    given, known = read_fields_of_view(scene, 60.0)
    shares = torch.tensor([view["share"] for view in record["views"]])
    torch.testing.assert_close((given / 2).tan(), shares * math.tan(math.radians(30)))
    assert known
    assert imageio.imread(scene.train / "contact_sheet.png").shape == (390, 390, 3)

    written = (scene.train / "images/000.png").stat().st_mtime_ns
    import_photos.import_photos(scene, [folder])  # the same photos: nothing to do
    assert (scene.train / "images/000.png").stat().st_mtime_ns == written
    (folder / "b.jpg").unlink()
    with pytest.raises(UserError, match="not made of these photos"):
        import_photos.import_photos(Scene("DEMO", "thing", 1), [folder])


def test_what_will_not_do_is_left_out_and_told_each_time(folder, capsys):
    for index, where in enumerate([{}, {"centre": (230, 170)}, {"axes": (60, 50)}]):
        Image.fromarray(cutout(**where)).save(folder / f"{index}.png")
    (folder / "notes.png").write_text("hello")
    scene = Scene("DEMO", "thing", 2)
    for _ in range(2):
        import_photos.import_photos(scene, [folder])
        told = capsys.readouterr().out
        assert "left out: 1.png: the object is cut off by the picture's edge\n" in told
        assert "left out: notes.png: not a JPEG" in told
    assert len(read_images(scene)) == 2
    assert [view["photo"] for view in json.loads(scene.photo_record.read_text())["views"]] == ["0.png", "2.png"]


def test_too_few_that_will_do_are_all_named_in_one_line(folder):
    Image.fromarray(cutout()).save(folder / "good.png")
    Image.fromarray(cutout(axes=(9, 9))).save(folder / "dot.png")
    scene = Scene("DEMO", "thing", 2)
    with pytest.raises(UserError, match="1 photo, but VIEWS is 2; dot.png: the object is too small"):
        import_photos.import_photos(scene, [folder])
    assert not scene.train.exists()
    with pytest.raises(UserError, match="2 photos, but VIEWS is 3"):
        import_photos.import_photos(Scene("DEMO", "thing", 3), [folder])
    for nothing in (folder / "elsewhere", folder.parent / "empty"):
        (folder.parent / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=f"{nothing}.*no photos in it"):
            import_photos.import_photos(scene, [nothing])


def direction_picture(yaw: float, focal: float, height: int = 300, width: int = 400) -> np.ndarray:
    """What a camera turned to the left by `yaw` sees of a spot on the sky, coloured by direction, uint8 RGBA."""
    x, y = np.meshgrid(np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2)
    ray = np.stack([x, y, np.full_like(x, focal)], -1)
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    turn = np.array([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]])
    ray = ray @ turn.T
    alpha = (np.hypot(ray[..., 0] / 0.12, ray[..., 1] / 0.08) < 1) & (ray[..., 2] > 0)
    color = 0.5 + 0.4 * np.stack([np.sin(30 * ray[..., 0]), np.sin(30 * ray[..., 1]), np.cos(20 * ray[..., 0])], -1)
    return (np.dstack([color, alpha]) * 255).astype(np.uint8)


def proportions(image: np.ndarray) -> float:
    """Width of the foreground over its height."""
    rows, columns = (np.flatnonzero((image[..., 3] > 127).any(axis)) for axis in (1, 0))
    return len(columns) / len(rows)


def test_an_object_at_the_side_looks_as_in_the_middle_where_the_lens_is_known():
    focal, height, width = 840.0, 600, 800
    pictures = [direction_picture(yaw, focal, height, width) for yaw in (0, -0.3)]
    images, shares = import_photos.framed(pictures, [2 * math.atan(height / 2 / focal)] * 2)
    for image, share in zip(images, shares):
        assert proportions(image) == pytest.approx(0.12 / 0.08, rel=0.015)
        # The square's half angle: the spot is 0.12 wide to either side, with import's margin.
        assert share * width / 2 / focal == pytest.approx(1.68 * 0.12 / math.sqrt(1 - 0.12**2), rel=0.06)
    (middle, side), _ = import_photos.framed(pictures, [None] * 2)
    assert proportions(side) > 1.02 * proportions(middle)  # the lens stretches it by 1 / cos 0.3, pixels apart


def test_unknown_lenses_are_those_of_photos_that_tell():
    def shot(fov: float | None) -> Photo:
        return Photo("a", None, "JPEG", np.zeros((300, 400, 4), np.uint8), "alpha", fov)

    tangent = math.tan(0.5) * 4 / 3  # along the longer side
    fields_of_view, known = import_photos.lenses([shot(1.0), shot(None)], [0.4, 0.5])
    assert known and fields_of_view == pytest.approx([2 * math.degrees(math.atan(s * tangent)) for s in (0.4, 0.5)])
    fields_of_view, known = import_photos.lenses([shot(None)] * 3, [0.4, 0.5, 0.6])
    assert not known and fields_of_view[1] == pytest.approx(49.1)
    assert math.tan(math.radians(fields_of_view[2] / 2)) == pytest.approx(1.2 * math.tan(math.radians(49.1 / 2)))


@pytest.mark.parametrize(("photo", "size"), [(200, 512), (700, 768), (1400, 1024)])
def test_photos_keep_their_resolution(photo, size):
    rgba = np.zeros((photo, photo, 4), np.uint8)
    rgba[int(0.2 * photo) : int(0.8 * photo), int(0.2 * photo) : int(0.8 * photo)] = 255
    for field_of_view in (None, 0.9):
        (image,), _ = import_photos.framed([rgba], [field_of_view])
        assert image.shape == (size, size, 4)
