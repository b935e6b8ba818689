"""Jobs: drafts, masks, the queue, and what is left when things are killed."""

import os
import shutil
import signal
import subprocess
import threading
import time

import drafts
import imageio.v3 as imageio
import jobs as jb
import numpy as np
import pytest
import worker as wk
from jobs import Choices
from pace import stages

from sap3d.errors import UserError
from sap3d.photos.intake import Limits
from tests.demo.photos import picture, write_photos

PATIENCE = 30.0  # seconds


def wait_for(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "demo").mkdir()
    return tmp_path / "demo/jobs"


@pytest.fixture
def start(folder, stand_in):
    """Starts workers, and ends them after the test."""
    workers = []

    def start_worker() -> wk.Worker:
        workers.append(wk.Worker(folder, "cpu"))
        workers[-1].start()
        return workers[-1]

    yield start_worker
    for worker in workers:
        worker.ends.set()
    for worker in workers:
        worker.join(PATIENCE)
        assert not worker.is_alive()


def draft(folder, tmp_path, count: int = 4, name: str = "sent", back=(70, 90, 160)) -> jb.Job:
    return drafts.create_job(folder, write_photos(tmp_path / name, count, back), Limits())[0]


def submit(job: jb.Job, preset: str = "fast", choices: Choices = Choices()) -> None:  # noqa: B008
    jb.submit(job, preset, choices, [1.0] * 6)


def test_a_draft_has_its_photos_cut_out(folder, tmp_path):
    (tmp_path / "page.png").write_text("<html>")
    job, refused = drafts.create_job(folder, [*write_photos(tmp_path / "sent", 2), tmp_path / "page.png"], Limits())
    assert [photo["name"] for photo in job.known["photos"]] == ["0.jpg", "1.jpg"]
    assert len(refused) == 1 and job.known["state"] == "draft"
    alpha = imageio.imread(job.cut(1))[..., 3] > 127
    truth = (picture(4) != (70, 90, 160)).any(-1)
    assert (alpha & truth).sum() / (alpha | truth).sum() > 0.95
    assert jb.find_job(folder, job.id) == job


@pytest.mark.parametrize("identifier", ["", None, "..", "../../etc", "0" * 32, "A" * 32, "0" * 31 + "/"])
def test_only_identifiers_of_jobs_are_jobs(folder, identifier):
    folder.mkdir()
    assert jb.find_job(folder, identifier) is None


def test_nothing_is_left_of_a_draft_without_photos(folder, tmp_path):
    (tmp_path / "page.png").write_text("<html>")
    with pytest.raises(UserError, match="page.png: not a JPEG"):
        drafts.create_job(folder, [tmp_path / "page.png"], Limits())
    assert not any(folder.iterdir())


EDIT = {"kind": "keep", "tool": "point", "points": [[0.5, 0.5]]}


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


def test_a_job_with_an_unclear_photo_is_not_queued(folder, tmp_path):
    imageio.imwrite(tmp_path / "plain.png", np.full((200, 200, 3), 120, np.uint8))
    job, _ = drafts.create_job(folder, [tmp_path / "plain.png"], Limits())
    assert job.known["photos"][0]["problem"] == "no clear object in it"
    with pytest.raises(UserError, match="No photo can be used"):
        submit(job)
    assert job.known["state"] == "draft"


def test_photos_that_will_not_do_are_left_out_of_the_run(folder, tmp_path, start):
    paths = write_photos(tmp_path / "sent", 3)
    imageio.imwrite(paths[0], np.full((200, 200, 3), 120, np.uint8))
    job, _ = drafts.create_job(folder, paths, Limits())
    assert job.chosen == [1, 2] and job.scene.views == 2
    submit(job)
    (job.folder / "photos/000.jpg").unlink()  # a copy of what is used is all that the pipeline sees
    start()
    wait_for(lambda: job.known["state"] in ("done", "failed"))
    assert sorted(path.name for path in (job.folder / "chosen").iterdir()) == ["001.png", "002.png"]


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


def test_jobs_run_in_order_each_with_its_own_files(folder, tmp_path, start):
    colours = ((70, 90, 160), (60, 150, 80), (120, 70, 140))
    drafts = [draft(folder, tmp_path, 4, str(index), back) for index, back in enumerate(colours)]
    for job in drafts:
        submit(job)
    assert jb.queue(folder) == drafts
    with pytest.raises(UserError, match="runs already"):
        submit(drafts[0])
    start()
    wait_for(lambda: all(job.known["state"] == "done" for job in drafts))
    for job in drafts:
        expected = subprocess.run(["cksum"], stdin=job.cut(0).open(), capture_output=True, text=True).stdout
        assert (job.results / "points.ply").read_text() == expected
        assert "--preset fast" in (job.results / "report.html").read_text()
        assert {"mesh.glb", "poses.json", "mesh.zip", "turntable.mp4"} <= {p.name for p in job.results.iterdir()}
    ended = [job.known["ended"] for job in drafts]
    assert ended == sorted(ended)
    assert [stage.name for stage in stages(drafts[0])] == list(jb.STAGES)


