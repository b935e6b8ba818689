"""Devices that are not there, memory that does not suffice, and cores that may be used."""

import os
import random
import sys

import numpy as np
import pytest
import torch

from sap3d.errors import UserError, one_line_errors
from sap3d.runs import devices
from sap3d.runs.cores import available_cores

GPU = torch.device("cuda", 3)


@pytest.mark.parametrize("limit, expected", [(99, [12]), (6, [12, 6])])
def test_out_of_memory_halves_the_batch_once(limit, expected, capsys):
    tried = []

    def compute(batch: int) -> str:
        tried.append(batch)
        if batch > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return "done"

    assert devices.halving(compute, 12, "tuning.batch", GPU) == "done"
    assert tried == expected
    said = "GPU 3 has too little free memory for tuning.batch=12: trying again with 6\n"
    assert capsys.readouterr().out == (said if len(expected) > 1 else "")


def test_half_the_batch_may_be_too_large_too():
    def compute(batch: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(UserError, match="GPU 3 .* tuning.batch=3 and 1: .* another GPU_INDEX, or cpu"):
        devices.halving(compute, 3, "tuning.batch", GPU)


def test_out_of_memory_elsewhere_is_one_line_that_names_stage_and_fix(monkeypatch, capsys):
    def said(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["main"])
        with pytest.raises(SystemExit) as exit, one_line_errors(*arguments):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 3 has a total of 8 GiB")
        assert exit.value.code == 2
        return capsys.readouterr().err

    assert said() == "error: CUDA out of memory. Free some, or take another GPU_INDEX, or cpu\n"
    line = "error: tuning: CUDA out of memory. Free some, lower tuning.batch, or take another GPU_INDEX, or cpu\n"
    assert said("tuning", "tuning.batch") == line


def test_a_full_card_is_one_line(monkeypatch):
    """Another process holds all of it: CUDA itself does not fit."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    def full(*_, device) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.\nGPU 0 has a total of 24 GiB")

    monkeypatch.setattr(torch, "zeros", full)
    with pytest.raises(UserError, match="^GPU_INDEX 0 does not work: CUDA out of memory. Tried to allocate 20 MiB.$"):
        devices.choose_device("0")


def test_a_gpu_that_is_not_there_or_does_not_work(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "zeros", lambda *_, device: None)
    assert devices.choose_device("1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match=r"GPU_INDEX 2: this machine has 2 CUDA device\(s\)"):
        devices.choose_device("2")

    def dead(*_, device) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure\nFor debugging consider passing …")

    monkeypatch.setattr(torch, "zeros", dead)
    with pytest.raises(UserError, match="^GPU_INDEX 1 does not work: CUDA error: unspecified launch failure$"):
        devices.choose_device("1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.choose_device("2") == torch.device("cpu")
    assert "GPU_INDEX 2 is ignored, running on the CPU" in capsys.readouterr().out


@pytest.mark.parametrize(
    "groups, files, expected",
    [
        ("0::/\n", {"cpu.max": "150000 100000"}, 2),
        ("0::/\n", {"cpu.max": "max 100000"}, 4),
        ("0::/a/b\n", {"a/cpu.max": "100000 100000", "a/b/cpu.max": "300000 100000"}, 1),
        ("2:cpu,cpuacct:/docker/1\n0::/\n", {"cpu/cpu.cfs_quota_us": "20000", "cpu/cpu.cfs_period_us": "10000"}, 2),
        ("2:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "10000"}, 4),
        ("3:memory:/\n", {"cpu/cpu.cfs_quota_us": "10000", "cpu/cpu.cfs_period_us": "10000"}, 4),
        ("", {}, 4),
    ],
)
def test_cores_are_those_of_the_affinity_within_a_containers_limit(groups, files, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 3, 4, 6})
    for name, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{name}": files[name] for name in files}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_cores(tmp_path) == set([1, 3, 4, 6][:expected])


def test_threads_are_never_more_than_asked_for_or_allowed(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(devices, "available_cores", lambda: {0, 1})
    try:
        for asked, expected in ((1, 1), (3, 2)):
            torch.set_num_threads(asked)
            devices.choose_device("cpu")
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(threads)


def test_a_seed_decides_what_is_drawn_and_asks_for_deterministic_kernels(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    draws = []
    for seed in (1, 1, 2):
        devices.seed_everything(seed)
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert draws[0] == draws[1] and all(a != b for a, b in zip(draws[0], draws[2]))
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"  # as torch documents it


def test_emulated_bf16_is_not_fast(monkeypatch):
    asked = []
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: asked.append(including_emulation)
    )
    devices.has_fast_bf16(GPU)
    assert asked == [False]
