"""Devices that are not there, memory that does not suffice, and cores that may be used."""

import sys

import pytest
import torch

from sap3d import devices
from sap3d.errors import UserError, one_line_errors

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
    said = "GPU 3 has too little free memory for tuning.batch=12: once more with 6\n"
    assert capsys.readouterr().out == (said if len(expected) > 1 else "")


def test_half_the_batch_may_be_too_large_too():
    def compute(batch: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(UserError, match="GPU 3 .* tuning.batch=3 and 1: .* another GPU_INDEX, or cpu"):
        devices.halving(compute, 3, "tuning.batch", GPU)


def test_out_of_memory_elsewhere_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["main"])
    with pytest.raises(SystemExit) as exit, one_line_errors():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 3 has a total of 8 GiB")
    assert exit.value.code == 2
    assert capsys.readouterr().err == "error: CUDA out of memory. Take another GPU_INDEX, or cpu\n"


def test_a_gpu_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.choose_device("1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match=r"GPU_INDEX 2: this machine has 2 CUDA device\(s\)"):
        devices.choose_device("2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.choose_device("2") == torch.device("cpu")
    assert "GPU_INDEX 2 is ignored, running on the CPU" in capsys.readouterr().out
