"""Run state: what is up to date is left alone, what is stale is run with a reason, and one run holds a scene."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sap3d.runs import stages
from sap3d.scene import Scene

REPOSITORY = Path(__file__).resolve().parents[3]
NAMES = ["--type", "T", "--object", "o", "--views", "2"]


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """Three photos of which two are used, and a command in the place of stage 1 that counts its runs."""
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    scene = Scene("T", "o", 2)
    (scene.train / "images").mkdir(parents=True)
    (scene.train / "masks").mkdir()
    for index in range(3):
        (scene.train / f"images/{index:03d}.png").write_text(f"photo {index}")
    return scene


def run_poses(monkeypatch, scene: Scene, *options: str, work: str = "", words: tuple[str, ...] = ()) -> int:
    """Run the stage `poses` with a command that writes its output and then does `work`."""
    path = scene.initial_poses
    code = f"import pathlib, os; p = pathlib.Path({str(path)!r}); p.parent.mkdir(parents=True, exist_ok=True); "
    code += f"p.write_text('poses'); open({str(scene.root / 'runs')!r}, 'a').write('x'); {work}"
    command = [sys.executable, "-c", code, *words]
    monkeypatch.setattr(sys, "argv", ["stages", "run", "poses", *NAMES, *options, "--", *command])
    return stages.main()


def runs(scene: Scene) -> int:
    return len((scene.root / "runs").read_text())


def test_what_is_up_to_date_is_not_run_again(scene, monkeypatch, capsys):
    assert run_poses(monkeypatch, scene) == 0 and run_poses(monkeypatch, scene) == 0
    assert runs(scene) == 1 and "up to date" in capsys.readouterr().out
    # Neither a photo beyond VIEWS nor another device is an input.
    (scene.train / "images/002.png").write_text("another")
    run_poses(monkeypatch, scene)
    assert runs(scene) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: (s.train / "images/001.png").write_text("?"), "dataset/data/train/T/o/images/001.png has changed"),
        (lambda s: (s.train / "masks/000.png").write_text("?"), "dataset/data/train/T/o/masks/000.png is new"),
        (lambda s: s.photo_record.write_text("{}"), "dataset/data/train/T/o/photos.json is new"),
        (lambda s: s.initial_poses.unlink(), "relposepp/experiments/T/o_view_2/poses.json is gone"),
        (lambda s: s.initial_poses.write_text("?"), "relposepp/experiments/T/o_view_2/poses.json has changed"),
        (lambda s: (s.results / "stages.json").write_text("{"), ""),
    ],
)
def test_what_is_stale_is_run_and_says_why(scene, monkeypatch, capsys, change, reason):
    run_poses(monkeypatch, scene)
    change(scene)
    capsys.readouterr()
    assert run_poses(monkeypatch, scene, "--dry-run") == stages.STALE
    assert runs(scene) == 1 and f"would run: {reason or stages.NEVER}" in capsys.readouterr().out
    run_poses(monkeypatch, scene)
    assert runs(scene) == 2 and reason in capsys.readouterr().out
    run_poses(monkeypatch, scene)
    assert runs(scene) == 2


def test_the_command_counts_but_not_its_device(scene, monkeypatch):
    for words, expected in ((("--seed", "1", "--device", "0"), 1), (("--seed", "1", "--device", "cpu"), 1),
                            (("--seed", "2", "--device", "cpu"), 2), (("--seed", "2", "device=cpu"), 2)):  # fmt: skip
        run_poses(monkeypatch, scene, words=words)
        assert runs(scene) == expected
    run_poses(monkeypatch, scene, "--force", words=("--seed", "2"))
    assert runs(scene) == 3


def test_what_was_made_by_hand_may_be_left(scene, monkeypatch, capsys):
    run_poses(monkeypatch, scene, words=("--seed", "1"))
    scene.initial_poses.write_text("by hand")
    run_poses(monkeypatch, scene, "--leave", words=("--seed", "1"))
    assert runs(scene) == 1 and "left as it is: relposepp/" in capsys.readouterr().out
    run_poses(monkeypatch, scene, "--leave", words=("--seed", "2"))  # stale for another reason
    assert runs(scene) == 2
    scene.initial_poses.unlink()
    run_poses(monkeypatch, scene, "--leave", words=("--seed", "2"))
    assert runs(scene) == 3
    (scene.results / "stages.json").unlink()  # made by hand from the first
    run_poses(monkeypatch, scene, "--leave", words=("--seed", "2"))
    assert runs(scene) == 3


def test_a_root_dir_that_was_moved_stays_up_to_date(scene, tmp_path, monkeypatch):
    run_poses(monkeypatch, scene)
    command = sys.argv[sys.argv.index("--") + 1 :]
    moved = Scene("T", "o", 2, tmp_path.with_name("moved"))
    tmp_path.rename(moved.root)
    tree = stages.command_tree(command)
    stage, config = stages.declare(moved, tree)["poses"], stages.stage_config("poses", tree)
    assert stages.Record(moved).why_stale("poses", stage, command, config) is None
    assert stages.Record(scene).why_stale("poses", stage, command, config) == stages.NEVER


def test_the_model_that_judges_poses_is_one_of_stage_1s_options():
    trees = [stages.command_tree(["infer.py", *words]) for words in ([], ["--checkpoint", "other"], ["tuning.steps=3"])]
    poses = [stages.stage_config("poses", tree) for tree in trees]
    assert poses[0] == poses[2] != poses[1]


def test_a_stage_that_fails_stays_stale_and_passes_its_status_on(scene, monkeypatch):
    assert run_poses(monkeypatch, scene, work="os._exit(7)") == 7
    assert run_poses(monkeypatch, scene, work="os.kill(os.getpid(), 9)") == 128 + 9
    assert not (scene.results / "stages.json").exists()
    assert run_poses(monkeypatch, scene, "--dry-run") == stages.STALE


def test_what_changes_while_a_stage_runs_makes_it_stale(scene, monkeypatch):
    photo = scene.train / "images/000.png"
    run_poses(monkeypatch, scene, work=f"open({str(photo)!r}, 'a').write('later')")
    assert run_poses(monkeypatch, scene, "--dry-run", work=f"open({str(photo)!r}, 'a').write('later')") == stages.STALE


STAND_IN = """
import sys
from pathlib import Path
from sap3d.scene import Scene
from sap3d.runs.options import read_tree
from sap3d.runs.stages import declare, digests
words = [word.replace("data.", "--") for word in sys.argv]
words = [part for word in words for part in (word.split("=") if "=" in word else [word])]
kind, name, views = (words[words.index(word) + 1] for word in ("--type", "--object", "--views"))
scene = Scene(kind, name, int(views))
stage = declare(scene, read_tree([], "cpu"))[NAME]
if NAME == "data" and stage.outputs[0].exists():
    sys.exit()
