"""A machine's slots, with a stand-in for nvidia-smi."""

import math

import pytest

from sap3d.errors import UserError
from sap3d.runs import slots

LISTED = """0, GPU-aa11, 40960
1, GPU-aa22, 2048
2, GPU-bb33, 81920
3, GPU-bb44, [N/A]
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Four GPUs and six cores; the function sets what nvidia-smi says and what CUDA_VISIBLE_DEVICES is."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(slots, "available_cores", lambda: set(range(6)))

    def set_up(visible: str | None, listed: str = LISTED, status: int = 0) -> None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<'END'\n{listed}END\nexit {status}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return set_up


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [("0", 40.0), ("1", 2.0), ("2", 80.0), ("3", math.inf)]),
        ("2", [("2", 80.0)]),
        ("2, 0", [("2", 80.0), ("0", 40.0)]),
        ("GPU-aa11,GPU-bb33", [("GPU-aa11", 40.0), ("GPU-bb33", 80.0)]),
        ("GPU-aa2", [("GPU-aa2", 2.0)]),
        ("MIG-cc55", [("MIG-cc55", math.inf)]),
        ("1,7,0", [("1", 2.0)]),
        ("-1", []),
        ("", []),
    ],
)
def test_gpus_are_those_that_cuda_shows(machine, visible, expected):
    machine(visible)
    assert slots.visible_gpus() == expected


def test_a_driver_that_does_not_answer_shows_none(machine):
    machine(None, "NVIDIA-SMI has failed, since the driver is not running\n", 9)
    assert slots.gpu_slots(None, 8.0) == []


def test_gpu_slots_share_the_cores(machine):
    machine("1,2,0")
    assert slots.gpu_slots(None, 8.0) == [
        slots.Slot("GPU 1", "1", 3, gpu="2"),
        slots.Slot("GPU 2", "2", 3, gpu="0"),
    ]
    assert slots.gpu_slots(["2"], 8.0) == [slots.Slot("GPU 2", "2", 6, gpu="0")]
    with pytest.raises(UserError, match="--gpus 0: 2.0 GB free, --min-free-gb 8"):
        slots.gpu_slots(["0"], 8.0)
    with pytest.raises(UserError, match="--gpus 3: no such GPU"):
        slots.gpu_slots(["3"], 8.0)


def test_cpu_slots_share_the_cores(machine):
    assert [slot.cores for slot in slots.cpu_slots(2)] == [{0, 2, 4}, {1, 3, 5}]
    crowded = slots.cpu_slots(8)
    assert len(crowded) == 8 and all(slot.threads == 1 for slot in crowded)