def test_two_workers_never_take_the_same_job(folder, tmp_path, start, monkeypatch):
    monkeypatch.setenv("STAND_IN_SECONDS", "0.02")
    jobs = [draft(folder, tmp_path, 1) for _ in range(4)]
    for job in jobs:
        submit(job, "standard")
    began = []
    first = wk.subprocess.Popen
    monkeypatch.setattr(
        wk.subprocess, "Popen", lambda *a, env, **k: began.append(env["ROOT_DIR"]) or first(*a, env=env, **k)
    )
    start()
    start()
    wait_for(lambda: all(job.known["state"] == "done" for job in jobs))
    assert sorted(began) == sorted(str(job.folder / "root") for job in jobs)


def test_a_cancelled_pipeline_ends_with_its_children(folder, tmp_path, start, monkeypatch):
    monkeypatch.setenv("STAND_IN_SECONDS", "61.25")
    job, waiting = draft(folder, tmp_path), draft(folder, tmp_path)
    submit(job)
    submit(waiting)
    start()
    wait_for(lambda: job.known["state"] == "running" and stages(job))
    with pytest.raises(UserError, match="Cancel it first"):
        drafts.edit(job, 0, EDIT)
    for each in (waiting, job):
        jb.cancel(each)
    wait_for(lambda: {job.known["state"], waiting.known["state"]} == {"cancelled"})
    assert "sleep\x0061.25" not in "".join(
        open(f"/proc/{pid}/cmdline").read() for pid in os.listdir("/proc") if pid.isdigit() and readable(pid)
    )
    submit(job)  # and it can be run again
    assert job.known["state"] == "queued" and not (job.folder / "cancel").exists()
    jb.cancel(job)


def readable(pid: str) -> bool:
    try:
        return bool(open(f"/proc/{pid}/cmdline").read())
    except OSError:
        return False


def test_a_failed_pipeline_says_why(folder, tmp_path, start):
    job = draft(folder, tmp_path)
    (job.folder / "fail").touch()
    submit(job)
    start()
    wait_for(lambda: job.known["state"] == "failed")
    assert job.known["error"] == "error: data fails as it was told"


def test_what_a_killed_server_left_goes_on(folder, tmp_path, start):
    """The state says running, and nobody holds the lock."""
    job = draft(folder, tmp_path)
    submit(job)
    job.note(state="running", started=time.time())
    start()
    wait_for(lambda: job.known["state"] == "done")


def test_a_server_that_ends_ends_its_pipelines_and_they_run_again(folder, tmp_path, start, monkeypatch):
    monkeypatch.setenv("STAND_IN_SECONDS", "61.5")
    job = draft(folder, tmp_path)
    submit(job)
    worker = start()
    wait_for(lambda: stages(job))
    worker.ends.set()
    worker.join(PATIENCE)
    assert job.known["state"] == "running"
    monkeypatch.setenv("STAND_IN_SECONDS", "0.01")
    start()
    wait_for(lambda: job.known["state"] == "done")


def test_what_outlives_its_server_is_waited_for(folder, tmp_path, start):
    """The pipeline of a server that was killed holds the job's lock until it ends."""
    job = draft(folder, tmp_path)
    submit(job)
    job.note(state="running", started=time.time())
    holder = subprocess.Popen(["flock", str(job.folder / ".lock"), "sleep", "60"], start_new_session=True)
    wait_for(lambda: subprocess.run(["flock", "-n", str(job.folder / ".lock"), "true"]).returncode)
    start()
    time.sleep(4 * wk.POLL)
    assert job.known["state"] == "running" and not job.log.exists()
    os.killpg(holder.pid, signal.SIGKILL)
    holder.wait()
    wait_for(lambda: job.known["state"] == "done")


def test_old_jobs_are_removed_but_not_those_that_wait(folder, tmp_path):
    old, waiting, new = (draft(folder, tmp_path) for _ in range(3))
    submit(waiting)
    for job in (old, waiting):
        job.note(created=time.time() - 2 * jb.KEEP)
    jb.remove_old(folder)
    assert {job.id for job in jb.all_jobs(folder)} == {waiting.id, new.id}
    shutil.rmtree(folder)


def test_published_weights_are_offered_where_they_are_and_passed_on(folder, tmp_path, stand_in, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    assert wk.published_options() == []
    paths = [tmp_path / "camerabooth/weights/zero123-xl.ckpt", tmp_path / "pose.pth"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    options = wk.published_options(pose_checkpoint="pose.pth")
    assert options[:2] == ["--backbone", "published"] and options[3::2] == [str(path) for path in paths]
    commands, popen = [], wk.subprocess.Popen

    def noted(command, **more):
        commands.append(command)
        return popen(command, **more)

    monkeypatch.setattr(wk.subprocess, "Popen", noted)
    for effort, expected in ((jb.PUBLISHED, options), ("fast", ["--preset", "fast"])):
        job = draft(folder, tmp_path, name=effort)
        submit(job, effort)
        with (job.folder / ".lock").open("w") as lock:
            wk.Worker(folder, "cpu", options, ["tuning.steps=3"]).process(job, lock.fileno())
        assert job.known["state"] == "done"
        assert commands.pop()[8:] == [*expected, "tuning.steps=3"]