for path in stage.outputs if NAME != "data" else [scene.train / "images/000.png"]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(str(digests(stage.inputs, scene.root)))
if Path("hold").exists():
    print("holding", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def pipeline(tmp_path):
    """A copy of the launcher whose stages write digests of their inputs; returns how to run it."""
    repository = tmp_path / "repository"
    shutil.copytree(REPOSITORY / "sap3d", repository / "sap3d", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "run_pipeline.sh", repository)
    for folder in ("configs", "camerabooth/configs", "relposepp/configs", "3D_Recon/threestudio/configs"):
        shutil.copytree(REPOSITORY / folder, repository / folder)
    environment = f'fail() {{ echo "error: $*" >&2; exit 1; }}\npython={sys.executable}\n'
    (repository / "sap3d/runs/environment.sh").write_text(environment)
    programs = {
        "data": "dataset/prepare.py",
        "poses": "relposepp/infer.py",
        "tuning": "camerabooth/main.py",
        "novel_views": "camerabooth/go_nvs.py",
        "reconstruction": "3D_Recon/threestudio/launch.py",
    }
    for name, program in programs.items():
        (repository / program).parent.mkdir(parents=True, exist_ok=True)
        (repository / program).write_text(STAND_IN.replace("NAME", repr(name)))
    (repository / "sap3d/scores/__main__.py").write_text("print('evaluated')")

    def start(*options: str, inherited: tuple[int, ...] = ()) -> subprocess.Popen:
        return subprocess.Popen(
            ["sh", "run_pipeline.sh", "T", "o", "1", "cpu", *options],
            cwd=repository,
            pass_fds=inherited,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(repository)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(*options: str) -> list[str]:
        process = start(*options)
        output = process.communicate()[0]
        assert process.returncode == 0, output
        return output.splitlines()

    run.start, run.folder = start, repository
    return run


def ran(lines: list[str]) -> list[str]:
    """Stages of a run's output that were not up to date."""
    found = []
    for line in lines:
        if line.startswith("["):
            found.append(line.split()[1])
        elif line.strip() == "up to date" or line.strip().startswith("left as it is"):
            found.pop()
    return found


ALL = ["data", "poses", "tuning", "novel_views", "reconstruction", "evaluation"]


def test_the_pipeline_runs_what_is_stale_and_nothing_else(pipeline):
    assert ran(pipeline()) == ALL
    assert ran(pipeline()) == ["data", "evaluation"]
    assert [line for line in pipeline("--dry-run") if "would" in line] == []
    folder = pipeline.folder / "camerabooth/experiments_nvs/T/o_view_1"
    (folder / "sheet.png").unlink()
    lines = pipeline("--dry-run")
    assert [line.strip() for line in lines if "would" in line] == [
        "would run: camerabooth/experiments_nvs/T/o_view_1/sheet.png is gone",
        "would run: after novel_views",
    ]
    assert not (folder / "sheet.png").exists()  # a dry run it was
    # Novel views come out as they were, so what follows them is up to date after all.
    assert ran(pipeline()) == ["data", "novel_views", "evaluation"]
    poses = pipeline.folder / "relposepp/experiments/T/o_view_1/poses.json"
    poses.write_text("by hand")
    lines = pipeline("--from", "stage2")
    assert ran(lines) == ["data", "tuning", "novel_views", "reconstruction", "evaluation"]
    assert f"      left as it is: {poses.relative_to(pipeline.folder)} has changed" in lines
    assert poses.read_text() == "by hand"
    assert ran(pipeline("--force")) == ALL
    (pipeline.folder / "dataset/data/train/T/o/images/000.png").write_text("another photo")
    assert ran(pipeline()) == ALL


def test_stages_number_gpus_as_nvidia_smi_does(pipeline):
    program = pipeline.folder / "dataset/prepare.py"
    program.write_text('import os; print("order", os.environ["CUDA_DEVICE_ORDER"])')
    assert "order PCI_BUS_ID" in pipeline()


def test_an_option_makes_the_stages_that_read_it_stale(pipeline):
    pipeline()
    options = "poses.candidates", "tuning.steps", "novel_views.steps", "reconstruction.trainer.max_steps"
    for stage, option in zip(ALL[1:], options):
        lines = pipeline("--dry-run", f"{option}=7")
        first = next(index for index, line in enumerate(lines) if "would" in line)
        assert lines[first].strip() == f"would run: {option} has changed" and lines[first - 1].endswith(stage)
    # Results come out as they were, so what follows is up to date; the second time all is.
    assert ran(pipeline("poses.candidates=7")) == ["data", "poses", "evaluation"]
    assert ran(pipeline("poses.candidates=7")) == ["data", "evaluation"]
    assert ran(pipeline("--preset", "fast")) == [name for name in ALL if name != "novel_views"]


def test_a_checkpoint_and_its_content_are_inputs(pipeline):
    (pipeline.folder / "zero.ckpt").write_text("weights")
    (pipeline.folder / "pose.pth").write_text("weights")
    published = ("--backbone", "published", "--checkpoint", "zero.ckpt", "--pose-checkpoint", "pose.pth")
    pipeline()
    # The stand-in writes what it would for the embedded weights: what follows tuning does not change.
    assert ran(pipeline(*published)) == ["data", "poses", "tuning", "evaluation"]
    assert ran(pipeline(*published)) == ["data", "evaluation"]
    # The diffusion model judges stage 1's poses, too.
    for name, changed in (("zero.ckpt", ["poses", "tuning"]), ("pose.pth", ["poses"])):
        (pipeline.folder / name).write_text("others")
        assert f"would run: {name} has changed" in "\n".join(pipeline(*published, "--dry-run"))
        assert ran(pipeline(*published)) == ["data", *changed, "evaluation"]


def bookkeeper(folder: Path) -> int:
    """The process that has started the stage of a run in a folder."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if b"sap3d.runs.stages\0run" in (path / "cmdline").read_bytes() and (path / "cwd").resolve() == folder:
                return int(path.name)
        except OSError:  # has ended meanwhile, or is another's
            pass
    raise AssertionError("no such process")


def is_taken(path: Path) -> bool:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def test_a_second_run_says_who_holds_the_scene(pipeline):
    pipeline()
    (pipeline.folder / "hold").touch()
    launchers = pipeline.folder / "lock"  # run_pipeline.py's, of the job
    with launchers.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        first = pipeline.start("--from", "tuning", inherited=(file.fileno(),))
    while "holding" not in first.stdout.readline():
        pass
    second = pipeline.start()
    output = second.communicate()[0]
    assert second.returncode == 2 and output.count("\n") == 1
    assert output.startswith("error: T/o, 1 views: process ") and str(first.pid) in output
    os.kill(bookkeeper(pipeline.folder), signal.SIGKILL)
    first.kill()  # the stage lives on, and with it the locks
    third = pipeline.start()
    assert "works on it" in third.communicate()[0]
    assert is_taken(launchers)
    (pipeline.folder / "hold").unlink()
    first.stdin.write("go on\n")
    first.stdin.close()
    first.stdout.read()  # ends with the stage
    first.wait()
    assert not is_taken(launchers)
    assert ran(pipeline())[-1] == "evaluation"
