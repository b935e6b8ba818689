"""Drafts: photos that are cut out, mended and put in order before a run."""

import threading

import drafts
import imageio.v3 as imageio
import jobs as jb
import numpy as np
import pytest

from sap3d.errors import UserError
from sap3d.photos.intake import Limits
from tests.demo.photos import picture, write_photos
from tests.demo.runs import EDIT, PATIENCE, draft, submit, wait_for


def test_a_draft_has_its_photos_cut_out(folder, tmp_path):
    (tmp_path / "page.png").write_text("<html>")
    job, refused = drafts.create_job(folder, [*write_photos(tmp_path / "sent", 2), tmp_path / "page.png"], Limits())
    assert [photo["name"] for photo in job.known["photos"]] == ["0.jpg", "1.jpg"]
    assert len(refused) == 1 and job.known["state"] == "draft"
    alpha = imageio.imread(job.cut(1))[..., 3] > 127
    truth = (picture(4) != (70, 90, 160)).any(-1)
    assert (alpha & truth).sum() / (alpha | truth).sum() > 0.95
    assert jb.find_job(folder, job.id) == job


def test_nothing_is_left_of_a_draft_without_photos(folder, tmp_path):
    (tmp_path / "page.png").write_text("<html>")
    with pytest.raises(UserError, match="page.png: not a JPEG"):
        drafts.create_job(folder, [tmp_path / "page.png"], Limits())
    assert not any(folder.iterdir())


def test_edits_change_an_outline_and_are_undone_one_by_one(folder, tmp_path):
    """A green disc beside the object is neither: only a person can say whether it belongs to it."""
    y, x = np.mgrid[:200, :200]
    disc = (y - 40) ** 2 + (x - 165) ** 2 < 18**2
    rgb = np.where(disc[..., None], (40, 170, 60), picture()).astype(np.uint8)
    imageio.imwrite(tmp_path / "a.png", rgb)
    job, _ = drafts.create_job(folder, [tmp_path / "a.png"], Limits())

    def share(part) -> float:
        return (imageio.imread(job.cut(0))[..., 3] > 127)[part].mean()

    before = share(disc)
    assert before < 0.1 and share((y - 100) ** 2 + (x - 100) ** 2 < 20**2) == 1
    drafts.edit(job, 0, EDIT | {"points": [[165 / 200, 40 / 200]]})
    assert share(disc) > 0.9 and job.known["photos"][0]["method"] == "marked"
    drafts.edit(job, 0, EDIT | {"kind": "remove", "points": [[165 / 200, 40 / 200]]})
    assert share(disc) < 0.1
    drafts.edit(job, 0, None)
    assert share(disc) > 0.9 and len(job.known["photos"][0]["edits"]) == 1
    drafts.edit(job, 0, None)
    drafts.edit(job, 0, None)  # there is nothing more to undo
    assert share(disc) == before and job.known["photos"][0]["method"] == "grabcut"


def test_a_job_is_queued_with_the_edit_that_was_being_made(folder, tmp_path, monkeypatch):
    job, marking, submitted = draft(folder, tmp_path, 1), threading.Event(), threading.Event()
    mend = drafts.mend

    def slow(*arguments):
        marking.set()
        submitted.wait(0.5)
        return mend(*arguments)

    def start() -> None:
        submit(job)
        submitted.set()

    monkeypatch.setattr(drafts, "mend", slow)
    threads = [threading.Thread(target=drafts.edit, args=(job, 0, EDIT)), threading.Thread(target=start)]
    threads[0].start()
    assert marking.wait(PATIENCE)
    threads[1].start()
    for thread in threads:
        thread.join(PATIENCE)
    assert submitted.is_set() and job.known["state"] == "queued"
    assert job.known["photos"][0]["edits"][0]["points"] == [[0.5, 0.5]]


def test_what_has_been_run_is_never_changed(folder, tmp_path, start):
    job = draft(folder, tmp_path, 2)
    assert drafts.changeable(job, folder) == job
    submit(job)
    start()
    wait_for(lambda: job.known["state"] == "done")
    before = job.known
    for change in (lambda: drafts.edit(job, 0, EDIT), lambda: drafts.move(job, 0, 1), lambda: submit(job)):
        with pytest.raises(UserError):
            change()
    version = drafts.changeable(job, folder)
    drafts.edit(version, 0, EDIT)
    drafts.leave_out(version, 1, True)
    assert version != job and version.chosen == [0] and job.chosen == [0, 1] and job.known == before
    assert jb.versions(folder, version) == [job, version]
    assert (job.results / "mesh.glb").exists() and jb.find_shared(folder, job.token) == job
    assert jb.find_shared(folder, version.token) is None


def test_photos_are_added_to_a_draft_in_the_order_of_their_names(folder, tmp_path):
    first, second, third = write_photos(tmp_path / "sent", 3)
    job, _ = drafts.create_job(folder, [first, third], Limits())
    drafts.edit(job, 1, EDIT)
    marked = imageio.imread(job.cut(1))
    (tmp_path / "twin.jpg").write_bytes(first.read_bytes())
    more, refused = drafts.create_job(folder, [second, tmp_path / "twin.jpg"], Limits(), job)
    assert [photo["name"] for photo in more.known["photos"]] == ["0.jpg", "1.jpg", "2.jpg"]
    assert len(more.known["photos"][2]["edits"]) == 1 and np.array_equal(imageio.imread(more.cut(2)), marked)
    assert refused == ["twin.jpg: the same picture as 0.jpg"]
    drafts.move(more, 0, 1)
    last, _ = drafts.create_job(folder, write_photos(tmp_path / "late", 4)[3:], Limits(), more)
    assert [photo["name"] for photo in last.known["photos"]] == [
        "1.jpg",
        "0.jpg",
        "2.jpg",
        "3.jpg",
    ]  # as a person had it
    with pytest.raises(UserError, match="5 files, but at most 2"):
        drafts.create_job(folder, [second], Limits(photos=2), job)
    assert last == job and len(job.known["photos"]) == 4  # the draft itself, which a refusal leaves as it was
