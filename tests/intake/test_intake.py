"""Every case through the command line's import and through the demo's upload, beside a photo that must come through."""

import json
import shutil
import sys
from pathlib import Path

import drafts
import imageio.v3 as imageio
import numpy as np
import pytest

from sap3d.photos import import_photos, masks
from sap3d.photos.intake import Limits
from sap3d.scene import Scene
from tests.intake.cases import CASES, Case, table
from tests.intake.files import BACK, BOTTOM, TOP, cutout

GOOD = "龥 good.png"  # the last by name
ALL = [pytest.param(case, id=f"{title}: {name}") for title, cases in CASES.items() for name, case in cases.items()]


def bright(rgb: np.ndarray) -> np.ndarray:
    return rgb @ np.array([0.299, 0.587, 0.114])


@pytest.fixture(autouse=True)
def network(monkeypatch):
    """A stand-in that takes for the object what is brighter than the wall."""

    def segment(rgb: np.ndarray) -> np.ndarray:
        return (bright(rgb) > (bright(np.array(BACK)) + bright(np.array(TOP))) / 2) * np.uint8(255)

    monkeypatch.setattr(masks, "segment", segment)


def check_pixels(rgba: np.ndarray, case: Case) -> None:
    """Upright, in its colours, and cut out."""
    rows, columns = np.nonzero(rgba[..., 3] > 200)
    middle, height = (rows.min() + rows.max()) / 2, np.ptp(rows)
    assert height > 1.4 * np.ptp(columns) and abs(len(rows) / (height * np.ptp(columns)) - np.pi / 4) < 0.08
    for half, colour in ((rows < middle - 0.1 * height, TOP), (rows > middle + 0.1 * height, BOTTOM)):
        found = np.median(rgba[rows[half], columns[half], :3].astype(float), axis=0)
        if case.grey:
            found, colour = bright(found), bright(np.array(colour))
        assert np.abs(found - colour).max() <= case.tolerance, (found, colour)


@pytest.mark.parametrize("case", ALL)
def test_by_the_command_line(case, tmp_path, monkeypatch, capsys):
    (tmp_path / "sent").mkdir()
    sent = case.make(tmp_path / "sent")
    cutout(shift=20).save(tmp_path / "sent" / GOOD)
    # A folder is sent as one, unless there are zips: those are named.
    what = [*sent, tmp_path / "sent" / GOOD] if any(path.suffix == ".zip" for path in sent) else [tmp_path / "sent"]
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    command = ["import_photos", "--type", "T", "--object", "o", "--views", "1", "--input", *map(str, what)]
    monkeypatch.setattr(sys, "argv", command)
    import_photos.main()
    said, scene = capsys.readouterr().out, Scene("T", "o", 1)
    text = scene.photo_record.read_text()
    views = json.loads(text)["views"]
    assert [view["photo"] for view in views] == [*case.taken, GOOD]
    assert case.words in said and ("left out: " in said) == (bool(case.words) and not_taken(case)), said
    assert "NaN" not in text and all(view["fov"] is None or 0 < view["fov"] < np.pi for view in views)
    for index in range(len(case.taken)):
        check_pixels(imageio.imread(scene.train / f"images/{index:03d}.png"), case)


@pytest.mark.parametrize("case", ALL)
def test_by_the_demo(case, tmp_path):
    (tmp_path / "sent").mkdir()
    sent = case.make(tmp_path / "sent")
    cutout(shift=20).save(tmp_path / "sent" / GOOD)
    job, refused = drafts.create_job(tmp_path / "jobs", [*sent, tmp_path / "sent" / GOOD], Limits(photos=4))
    photos = job.known["photos"]
    assert [photos[index]["name"] for index in job.chosen] == [*case.taken, GOOD]
    said = [*refused, *(f"{photo['name']}: {photo['problem']}" for photo in photos if photo["problem"])]
    assert len(said) == (bool(case.words) and not_taken(case)), said
    said += [f"{photo['name']}: {notice}" for photo in photos for notice in photo["notices"]]
    assert any(case.words in sentence for sentence in said) or not case.words, said
    for index in job.chosen[: len(case.taken)]:
        check_pixels(imageio.imread(job.cut(index)), case)
    assert {path.name for path in tmp_path.iterdir()} == {"sent", "jobs"}
    shutil.rmtree(tmp_path / "jobs")


def not_taken(case: Case) -> bool:
    """Whether something of a case is left out: its words are of no photo that is taken."""
    return not any(case.words.startswith(f"{name}: ") for name in case.taken)


def test_there_are_as_many_kinds_as_the_docs_say_and_the_same():
    assert len(ALL) >= 60
    assert table() in (Path(__file__).parents[2] / "docs/RELIABILITY.md").read_text()
