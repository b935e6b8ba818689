"""run_pipeline.py as a Slurm array, and on a machine's cards, around stand-ins for the pipeline and nvidia-smi."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launcher import copy_launcher


@pytest.fixture
def repository(tmp_path) -> Path:
    return copy_launcher(tmp_path)


@pytest.fixture
def array(repository, monkeypatch):
    """Asks for the script of a job array; ROOT_DIR and the photos' folder would break a shell line that does not quote.

    The function takes arguments and returns the process and the script's path.
    """
    root = repository / "a 'root' $(touch injected); of \"mine\""
    (root / "photos;/mug").mkdir(parents=True)
    (root / "photos;/shoe").mkdir()

    def run(*arguments: str, path: str = os.environ["PATH"], device: tuple[str, ...] = ("--cpu",)):
        command = [sys.executable, "-S", "run_pipeline.py", "--object_type", "toys", *device, *arguments]
        environment = {"PATH": path, "ROOT_DIR": str(root)}
        process = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
        (repository / "array.sh").write_text(process.stdout)
        return process, root

    return run


def run_task(repository: Path, index: int, **more: str) -> int:
    """What Slurm does with an array task, in an environment without ROOT_DIR."""
    environment = {"PATH": os.environ["PATH"], "SLURM_ARRAY_TASK_ID": str(index)} | more
    return subprocess.run(["sh", "array.sh"], cwd=repository, env=environment, timeout=60).returncode


def test_an_array_task_runs_one_job(repository, array):
    script, root = array("--objects", "fine", "broken", "--views", "2", "3", "--slurm", "--seed", "4", "--slots", "8")
    assert script.returncode == 0 and "#SBATCH --array=0-3%8\n" in script.stdout and not (root / "starts").exists()
    assert "#SBATCH --mem=3072M\n" in script.stdout and "--gres" not in script.stdout
    assert run_task(repository, 2) == 0
    assert (root / "starts").read_text() == "start fine 3\n"
    assert json.loads((root / "results/toys/fine/3/results.json").read_text())["seed"] == 4
    assert not (root / "results/summary.json").exists()  # of a single job
    assert run_task(repository, 2) == 0  # done: skipped
    assert run_task(repository, 1) == 1
    assert (root / "starts").read_text() == "start fine 3\nstart broken 2\nstart broken 2\n"
    assert "failed twice: toys/broken, 2 views" in (root / "results/toys/broken/2/slurm.log").read_text()
    assert run_task(repository, 0) == 0
    script, _ = array("--objects", "fine", "--views", "2", "3", "--slurm", "--seed", "4")
    assert script.returncode == 2 and script.stderr == "error: all jobs are done: nothing for --slurm\n"
    assert not list(repository.rglob("injected"))


@pytest.fixture
def cards(repository):
    """Puts a stand-in for nvidia-smi before PATH, which it returns: GPUs by index and MB of free memory."""

    def set_up(*free: int) -> str:
        listed = "\n".join(f"{index}, GPU-aa{index}{index}, {megabytes}" for index, megabytes in enumerate(free))
        program = repository / "bin/nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{listed}\nEND\n")
        program.chmod(0o755)
        return f"{program.parent}:{os.environ['PATH']}"

    return set_up


def test_two_jobs_take_two_cards(repository, cards):
    """Of three that CUDA_VISIBLE_DEVICES shows, one has too little memory; indices are those of what is shown."""
    command = [sys.executable, "-S", "run_pipeline.py", "--object_type", "toys"]
    command += ["--objects", "slow", "--views", "2", "3"]
    environment = {"PATH": cards(40960, 81920, 2048, 40960), "ROOT_DIR": str(repository)}
    environment["CUDA_VISIBLE_DEVICES"] = "3,2,0"
    run = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
    folders = [repository / f"results/toys/slow/{views}" for views in (2, 3)]
    assert sorted((folder / "device").read_text() for folder in folders) == ["0\n", "2\n"]
    assert sorted((folder / "run.log").read_text().splitlines()[0] for folder in folders) == ["on GPU 0", "on GPU 2"]


def test_a_card_with_too_little_memory_is_one_line(repository, cards):
    command = [sys.executable, "-S", "run_pipeline.py", "--object_type", "toys", "--objects", "fine", "--gpus", "1"]
    environment = {"PATH": cards(40960, 2048), "ROOT_DIR": str(repository)}
    run = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr == "error: --gpus 1: 2.0 GB free, --min-free-gb 8\n"


@pytest.mark.parametrize(
    ("shown", "free"),
    [("2", (1, 1, 40960)), ("GPU-aa11", (1, 40960)), ("0", (40960,))],  # of all, by name, and of a job's own alone
)
def test_an_array_task_takes_the_card_that_slurm_shows(repository, array, cards, shown, free):
    script, root = array("--objects", "fine", "--views", "2", "--slurm", device=())
    assert script.returncode == 0 and "#SBATCH --gres=gpu:1\n" in script.stdout and "--mem" not in script.stdout
    assert run_task(repository, 0, CUDA_VISIBLE_DEVICES=shown, PATH=cards(*free)) == 0
    assert (root / "results/toys/fine/2/device").read_text() == "0\n", "CUDA's index of what Slurm shows"


def test_an_array_of_own_photos(repository, array):
    _, root = array(
        "--input_dir",
        str(repository / "a 'root' $(touch injected); of \"mine\"" / "photos;"),
        "--slurm",
        "--preset",
        "best",
    )
    assert run_task(repository, 1) == 0
    assert (root / "starts").read_text() == f"start shoe 5 {root / 'photos;/shoe'} best\n"
    assert not list(repository.rglob("injected"))


def test_an_array_is_submitted_where_there_is_sbatch(repository, array):
    run, _ = array("--objects", "fine", "--slurm", "submit", path="/nowhere")
    assert run.returncode == 2 and run.stderr.startswith("error: --slurm submit: no sbatch on PATH")
    sbatch = repository / "bin/sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(f"#!/bin/sh\ncat >{shlex.quote(str(repository / 'submitted'))}\necho Submitted batch job 7\n")
    sbatch.chmod(0o755)
    path = f"{sbatch.parent}:{os.environ['PATH']}"
    run, _ = array("--objects", "fine", "--slurm", "submit", path=path)
    assert run.returncode == 0 and run.stdout == "Submitted batch job 7\n"
    run, _ = array("--objects", "fine", "--slurm", path=path)
    assert run.stdout == (repository / "submitted").read_text()
    sbatch.write_text("#!/bin/sh\ncat >/dev/null\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    run, _ = array("--objects", "fine", "--slurm", "submit", path=path)
    assert run.returncode == 2 and run.stderr == "error: sbatch: error: invalid partition\n"
