"""Outputs are whole or absent."""

import json
import os
import socket
import subprocess
import sys

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sap3d import files


def test_a_failing_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "sub" / "a.txt"
    with files.atomic_file(path) as partial:
        partial.write_text("old")
    with pytest.raises(RuntimeError), files.atomic_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_failing_writer_leaves_the_old_folder(tmp_path):
    path = tmp_path / "folder"
    with files.atomic_folder(path) as partial:
        (partial / "old").touch()
    with pytest.raises(RuntimeError), files.atomic_folder(path) as partial:
        (partial / "half").touch()
        raise RuntimeError
    assert [p.name for p in path.iterdir()] == ["old"]
    with files.atomic_folder(path) as partial:
        (partial / "new").touch()
    assert [p.name for p in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a", "a.txt"])
@pytest.mark.parametrize("writer", [files.atomic_file, files.atomic_folder])
def test_what_killed_writers_have_left_goes_with_the_next(writer, name, tmp_path):
    path, host = tmp_path / name, socket.gethostname()
    dead = subprocess.Popen(["true"])
    dead.wait()
    path.mkdir() if writer is files.atomic_folder else path.touch()
    (tmp_path / f".a.{host}-{dead.pid}.stale{path.suffix}").mkdir()
    (tmp_path / f".a.{host}-{dead.pid}.partial{path.suffix}").touch()
    # Writers that live, on other machines, and of other paths.
    others = {f".a.{host}-{os.getppid()}.partial{path.suffix}", f".a.elsewhere-{dead.pid}.partial{path.suffix}"}
    others |= {f".b.{host}-{dead.pid}.partial{path.suffix}", f".a.{host}-{dead.pid}.partial.png"}
    for other in others:
        (tmp_path / other).touch()
    with writer(path) as partial:
        partial.touch()
    assert {p.name for p in tmp_path.iterdir()} == {name} | others


KILLED = """
import os, sys
from pathlib import Path
from sap3d import files
if sys.argv[2] == "renames":
    files._exchange = lambda first, second: False
rename = os.replace
def killed(first, second):
    rename(first, second)
    os._exit(9)
os.replace = killed  # by the first that is called
with files.atomic_folder(Path(sys.argv[1])) as partial:
    (partial / "new").touch()
os._exit(0)
"""


@pytest.mark.parametrize("system, status, left", [("exchanges", 0, {"new"}), ("renames", 9, {"old"})])
def test_a_kill_between_renames_loses_nothing(tmp_path, system, status, left):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()
    if system == "exchanges" and not files._exchange(path, path):
        pytest.skip("this file system cannot exchange folders")
    assert subprocess.run([sys.executable, "-c", KILLED, path, system]).returncode == status
    with pytest.raises(RuntimeError), files.atomic_folder(path):
        raise RuntimeError
    assert {p.name for p in path.iterdir()} == left and list(tmp_path.iterdir()) == [path]


def test_tensors_are_everyones_to_read(tmp_path):
    path = tmp_path / "a.safetensors"
    before = os.umask(0o022)
    try:
        files.save_tensors({"a": torch.arange(3)}, path, {"format": "pt"})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644
    assert load_file(path)["a"].tolist() == [0, 1, 2]


def test_json_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_root_dir_is_the_environments(tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    assert files.root_dir() == tmp_path.resolve()
    monkeypatch.setenv("ROOT_DIR", "")
    assert (files.root_dir() / "sap3d" / "files.py").exists()


def test_a_video_has_the_frames_that_were_written(tmp_path):
    frames = [np.full((32, 48, 3), value, np.uint8) for value in (0, 128, 255)]
    files.write_video(tmp_path / "a.mp4", frames)
    read = imageio.imread(tmp_path / "a.mp4", plugin="FFMPEG")
    assert read.shape == (3, 32, 48, 3)
    assert abs(read.mean((1, 2, 3)) - [0, 128, 255]).max() < 8
