"""Device choice, seeds and mixed precision."""

import os
import random
import re
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from sap3d.errors import UserError
from sap3d.runs.cores import available_cores

Result = TypeVar("Result")


def choose_device(name: str) -> torch.device:
    """The device for `name`: a CUDA index, or "cpu", there with no more threads than cores.

    Without CUDA an index falls back to the CPU with one line that says so.

    Raises:
        UserError: not an index nor "cpu", no such CUDA device, or one that does not work.
    """
    if name != "cpu" and not re.fullmatch("[0-9]{1,9}", str(name)):
        raise UserError(f"GPU_INDEX must be a number or 'cpu', not '{name}'")
    # OMP_NUM_THREADS and the affinity count already, a container's CPU limit does not.
    torch.set_num_threads(min(torch.get_num_threads(), len(available_cores())))
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        print(f"no CUDA device: GPU_INDEX {name} is ignored, running on the CPU", flush=True)
        return torch.device("cpu")
    if int(name) >= torch.cuda.device_count():
        raise UserError(f"GPU_INDEX {name}: this machine has {torch.cuda.device_count()} CUDA device(s)")
    device = torch.device("cuda", int(name))
    try:
        torch.zeros(1, device=device)
    except RuntimeError as error:  # a dead or a full one, or a driver that does not fit
        raise UserError(f"GPU_INDEX {name} does not work: {str(error).splitlines()[0]}") from error
    return device


def halving(compute: Callable[[int], Result], batch: int, name: str, device: torch.device) -> Result:
    """compute(batch), and where the GPU's memory does not suffice for it, once more with half the batch.

    Args:
        name: of the batch, as the user may set it.

    Raises:
        UserError: half the batch is too large, too.
    """
    try:
        return compute(batch)
    except torch.OutOfMemoryError:
        half = max(1, batch // 2)
        print(f"GPU {device.index} has too little free memory for {name}={batch}: trying again with {half}", flush=True)
    # Outside of the handler, whose traceback holds what was computed.
    torch.cuda.empty_cache()
    try:
        return compute(half)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"GPU {device.index} has too little free memory for {name}={batch} and {half}: "
            "free some of it, or take another GPU_INDEX, or cpu"
        ) from error


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch, and ask torch for deterministic kernels.

    On the CPU all that is used has them, on CUDA not: the gradients of interpolation, for instance, are added up there
    in any order (https://docs.pytorch.org/docs/stable/generated/torch.use_deterministic_algorithms.html).
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS's products are not, either
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    # What `torch.use_deterministic_algorithms(True, warn_only=True)` does, but that it imports torch's compiler.
    torch.set_deterministic_debug_mode("warn")


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """What a training step draws from: the seed and the step alone decide, so that a resumed run draws the same."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + step)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 matrix products are faster than fp32: CUDA since Ampere, x86 with AVX-512 bf16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.backends.cpu.get_cpu_capability() if hasattr(torch.backends.cpu, "get_cpu_capability") else ""
    return "AVX512" in capabilities and _cpu_flag("avx512_bf16")


def _cpu_flag(flag: str) -> bool:
    try:
        with open("/proc/cpuinfo") as file:
            return any(flag in line.split() for line in file if line.startswith("flags"))
    except OSError:
        return False


def autocast(device: torch.device):
    """Context of bf16 autocast where it is fast, else of plain fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bf16(device))
