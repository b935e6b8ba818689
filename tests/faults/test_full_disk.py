"""A disk that is really full: a small file system in memory, which root alone may mount."""

import shutil
import subprocess
import sys
from pathlib import Path

import imageio.v3 as imageio
import matplotlib.pyplot as plt
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import trimesh
from safetensors.torch import save_file

from sap3d.errors import UserError
from sap3d.files import atomic_file, atomic_folder, write_json, write_video
from sap3d.runs.stages import REPOSITORY
from sap3d.runs.training import fit
from tests.faults.at_length import fill, mount

NOISE = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)  # 480 kB that do not shrink


@pytest.fixture(scope="module")
def disk(tmp_path_factory) -> Path:
    """A file system of 3 MB."""
    folder = tmp_path_factory.mktemp("disk")
    if reason := mount(folder, 3):
        pytest.skip(f"no file system can be mounted: {reason}")
    yield folder
    subprocess.run(["umount", "--lazy", folder])


def written(writer):
    def write(path: Path) -> None:
        with atomic_file(path) as partial:
            writer(partial)

    return write


def figure(path: Path) -> None:
    plt.figure().figimage(NOISE)
    plt.savefig(path)
    plt.close()


def folder(path: Path) -> None:
    with atomic_folder(path) as partial:
        for index in range(9):
            imageio.imwrite(partial / f"{index}.png", NOISE)


WRITERS = {
    "a.json": lambda path: write_json(path, NOISE.tolist()),
    "a.png": written(lambda path: imageio.imwrite(path, NOISE)),
    "a.npy": written(lambda path: np.save(path, NOISE)),
    "a.safetensors": written(lambda path: save_file({"a": torch.from_numpy(NOISE)}, path)),
    "a.pt": written(lambda path: torch.save({"a": torch.from_numpy(NOISE)}, path)),
    "figure.png": written(figure),
    "a.mp4": lambda path: write_video(path, [np.roll(NOISE, shift) for shift in range(0, 4000, 997)]),
    "a.glb": written(lambda path: trimesh.PointCloud(NOISE.reshape(-1, 3)).export(path)),
    "folder": folder,
}


@pytest.fixture
def empty(disk) -> Path:
    for old in disk.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    return disk


@pytest.mark.parametrize("room", [0, 100_000])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_and_leaves_what_was(name, room, empty):
    path = empty / name
    path.mkdir() if name == "folder" else path.write_text("old")
    fill(empty / "filler", room)
    with pytest.raises(UserError, match=f"^{path}: No space left on device$"):
        WRITERS[name](path)
    assert path.is_dir() or path.read_text() == "old"
    assert {p.name for p in empty.iterdir()} == {name, "filler"}


class Growing(pl.LightningModule):
    """Trains 200 kB of weights."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(50, 1000)

    def training_step(self, _, step: int) -> torch.Tensor:
        loss = self.layer(torch.ones(50)).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


@pytest.mark.parametrize("room", [0, 100_000])
def test_training_on_a_full_disk_is_one_line_and_goes_on_with_room(room, empty, capfd):
    run = empty / "run"
    fill(empty / "filler", room)
    with pytest.raises(UserError, match=f"^{run}.*: No space left on device$"):
        fit(Growing(), 40, torch.device("cpu"), run, "this")
    said = capfd.readouterr()
    assert "Traceback" not in said.err and said.err.endswith("\n")
    (empty / "filler").unlink()
    fit(Growing(), 40, torch.device("cpu"), run, "this")
    assert [p.name for p in run.iterdir()] == ["log"]


PYTHON = """#!/bin/sh
# A python whose pip finds the disk full.
case $* in
    *"-m venv"*) mkdir -p "$repo/.venv/bin" && cp "$0" "$repo/.venv/bin/python" ;;
    *"pip install"*) echo "ERROR: Could not install: [Errno 28] No space left on device" >&2; exit 1 ;;
esac
"""


@pytest.mark.parametrize("step", ["venv", "pip"])
def test_no_space_for_the_environment_is_one_line(step, empty):
    (empty / "sap3d/runs").mkdir(parents=True)
    for name in ("sap3d/runs/environment.sh", "requirements.txt"):
        (empty / name).write_bytes((REPOSITORY / name).read_bytes())
    path = Path(sys.executable).parent
    if step == "pip":
        path = empty / "bin"
        path.mkdir()
        (path / "python3").write_text(PYTHON)
        (path / "python3").chmod(0o755)
    script = 'repo=$1; export repo; . "$repo/sap3d/runs/environment.sh"'
    run = subprocess.run(
        ["/bin/sh", "-euc", script, "sh", empty], env={"PATH": f"{path}:/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert run.returncode == 1
    assert run.stderr == f"error: {empty / '.venv'}: No space left on device (it takes 7 GB with PyPI's torch)\n"
    assert not (empty / ".venv.lock").is_symlink()
