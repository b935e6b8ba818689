"""Workers: runs in their order, and what is left when things are killed."""

import os
import signal
import subprocess
import time

import drafts
import imageio.v3 as imageio
import jobs as jb
import numpy as np
import pytest
import worker as wk
from pace import stages

from sap3d.errors import UserError
from sap3d.photos.intake import Limits
from tests.demo.photos import write_photos
from tests.demo.runs import EDIT, PATIENCE, draft, submit, wait_for


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
    wait_for(lambda: not any("sleep\x0061.25" in command(pid) for pid in os.listdir("/proc")))
    submit(job)  # and it can be run again
    assert job.known["state"] == "queued" and not (job.folder / "cancel").exists()
    jb.cancel(job)


def command(pid: str) -> str:
    """A process's arguments, if there is one."""
    try:
        return open(f"/proc/{pid}/cmdline").read()
    except OSError:
        return ""


def test_a_failed_pipeline_says_why(folder, tmp_path, start):
    job = draft(folder, tmp_path)
    (job.folder / "fail").touch()
    submit(job)
    start()
    wait_for(lambda: job.known["state"] == "failed")
    assert job.known["error"] == "error: data fails as it was told"


def test_a_pipeline_that_something_kills_says_so_and_leaves_nothing_behind(folder, tmp_path, start, monkeypatch):
    """Its last words are a stage's bar, which tells a visitor nothing; its stage lives on."""
    monkeypatch.setenv("STAND_IN_SECONDS", "61.75")
    job = draft(folder, tmp_path)
    submit(job)
    start()
    wait_for(lambda: stages(job))
    with job.log.open("a") as log:
        log.write("fit:   1%|     | 6/400 [00:20<21:54,  3.3s/it]\r")
    killed = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and str(job.folder) in command(pid)]
    assert len(killed) == 1 and any("sleep\x0061.75" in command(pid) for pid in os.listdir("/proc"))
    os.kill(killed[0], signal.SIGKILL)
    wait_for(lambda: job.known["state"] == "failed")
    assert job.known["error"].startswith("something outside ended it") and "Press Run" in job.known["error"]
    wait_for(lambda: not any("sleep\x0061.75" in command(pid) for pid in os.listdir("/proc")))


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
