"""Photos into a scene folder: what is written, and what happens the second time. tests/intake/ has kinds of files."""

import json

import imageio.v3 as imageio
import numpy as np
import pytest
from PIL import Image

from sap3d.errors import UserError
from sap3d.photos import import_photos
from sap3d.scene import Scene
from sap3d.views import read_images
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
