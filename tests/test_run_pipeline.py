"""The many-object launcher around a stand-in for run_pipeline.sh, whose jobs are told by their names what to do."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launcher import REPOSITORY, copy_launcher


@pytest.fixture
def repository(tmp_path) -> Path:
    return copy_launcher(tmp_path)


def start(repository: Path, *arguments: str) -> subprocess.Popen:
    """The launcher, without the packages of the test's environment: it may need none."""
    command = [sys.executable, "-S", "run_pipeline.py", "--object_type", "toys", "--cpu", *arguments]
    return subprocess.Popen(
        command,
        cwd=repository,
        env={"PATH": os.environ["PATH"], "ROOT_DIR": str(repository)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell's background job, as a test run may be, has its interrupts ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(path: Path, text: str = "") -> None:
    deadline = time.monotonic() + 20
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


def states(repository: Path) -> dict[str, str]:
    jobs = json.loads((repository / "results/summary.json").read_text())["jobs"]
    return {f"{job['object']} {job['views']}": job["state"] for job in jobs}


def test_failures_are_tried_again_and_stop_nothing(repository):
    run = start(repository, "--objects", "broken", "shaky", "fine", "--views", "2", "3", "--slots", "2", "--seed", "4")
    output = run.communicate(timeout=60)[0]
    assert run.returncode == 1
    expected = {f"{name} {views}": state for views in (2, 3) for name, state in
                (("broken", "failed"), ("shaky", "done"), ("fine", "done"))}  # fmt: skip
    assert states(repository) == expected
    assert output.count("failed twice: toys/broken") == 2 and "error: this one never works" in output
    assert (repository / "starts").read_text().count("broken 2") == 2
    summary = json.loads((repository / "results/summary.json").read_text())
    fine = next(job for job in summary["jobs"] if job["object"] == "fine")
    assert fine["3d_psnr_mean"] == 20.5 and fine["seconds"] == 1.5 and fine["attempts"] == 1

    # What is done is skipped; what failed is tried again; another seed is another result.
    (repository / "starts").unlink()
    assert start(repository, "--objects", "broken", "fine", "--views", "2", "--seed", "4").wait(60) == 1
    assert (repository / "starts").read_text().split("\n") == ["start broken 2", "start broken 2", ""]
    assert start(repository, "--objects", "fine", "--views", "2").wait(60) == 0
    assert json.loads((repository / "results/toys/fine/2/results.json").read_text())["seed"] == 0


def test_folders_of_photos_are_objects(repository):
    for name in ("mug", "shoe", ".hidden"):
        (repository / "my photos" / name).mkdir(parents=True)
    arguments = ("--input_dir", "my photos", "--views", "3", "--slots", "1", "--preset", "fast")
    assert start(repository, *arguments).wait(60) == 0
    lines = (f"start {name} 3 {repository / 'my photos' / name} fast\n" for name in ("mug", "shoe"))
    assert (repository / "starts").read_text() == "".join(lines)
    for name in ("my mug", "my_mug", "Кружка", "@eaDir", "__MACOSX"):
        (repository / "named" / name).mkdir(parents=True)
    run = start(repository, "--input_dir", "named", "--views", "1", "--slots", "1")
    output = run.communicate(timeout=60)[0]
    assert run.returncode == 0 and "5 jobs" not in output and "3 jobs" in output
    assert "my mug: becomes the object my_mug_" in output and "Кружка: becomes the object object_" in output
    begun = (repository / "starts").read_text().splitlines()[2:]
    assert sorted(line.split(" 1 ")[1] for line in begun) == [
        str(repository / "named" / name) for name in ("my mug", "my_mug", "Кружка")
    ]
    run = start(repository, "--input_dir", "named", "--objects", "my mug", "--views", "2")
    assert run.wait(60) == 0 and (repository / "starts").read_text().endswith(f" 2 {repository / 'named/my mug'}\n")
    run = start(repository, "--input_dir", "my photos", "--objects", "hat")
    assert run.communicate(timeout=60)[0] == "error: my photos/hat: no such folder\n" and run.returncode == 2
    (repository / "empty").mkdir()
    run = start(repository, "--input_dir", "empty")
    assert "no folders of photos" in run.communicate(timeout=60)[0] and run.returncode == 2


def test_options_reach_the_pipeline_and_other_options_are_other_results(repository):
    (repository / "zero.ckpt").write_text("weights")
    published = ("--backbone", "published", "--checkpoint", "zero.ckpt", "tuning.steps=3", "poses.effort.rounds=0")
    arguments = ("--objects", "fine", "--views", "2", *published)
    for _ in range(2):
        assert start(repository, *arguments).wait(60) == 0
    results = json.loads((repository / "results/toys/fine/2/results.json").read_text())
    assert results["options"] == list(published)
    begun = (repository / "starts").read_text().count("fine")
    assert begun == 1, "the second time it is done"
    assert start(repository, "--objects", "fine", "--views", "2").wait(60) == 0
    assert start(repository, *arguments).wait(60) == 0
    assert (repository / "starts").read_text().count("fine") == 3
    later = time.time() + 5
    os.utime(repository / "zero.ckpt", (later, later))
    assert start(repository, *arguments).wait(60) == 0
    assert (repository / "starts").read_text().count("fine") == 4, "results are older than the checkpoint"


def test_a_log_is_read_once(repository, monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY)
    from run_pipeline import Job

    monkeypatch.setenv("ROOT_DIR", str(repository))
    job = Job("toys", "fine", 2, stage="starting")
    job.folder.mkdir(parents=True)
    job.log.write_bytes(b"[1/6] data\n  5 s\n[2/6] po")
    job.read_stage()
    assert job.stage == "1/6 data"
    with job.log.open("ab") as log:
        log.write(b"ses\n" + b"x" * 1000)
    job.read_stage()
    assert job.stage == "2/6 poses" and job.read == job.log.read_bytes().rindex(b"\n")


def test_an_interrupt_ends_all_children(repository):
    run = start(repository, "--objects", "endless")
    wait_for(repository / "child", "\n")
    run.send_signal(signal.SIGINT)
    output = run.communicate(timeout=30)[0]
    assert run.returncode == 130 and "interrupted" in output
    deadline = time.monotonic() + 10  # it is killed, but not waited for
    while status(int((repository / "child").read_text())) not in ("gone", "Z"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert states(repository) == {"endless 5": "waiting"}


def test_an_interrupt_waits_until_a_process_is_known(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY)
    from sap3d.runs.jobs import uninterrupted

    known, before = [], signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), uninterrupted():
            signal.raise_signal(signal.SIGINT)
            known.append("process")
        assert known == ["process"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_after_a_killed_launcher_nothing_runs_twice(repository):
    first = start(repository, "--objects", "slow", "--slots", "1")
    wait_for(repository / "results/toys/slow/5/run.log", "second")
    first.kill()
    first.wait()
    second = start(repository, "--objects", "slow", "fine", "--slots", "1")
    output = second.communicate(timeout=60)[0]
    assert second.returncode == 0
    assert "elsewhere" in output
    assert sorted((repository / "starts").read_text().split("\n")) == ["", "start fine 5", "start slow 5"]
    assert states(repository) == {"slow 5": "done", "fine 5": "done"}


def test_a_killed_child_is_replaced(repository):
    run = start(repository, "--objects", "slow")
    wait_for(repository / "results/toys/slow/5/run.log", "second")
    (child,) = (int(pid) for pid in os.listdir("/proc") if pid.isdigit() and status(int(pid), 1) == str(run.pid))
    os.kill(child, signal.SIGKILL)
    assert run.wait(60) == 0
    assert (repository / "starts").read_text().count("slow") == 2


def test_without_ray_a_line_says_what_to_install(repository):
    for arguments in (["--ray"], ["--address", "auto"]):
        run = start(repository, "--objects", "fine", *arguments)
        output = run.communicate(timeout=60)[0]
        assert run.returncode == 2 and output.startswith("error: --ray needs Ray: pip install ray==2.60.0")
        assert output.count("\n") == 1 and not (repository / "results").exists()
    # The version that the message names is the one that is tested.
    assert "ray==2.60.0\n" in (REPOSITORY / "requirements.txt").read_text()


def status(pid: int, column: int = 0) -> str:
    """A process' state letter (column 0) or parent (1)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[column]
    except OSError:
        return "gone"


def test_cores_are_shared_out(repository):
    cores = len(os.sched_getaffinity(0))
    assert start(repository, "--objects", "fine", "--slots", "1").wait(60) == 0
    assert json.loads((repository / "results/toys/fine/5/results.json").read_text())["threads"] == cores


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--gpus", "7"], "--gpus 7: "),
        ([], "no objects of this type"),
        (["--objects", "fine", "--views", "0"], "at least 1"),
        (["--objects", "../fine"], "'../fine' cannot be a type or an object"),
    ],
)
def test_bad_arguments_are_one_line(repository, arguments, message):
    (repository / "dataset/benchmarks").mkdir(parents=True)
    (repository / "dataset/benchmarks/assets.json").write_text('{"objects": {"scans": {}}}')
    command = [sys.executable, "-S", "run_pipeline.py", "--object_type", "toys", *arguments]
    if "--gpus" in arguments:
        command += ["--objects", "fine"]
    run = subprocess.run(command, cwd=repository, env={"PATH": "/nowhere"}, capture_output=True, text=True)
    assert run.returncode == 2 and message in run.stderr and "Traceback" not in run.stderr
    assert not (repository / "results").exists()
