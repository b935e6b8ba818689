"""All stages with a tiny checkpoint in the published layouts: by run_pipeline.sh, run_pipeline.py and the demo."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jobs as jb
import pytest
from worker import Worker, published_options

from dataset import prepare
from sap3d.files import write_json
from sap3d.scene import Scene

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.append(str(REPOSITORY / "benchmarks"))
import published_pipeline as benchmark  # noqa: E402
import published_weights as weights  # noqa: E402

SCENE = ("toy_demo", "toy_000", "3")
PATIENCE = 1800  # seconds, of a machine that has other work


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A ROOT_DIR with the checkpoints where they are looked for, and a toy rendered as small as it is looked at."""
    root = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROOT_DIR", str(root))
        patch.setattr(prepare, "IMAGE_SIZE", 64)
        prepare.prepare(SCENE[0], SCENE[1], int(SCENE[2]))
    weights.write_zero123(root / "camerabooth/weights/zero123-xl.ckpt")
    weights.write_relposepp(root / "relposepp/weights/ckpt_000105000.pth")
    return root


def start(root: Path, *command: str) -> subprocess.Popen:
    environment = os.environ | {"ROOT_DIR": str(root), "OMP_NUM_THREADS": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, start_new_session=True, **streams)


def run(root: Path, *command: str) -> str:
    process = start(root, *command)
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, output[-3000:]
    return output


def pipeline(*more: str) -> list[str]:
    return ["sh", "run_pipeline.sh", *SCENE, "cpu", "--backbone", "published", *weights.OPTIONS, *more]


def test_published_weights_go_through_all_stages(root, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(root))
    scene = Scene(SCENE[0], SCENE[1], 3)
    first = start(root, *pipeline())
    deadline = time.monotonic() + PATIENCE
    while not (scene.diffusion / "checkpoint.ckpt").exists():  # in the middle of tuning
        assert time.monotonic() < deadline and first.poll() is None, first.stdout.read()[-3000:]
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()

    # The launcher of many objects goes on with what the other was killed in.
    options = ["--backbone", "published", *weights.OPTIONS]
    command = ["--object_type", SCENE[0], "--objects", SCENE[1], "--views", SCENE[2], "--cpu", *options]
    command += ["--slots", str(len(os.sched_getaffinity(0)))]  # of a core each
    run(root, sys.executable, "run_pipeline.py", *command)
    log = (scene.results / "run.log").read_text()
    assert "resuming from step" in log and log.count("up to date") == 1, "a killed tuning is resumed"
    results = json.loads((scene.results / "results.json").read_text())
    assert results["options"][2:4] == ["--backbone", "published"] and results["3d_psnr_mean"] > 5
    settings = json.loads((scene.diffusion / "model/settings.json").read_text())
    assert settings["image_size"] == 32 and settings["dtype"] == "float32", "they travel with the tuned model"
    assert (scene.diffusion / "model/model_index.json").exists() and (scene.reconstruction / "mesh.glb").exists()
    assert "1 done already" in run(root, sys.executable, "run_pipeline.py", *command)
    said = run(root, *pipeline("--dry-run"))
    assert said.count("up to date") == 5, said  # by run_pipeline.sh

    # Another checkpoint is another model: what it says is converted anew.
    weights.write_zero123(root / "camerabooth/weights/zero123-xl.ckpt", seed=1)
    said = run(root, *pipeline("--dry-run"))
    assert "would run: camerabooth/weights/zero123-xl.ckpt has changed" in said and said.count("up to date") == 1


STAND_IN = """
echo "$*" >told
echo "[2/6] poses"
sleep 0.5
mkdir -p "$ROOT_DIR/results/$1/$2/$3"
echo '{"poses": {"seconds": 12.3}}' >"$ROOT_DIR/results/$1/$2/$3/stages.json"
"""


def test_the_benchmark_of_a_card_says_seconds_and_memory_by_stage(tmp_path, monkeypatch, capsys):
    (tmp_path / "run_pipeline.sh").write_text(STAND_IN)
    monkeypatch.setattr(benchmark, "REPOSITORY", tmp_path)
    monkeypatch.setattr(benchmark, "prepare", lambda *_: None)
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))  # main sets it
    words = ["--root", str(tmp_path), "--device", "cpu", "--views", SCENE[2], "--backbones", "published", "--tiny"]
    monkeypatch.setattr(sys, "argv", ["published_pipeline.py", *words])
    benchmark.main()
    said = capsys.readouterr().out
    for stage in ("poses", "all"):
        assert re.search(rf"^published +{stage} +12\.3 s +[0-9.]+ GB$", said, re.M), said
    assert (tmp_path / "told").read_text().split() == pipeline()[2:]
    assert (tmp_path / benchmark.ZERO123).exists() and (tmp_path / benchmark.RELPOSEPP).exists()


def test_the_demo_runs_published_weights(root, tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(root))
    options = published_options()
    assert options[:2] == ["--backbone", "published"] and all(Path(path).exists() for path in options[3::2])
    job = jb.Job(tmp_path / "jobs" / ("0" * 32))
    (job.folder / "cut").mkdir(parents=True)
    for path in sorted((Scene(*SCENE[:2], 3).train / "images").iterdir())[:3]:
        shutil.copy(path, job.folder / "cut" / path.name)
    photos = [{"key": f"{index:03d}", "problem": "", "left_out": False} for index in range(3)]
    known = {"state": "queued", "preset": jb.PUBLISHED, "queued": time.time(), "created": time.time()}
    write_json(job.folder / "job.json", known | {"photos": photos, "choices": vars(jb.Choices())})
    with (job.folder / ".lock").open("w") as lock:
        Worker(tmp_path / "jobs", "cpu", options, [*weights.OPTIONS, "tuning.steps=2"]).process(job, lock.fileno())
    assert job.known["state"] == "done", job.log.read_text()[-3000:]
    assert (job.results / "mesh.glb").exists()
