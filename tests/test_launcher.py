"""The launcher refuses bad arguments before it installs or writes anything."""

import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "GSO_demo basket 5",
        "GSO_demo basket 5 0 1",
        "GSO_demo basket 5 0 --output photos",
        "GSO_demo basket 5 0 --input",
        "GSO_demo basket 5 0 --preset quick",
        "GSO_demo basket 5 0 --input --preset fast",
        "GSO_demo basket 5 0 --input photos --preset",
        "GSO_demo basket 5 0 --preset fast --checkpoint",
        "GSO_demo basket 5 0 --size-mm",
        "GSO_demo basket 5 0 steps=3",
        "GSO_demo basket 5 0 tuning.steps",
        "GSO_demo basket 5 0 --preset fast photos",
        "GSO_demo basket 5 0 --from stage4",
        "GSO_demo basket 5 0 --force --from",
        "GSO_demo basket 0 0",
        "GSO_demo basket -1 0",
        "GSO_demo basket five 0",
        "GSO_demo basket 5 gpu",
        "GSO_demo ../basket 5 0",
        "GSO_demo -x 5 0",
    ],
)
def test_bad_arguments(arguments, tmp_path):
    # An empty PATH: whatever the launcher does before it checks its arguments fails otherwise.
    run = subprocess.run(
        ["/bin/sh", REPOSITORY / "run_pipeline.sh", *arguments.split()],
        env={"PATH": "/nowhere", "ROOT_DIR": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "usage: sh run_pipeline.sh TYPE OBJECT VIEWS GPU_INDEX" in run.stderr
    assert not any(tmp_path.iterdir())


def test_photos_of_any_names_reach_the_import(tmp_path):
    """A copy of the launcher whose stages say what they were called with."""
    (tmp_path / "sap3d/runs").mkdir(parents=True)
    (tmp_path / "run_pipeline.sh").write_bytes((REPOSITORY / "run_pipeline.sh").read_bytes())
    called = "python=called; called() { printf '<%s>' \"$@\"; echo; exit 3; }\n"
    (tmp_path / "sap3d/runs/environment.sh").write_text(called)
    command = ["/bin/sh", tmp_path / "run_pipeline.sh", "T", "o", "2", "cpu", "--dry-run"]
    command += ["--input", "a b.jpg", "/c,d.jpg", "--preset", "fast", "--input", "it's $HOME.jpg", "-e.jpg"]
    run = subprocess.run(command, env={"PATH": "/bin:/usr/bin"}, cwd=tmp_path, capture_output=True, text=True)
    names = f"<{tmp_path}/a b.jpg></c,d.jpg><{tmp_path}/it's $HOME.jpg><{tmp_path}/-e.jpg>"
    assert run.stdout.splitlines()[1].endswith(f"<--input>{names}"), run.stderr


def test_no_python_is_one_line(tmp_path):
    """A copy of the launcher where no python is to be found."""
    (tmp_path / "sap3d/runs").mkdir(parents=True)
    for name in ("run_pipeline.sh", "sap3d/runs/environment.sh", "requirements.txt"):
        (tmp_path / name).write_bytes((REPOSITORY / name).read_bytes())
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("dirname", "cksum", "ln", "rm", "cat"):
        source = next(p / name for p in (Path("/usr/bin"), Path("/bin")) if (p / name).exists())
        (tools / name).symlink_to(source)
    run = subprocess.run(
        ["/bin/sh", tmp_path / "run_pipeline.sh", "GSO_demo", "basket", "5", "0"],
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stderr.startswith("error: no Python from 3.10 to 3.13")
    assert run.stderr.count("\n") == 1
    assert not (tmp_path / ".venv").exists()


PYTHON = """#!/bin/sh
# A python that notes what is asked of it, and whose installations take a while.
case $* in
    *"-m venv"*) mkdir -p "$repo/.venv/bin" && cp "$0" "$repo/.venv/bin/python" ;;
    *"pip install"*) echo begin >>"$repo/log" && sleep 1 && echo end >>"$repo/log" ;;
    *purelib*) echo "$repo/.venv" ;;
esac
"""


def start(repository: Path) -> subprocess.Popen:
    script = 'repo=$1; export repo; . "$repo/sap3d/runs/environment.sh"; echo "$python"'
    environment = {"PATH": f"{repository / 'bin'}:/usr/bin:/bin"}
    return subprocess.Popen(["/bin/sh", "-euc", script, "sh", repository], env=environment, stdout=subprocess.PIPE)


def test_of_two_runs_at_once_one_installs(tmp_path):
    for folder in ("sap3d/runs", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("sap3d/runs/environment.sh", "requirements.txt"):
        (tmp_path / name).write_bytes((REPOSITORY / name).read_bytes())
    (tmp_path / "bin/python3").write_text(PYTHON)
    (tmp_path / "bin/python3").chmod(0o755)
    dead = subprocess.Popen(["/bin/true"])
    dead.wait()
    (tmp_path / ".venv.lock").symlink_to(f"process-{dead.pid}")  # of a run that was killed
    runs = [start(tmp_path) for _ in range(2)]
    outputs = [run.communicate()[0].decode().splitlines() for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert [output[-1] for output in outputs] == [str(tmp_path / ".venv/bin/python")] * 2
    assert (tmp_path / "log").read_text().split() == ["begin", "end"]
    assert not (tmp_path / ".venv.lock").is_symlink()
