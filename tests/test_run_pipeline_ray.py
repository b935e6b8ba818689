"""run_pipeline.py on a Ray cluster of two workers, around a stand-in for run_pipeline.sh that waits for a file."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

REPOSITORY = Path(__file__).resolve().parents[1]
RUNS = [f"runs/{module}" for module in ("__init__", "cores", "jobs", "launch_ray", "slots")]
MODULES = ("__init__", "errors", "files", "names", *RUNS)
STAND_IN = """
folder=$ROOT_DIR/results/$1/$2/$3
echo "$2 $$" >>"$ROOT_DIR/starts"
echo "[1/2] first"
[ "$2" != broken ] || { echo "error: this one never works"; exit 3; }
printf '{"seed": ' >"$folder/part"
until [ -e "$ROOT_DIR/gate" ]; do sleep 0.1; done
echo "$SEED}" >>"$folder/part"
echo "$2 $$" >>"$ROOT_DIR/ends"
mv "$folder/part" "$folder/results.json"
"""


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "sap3d/runs").mkdir(parents=True)
    for name in ("run_pipeline.py", *(f"sap3d/{module}.py" for module in MODULES)):
        (tmp_path / name).write_bytes((REPOSITORY / name).read_bytes())
    (tmp_path / "run_pipeline.sh").write_text(STAND_IN)
    for name in ("starts", "ends"):
        (tmp_path / name).touch()
    yield tmp_path
    try:
        wait_until(lambda: not processes(tmp_path), "processes are left")
    finally:
        for pid in processes(tmp_path):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def start(repository):
    """Starts the launcher on a Ray cluster of its own; what the test leaves of it is ended."""
    runs = []

    def run(*objects: str, where: tuple[str, ...] = ("--ray", "--slots", "2")) -> subprocess.Popen:
        command = [sys.executable, "run_pipeline.py", "--object_type", "toys", "--cpu", *where]
        runs.append(
            subprocess.Popen(
                [*command, "--objects", *objects],
                cwd=repository,
                # Ray keeps a token in HOME.
                env={"PATH": os.environ["PATH"], "HOME": str(repository), "ROOT_DIR": str(repository)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                # A shell's background job, as a test run may be, has its interrupts ignored.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        )
        return runs[-1]

    yield run
    for launcher in runs:
        launcher.send_signal(signal.SIGINT)
        launcher.communicate(timeout=60)


def stat(pid: int | str) -> list[str]:
    """A process' state, parent, group, session, …; nothing if it is gone or waits to be buried."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()
    except OSError:
        return []
    return fields if fields[0] not in "ZX" else []


def processes(repository: Path) -> list[int]:
    """Living processes that a launcher of this test has started: they have its ROOT_DIR."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"ROOT_DIR={repository}".encode() in environment and stat(pid):
            found.append(int(pid))
    return found


def wait_until(condition, what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()]


def states(repository: Path) -> dict[str, str]:
    path = repository / "results/summary.json"
    return {job["object"]: job["state"] for job in json.loads(path.read_text())["jobs"]} if path.exists() else {}


def test_a_killed_worker_is_replaced_and_nothing_is_done_twice(repository, start):
    run = start("ant", "bee", "cat")
    wait_until(lambda: len(lines(repository / "starts")) == 2, "two jobs should run")
    victim, pid = lines(repository / "starts")[0]
    tie = stat(pid)[1]  # the shell between the job and the worker
    worker = stat(tie)[1]
    assert Path(f"/proc/{worker}/cmdline").read_bytes().startswith(b"ray::")
    os.kill(int(worker), signal.SIGKILL)
    wait_until(lambda: not stat(pid) and not stat(tie), "the job should end with its worker")
    wait_until(lambda: len(lines(repository / "starts")) == 3, "another job should have its place")
    assert not lines(repository / "ends")
    (repository / "gate").touch()
    output = run.communicate(timeout=60)[0]
    assert run.returncode == 0, output
    assert "1/2 first" in output and ", 1 core" in output  # the live lines come from the jobs' logs
    expected = sorted(["ant", "bee", "cat", victim])
    assert sorted(name for name, _ in lines(repository / "starts")) == expected
    assert sorted(name for name, _ in lines(repository / "ends")) == ["ant", "bee", "cat"]
    assert states(repository) == dict.fromkeys(("ant", "bee", "cat"), "done")
    # A worker's death is no failure of the job.
    assert (repository / "results/summary.json").read_text().count('"attempts": 1') == 3
    for name in ("ant", "bee", "cat"):
        folder = repository / "results/toys" / name / "5"
        assert json.loads((folder / "results.json").read_text()) == {"seed": 0}
        assert sorted(path.name for path in folder.iterdir()) == [".lock", "results.json", "run.log"]


def test_an_interrupt_cancels_tasks_and_ends_their_processes(repository, start):
    run = start("broken", "waits")
    wait_until(lambda: states(repository).get("broken") == "failed", "a job that fails by itself is tried twice")
    wait_until(lambda: "waits" in dict(lines(repository / "starts")), "the other job should run")
    run.send_signal(signal.SIGINT)
    output = run.communicate(timeout=60)[0]
    assert run.returncode == 130 and "interrupted" in output
    assert not processes(repository)
    assert sorted(name for name, _ in lines(repository / "starts")) == ["broken", "broken", "waits"]
    assert states(repository) == {"broken": "failed", "waits": "waiting"}
    assert "error: this one never works" in (repository / "results/summary.json").read_text()


def test_an_address_without_a_cluster_is_one_line(repository, start):
    run = start("ant", where=("--address", "127.0.0.1:1"))
    output = run.communicate(timeout=60)[0]
    assert run.returncode == 2 and output.startswith("error: --address 127.0.0.1:1: ") and output.count("\n") == 1
