"""The CPU cores that a process may use: by its affinity, and by the time that its control groups are given.

Needs no package.
"""

import math
import os
from pathlib import Path


def available_cores(root: Path = Path("/")) -> set[int]:
    """Numbers of cores; of those that the affinity allows, as many as a container's CPU limit is worth (rounded up)."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    limit = cgroup_cores(root)
    return set(sorted(cores)[: max(1, math.ceil(limit))]) if limit < len(cores) else cores


def cgroup_cores(root: Path = Path("/")) -> float:
    """The least limit of this process's control groups and those above them, versions 1 and 2; infinite if none."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return math.inf
    limit = math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        folder = top / path.strip("/")
        # In a container the path may be the host's; its own group is then at the top.
        for group in (folder, *folder.parents):
            if group.is_relative_to(top):
                limit = min(limit, _limit(group))
    return limit


def _limit(group: Path) -> float:
    """Cores' worth of time of one control group."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (OSError, ValueError):  # not there, or "max"
        return math.inf
