"""How long runs take: what is promised before one, and what is left of one, by its own pace and its stages' bars."""

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low

from jobs import STAGES, Job, all_jobs

# Seconds of the stages for four photos on two cores.
SECONDS = {
    "fast": (5, 40, 20, 25, 45, 4),
    "standard": (5, 65, 25, 25, 80, 4),
    "best": (5, 200, 25, 25, 250, 4),
    "published": (5, 60, 300, 240, 240, 20),  # on a card; a guess
}
LAST = 5  # runs that a promise goes by
TRUSTED = 30.0  # seconds of work after which what is expected follows this run's own pace as much as what was known
HEADER = re.compile(r"^\[\d/\d\] (\w+)$")
ELAPSED = re.compile(r"^ +(\d+) s$")
BAR = re.compile(r"\d+%\|[^|]*\| \d+/\d+ \[[\d:]+<(?:(\d+):)?(\d+):(\d\d)[,\]]")  # tqdm's, with the time it expects


@dataclass(frozen=True)
class Stage:
    """A stage of a run as its log tells of it."""

    name: str
    seconds: float
    over: bool
    bar: float = 0.0  # seconds that its bar says are left, if it has one


def expected_seconds(jobs: Path, preset: str) -> list[float]:
    """Of each stage: what is usual, times how much slower than usual this machine's last runs were.

    That is their median, with the usual pace as one of them, so that a single slow run promises nothing.
    """
    done = [(known["ended"], known, job) for job in all_jobs(jobs) if (known := job.known)["state"] == "done"]
    last = sorted(done, key=lambda entry: entry[0])[-LAST:]
    return [median_low([1.0, *(slowness(known, job) for _, known, job in last)]) * usual for usual in SECONDS[preset]]


def slowness(known: dict, job: Job) -> float:
    """What a run took of what is usual for its preset."""
    seconds = json.loads((job.results / "results.json").read_text())["seconds"]
    usual = sum(SECONDS[known["preset"]][STAGES.index(stage)] for stage in seconds)
    return sum(seconds.values()) / usual if usual else 1.0


def stages(job: Job) -> list[Stage]:
    """Stages that the log tells of so far; the last may still run."""
    if not job.log.exists():
        return []
    found, known, bar = [], job.known, 0.0
    for line in re.split(r"[\r\n]", job.log.read_text(errors="replace")):
        if header := HEADER.match(line):
            found.append([header[1], 0.0, False])
            bar = 0.0
        elif found and (elapsed := ELAPSED.match(line)):
            found[-1][1:] = [float(elapsed[1]), True]
        elif said := BAR.search(line):
            hours, minutes, seconds = (int(part or 0) for part in said.groups())
            bar = 3600.0 * hours + 60 * minutes + seconds
    if found and not found[-1][2]:
        spent = (known.get("ended") or time.time()) - known["started"] - sum(seconds for _, seconds, _ in found)
        found[-1][1:] = [max(spent, 0.0), known["state"] == "done"]
    return [Stage(*stage, bar=bar if stage is found[-1] else 0.0) for stage in found]


def outlook(found: list[Stage], usual: list[float]) -> list[float]:
    """Seconds that are left of each stage, in their order, by what is usual and how this run has fared so far.

    A stage that takes longer than expected slows what is expected of the others at once, so that the promise does not
    stand still while it goes on.
    """
    spent = expected = TRUSTED
    for stage, seconds in zip(found, usual):
        if stage.over or stage.seconds > seconds:
            spent, expected = spent + stage.seconds, expected + seconds
    pace = spent / expected
    left = []
    for index, seconds in enumerate(usual):
        if index >= len(found):
            left.append(pace * seconds)
        elif found[index].over:
            left.append(0.0)
        else:
            left.append(max(pace * seconds - found[index].seconds, found[index].bar, 1.0))
    return left
