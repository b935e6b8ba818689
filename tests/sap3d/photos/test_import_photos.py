"""Photos into a scene folder: what is read, what is found, what is refused."""

import json
import math
import sys
import types

import imageio.v3 as imageio
import numpy as np
import pytest
from PIL import Image
from pillow_heif import register_heif_opener

from sap3d.errors import UserError
from sap3d.photos import import_photos
from sap3d.scene import Scene
from sap3d.views import read_images

HEIGHT, WIDTH = 240, 320
EXIF, ORIENTATION, FOCAL_LENGTH = 0x8769, 0x0112, 0xA405


def picture(centre=(130, 170), axes=(70, 40), back=(70, 90, 160)) -> tuple[np.ndarray, np.ndarray]:
    """A patterned orange ellipse on a noisy, shaded plain: RGB and its mask."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    mask = ((y - centre[0]) / axes[0]) ** 2 + ((x - centre[1]) / axes[1]) ** 2 < 1
    plain = np.array(back) * (0.8 + 0.4 * x / WIDTH)[..., None]
    pattern = np.where((y // 12 + x // 12)[..., None] % 2, (230, 120, 30), (190, 60, 40))
    rgb = np.where(mask[..., None], pattern, plain) + rng.normal(0, 4, (HEIGHT, WIDTH, 3))
    return rgb.clip(0, 255).astype(np.uint8), mask


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "heic"])
def test_an_object_before_a_plain_background_is_found(folder, suffix):
    register_heif_opener()
    rgb, mask = picture()
    path = folder / f"photo.{suffix}"
    Image.fromarray(rgb).save(path, quality=95)
    photo = import_photos.read_photo(path)
    assert photo.method == "grabcut" and photo.problem() is None
    assert iou(photo.rgba[..., 3] > 127, mask) > 0.93
    assert np.abs(photo.rgba[..., :3].astype(int) - rgb).mean() < 6


def test_the_scene_holds_centred_squares_and_says_where_they_come_from(folder):
    rgb, mask = picture()
    Image.fromarray(np.dstack([rgb, mask * np.uint8(255)])).save(folder / "a.png")
    Image.fromarray(picture(centre=(100, 120))[0]).save(folder / "b.jpg", quality=95)
    scene = Scene("DEMO", "thing", 2)
    import_photos.import_photos(scene, folder)
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
    assert imageio.imread(scene.train / "contact_sheet.png").shape == (390, 390, 3)

    written = (scene.train / "images/000.png").stat().st_mtime_ns
    import_photos.import_photos(scene, folder)  # the same photos: nothing to do
    assert (scene.train / "images/000.png").stat().st_mtime_ns == written
    (folder / "b.jpg").unlink()
    with pytest.raises(UserError, match="not made of these photos"):
        import_photos.import_photos(Scene("DEMO", "thing", 1), folder)


def test_orientation_and_field_of_view_come_from_exif(folder):
    rgb, _ = picture()
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be turned by 90° clockwise
    exif.get_ifd(EXIF)[FOCAL_LENGTH] = 36
    Image.fromarray(rgb).save(folder / "turned.jpg", quality=95, exif=exif)
    photo = import_photos.read_photo(folder / "turned.jpg")
    assert photo.rgba.shape[:2] == (WIDTH, HEIGHT)
    assert np.abs(photo.rgba[..., :3].astype(int) - np.rot90(rgb, -1)).mean() < 6
    # The picture's longer side, now upright, is 0.8 of its diagonal: 34.6 mm of film.
    assert photo.fov == pytest.approx(2 * math.atan(0.8 * 43.27 / 2 / 36))
    assert import_photos.read_photo(save(folder, "plain.png", rgb)).fov is None


def save(folder, name: str, array: np.ndarray):
    Image.fromarray(array).save(folder / name)
    return folder / name


def test_sixteen_bits_grey_and_palette_are_read(folder):
    rgb, mask = picture()
    grey = rgb.mean(-1)
    path = save(folder, "sixteen.png", (grey * 257).astype(np.uint16))
    assert np.abs(import_photos.read_photo(path).rgba[..., 0] - grey).mean() < 2
    Image.fromarray(rgb).convert("P").save(folder / "palette.png")
    assert iou(import_photos.read_photo(folder / "palette.png").rgba[..., 3] > 127, mask) > 0.9
    Image.fromarray(rgb).convert("CMYK").save(folder / "cmyk.jpg")
    assert iou(import_photos.read_photo(folder / "cmyk.jpg").rgba[..., 3] > 127, mask) > 0.9


def test_pictures_without_a_clear_object_are_all_named(folder):
    rng = np.random.default_rng(1)
    rgb, mask = picture()
    save(folder, "a_noise.png", rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    save(folder, "b_dot.png", np.dstack([rgb, picture(axes=(8, 8))[1] * np.uint8(255)]))
    save(folder, "c_cut.png", np.dstack([rgb, picture(centre=(230, 170))[1] * np.uint8(255)]))
    save(folder, "d_full.png", np.dstack([rgb, picture(axes=(400, 400))[1] * np.uint8(255)]))
    save(folder, "e_good.png", np.dstack([rgb, mask * np.uint8(255)]))
    # Opaque all over, d_full counts as without alpha; a corner makes it a cutout.
    cutout = np.dstack([rgb, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    cutout[:20, :20, 3] = 0
    save(folder, "d_full.png", cutout)
    scene = Scene("DEMO", "thing", 2)
    with pytest.raises(UserError) as error:
        import_photos.import_photos(scene, folder)
    line = str(error.value)
    assert "a_noise.png: " in line and "b_dot.png: no clear object" in line
    assert "c_cut.png: the object is cut off" in line and "d_full.png: the object fills" in line
    assert "e_good" not in line and "\n" not in line
    assert not scene.train.exists()


def test_what_is_no_photo_is_refused_by_name(folder):
    rgb, _ = picture()
    with pytest.raises(UserError, match="no photos"):
        import_photos.photo_paths(folder)
    with pytest.raises(UserError, match="no such folder"):
        import_photos.photo_paths(folder / "elsewhere")
    (folder / "page.png").write_text("<html></html>")
    whole = save(folder, "whole.jpg", rgb).read_bytes()
    (folder / "half.jpg").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(rgb).save(folder / "moving.png", save_all=True, append_images=[Image.fromarray(255 - rgb)])
    Image.new("1", (20000, 20000)).save(folder / "huge.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    assert [path.name for path in import_photos.photo_paths(folder)] == [
        "half.jpg", "huge.png", "moving.png", "page.png", "whole.jpg"
    ]  # fmt: skip
    for name, reason in {
        "page.png": "not a readable picture",
        "half.jpg": "not a readable picture",
        "moving.png": "an animation",
        "huge.png": "pixels, at most 100 million|not a readable picture",
    }.items():
        with pytest.raises(UserError, match=f"{name}: .*({reason})"):
            import_photos.read_photo(folder / name)
    with pytest.raises(UserError, match="5 photos, but VIEWS is 6"):
        import_photos.import_photos(Scene("DEMO", "thing", 6), folder)
    with pytest.raises(UserError, match="cannot be a type or an object"):
        Scene("DEMO", "../thing", 1)


def test_rembg_is_asked_when_it_and_its_model_are_there(folder, tmp_path, monkeypatch):
    rgb, mask = picture()
    fake = types.ModuleType("rembg")
    fake.remove = lambda image, only_mask: Image.fromarray(mask * np.uint8(255))
    monkeypatch.setitem(sys.modules, "rembg", fake)
    path = save(folder, "photo.png", rgb)
    monkeypatch.setattr(import_photos, "REMBG_MODEL", tmp_path / "no.onnx")
    assert import_photos.read_photo(path).method == "grabcut"
    monkeypatch.setattr(import_photos, "REMBG_MODEL", path)
    photo = import_photos.read_photo(path)
    assert photo.method == "rembg" and iou(photo.rgba[..., 3] > 127, mask) == 1
