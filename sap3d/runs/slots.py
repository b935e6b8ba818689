"""Where a machine runs jobs: its GPUs, or shares of its cores. Needs no package."""

import math
import os
import shutil
import subprocess
from dataclasses import dataclass

from sap3d.errors import UserError
from sap3d.runs.cores import available_cores

JOB_GB = 3.0  # of memory that a CPU job should have; a job has been seen to take 1.9


@dataclass(frozen=True)
class Slot:
    """A place for one job: a GPU, or some CPU cores."""

    name: str
    device: str  # run_pipeline.sh's fourth argument
    threads: int
    cores: frozenset[int] = frozenset()  # that the job is bound to; empty: not bound
    gpu: str = ""  # as CUDA_VISIBLE_DEVICES names it


def gpu_slots(wanted: list[str] | None, min_free_gb: float) -> list[Slot]:
    """GPUs with enough free memory, the freest first, which share the cores; none where nvidia-smi is missing.

    Args:
        wanted: CUDA's indices; None takes all that fit.

    Raises:
        UserError: a wanted GPU is not there or lacks memory.
    """
    gpus = {str(index): gpu for index, gpu in enumerate(visible_gpus())}
    fit = sorted((index for index in gpus if gpus[index][1] >= min_free_gb), key=lambda index: -gpus[index][1])
    for index in wanted or ():
        if index not in fit:
            lacks = f"{gpus[index][1]:.1f} GB free, --min-free-gb {min_free_gb:g}" if index in gpus else "no such GPU"
            raise UserError(f"--gpus {index}: {lacks}")
    chosen = [index for index in fit if wanted is None or index in wanted]
    threads = max(1, len(available_cores()) // max(1, len(chosen)))
    return [Slot(f"GPU {index}", index, threads, gpu=gpus[index][0]) for index in chosen]


def visible_gpus() -> list[tuple[str, float]]:
    """GPUs that CUDA shows this process, by its indices: their names in CUDA_VISIBLE_DEVICES, and GB of free memory.

    Numbers are nvidia-smi's. They are CUDA's where CUDA_DEVICE_ORDER is PCI_BUS_ID, as run_pipeline.sh sets it. What
    nvidia-smi tells no free memory of (parts of a GPU, GPUs that share the machine's memory) has enough.
    """
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True) if shutil.which(query[0]) else None
    lines = answer.stdout.splitlines() if answer and answer.returncode == 0 else []
    free = {}
    for index, uuid, memory in (map(str.strip, line.split(",")) for line in lines):
        free[index] = free[uuid] = int(memory) / 1024 if memory.isdigit() else math.inf
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name for name in free if name.isdigit()] if visible is None else visible.replace(" ", "").split(",")
    gpus = []
    for name in names:
        known = [name] if name in free else [uuid for uuid in free if name[:4] == "GPU-" and uuid.startswith(name)]
        if not known and name[:4] != "MIG-":
            break  # CUDA, too, shows none from a name on that it does not know
        gpus.append((name, free[known[0]] if known else math.inf))
    return gpus


def cpu_slots(count: int | None) -> list[Slot]:
    """The cores shared out evenly; by default a slot a core, as far as memory goes."""
    cores = sorted(available_cores())
    if count is None:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1024**3
        count = max(1, min(len(cores), int(memory / JOB_GB)))
    # More slots than cores share them.
    shares = [cores[index::count] or cores[index % len(cores) :][:1] for index in range(count)]
    return [Slot(f"core {', '.join(map(str, share))}", "cpu", len(share), frozenset(share)) for share in shares]
