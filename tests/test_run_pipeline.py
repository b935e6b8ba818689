"""The many-object launcher around a stand-in for run_pipeline.sh, whose jobs are told by their names what to do."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
STAND_IN = r"""
folder=$ROOT_DIR/results/$1/$2/$3
echo "start $2 $3${6:+ $6}${8:+ $8}" >>"$ROOT_DIR/starts"
echo "$4" >"$folder/device"
echo "[1/2] first"
case $2 in
    broken) echo "error: this one never works"; exit 3 ;;
    shaky) [ -e "$folder/again" ] || { touch "$folder/again"; echo "error: not yet"; exit 1; } ;;
    slow) sleep 0.2; echo "[2/2] second"; sleep 3 ;;
    endless) sleep 1000 & echo $! >"$ROOT_DIR/child"; wait ;;
esac
shift 4
options=
while [ $# -gt 0 ]; do
    case $1 in
        --input) shift ;;
        *) options="$options${options:+, }\"$1\"" ;;
    esac
    shift
done
cat >"$folder/part" <<END
{"seed": $SEED, "options": [$options], "3d_psnr_mean": 20.5, "seconds": {"poses": 1.5}, "threads": $OMP_NUM_THREADS}
END
mv "$folder/part" "$folder/results.json"
"""


@pytest.fixture
def repository(tmp_path) -> Path:
    runs = [f"runs/{module}" for module in ("__init__", "cores", "jobs", "launch_ray", "launch_slurm", "slots")]
    modules = ("__init__", "errors", "files", "names", *runs)
    for name in ("run_pipeline.py", *(f"sap3d/{module}.py" for module in modules)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((REPOSITORY / name).read_bytes())
    (tmp_path / "run_pipeline.sh").write_text(STAND_IN)
    return tmp_path


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
