"""The jobs of run_pipeline.py: one object at one number of views, its lock, its log and its processes.

Needs no package. A job's lock is inherited by its processes, so a job never runs twice at once, whoever started it.
"""

import argparse
import fcntl
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from sap3d.files import REPOSITORY, root_dir
from sap3d.runs.slots import Slot

ATTEMPTS = 2
POLL = 0.5  # seconds
GRACE = 10.0  # seconds that an interrupted process has to end by itself
HEADER = re.compile(rb"^\[(\d+)/(\d+)\] (.+)$", re.MULTILINE)  # of a stage, by run_pipeline.sh
PLACE = re.compile(rb"^on (.+)\n")  # the log's first line
# Runs its arguments under sh and kills the whole process group when standard input ends, which it does with the process
# that holds the other end, however that dies.
TIED = 'exec 3<&0 </dev/null; sh "$@" 3<&- & job=$!; { read -r _ <&3; kill -KILL 0; } & wait $job'


@dataclass
class Job:
    """One object at one number of views."""

    type: str
    object: str
    views: int
    photos: Path | None = None  # folder of own photos
    options: tuple[str, ...] = ()  # run_pipeline.sh's for the stages
    state: str = "waiting"  # then queued (by Ray), running, elsewhere (others have its lock), done or failed
    attempts: int = 0
    seconds: float = 0.0  # of the last attempt
    error: str = ""  # last line of a failed attempt's log
    stage: str = ""
    place: str = ""  # where it runs
    read: int = 0  # bytes of the log that are read
    started: float = 0.0
    process: subprocess.Popen | None = None
    lock: IO | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return f"{self.type}/{self.object}, {self.views} view{'s' * (self.views > 1)}"

    @property
    def folder(self) -> Path:
        return root_dir() / "results" / self.type / self.object / str(self.views)

    @property
    def log(self) -> Path:
        return self.folder / "run.log"

    def results(self, seed: int) -> dict | None:
        """The job's results.json, if it is there and of this seed and these options."""
        try:
            results = json.loads((self.folder / "results.json").read_text())
        except (OSError, ValueError):
            return None
        same = results.get("seed") == seed and sorted(results.get("options", [])) == sorted(self.options)
        return results if same else None

    def is_done(self, seed: int) -> bool:
        """Whether its results are there, and not older than the checkpoints that its options name."""
        if self.results(seed) is None:
            return False
        pairs = zip(self.options, self.options[1:])
        named = [root_dir() / path for flag, path in pairs if flag in ("--checkpoint", "--pose-checkpoint")]
        made = (self.folder / "results.json").stat().st_mtime
        return all(path.stat().st_mtime <= made for path in named if path.exists())

    def try_lock(self) -> bool:
        """Take the job's lock; its processes inherit it, so it stays taken while any of them lives."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = (self.folder / ".lock").open("w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.unlock()
            return False
        return True

    def unlock(self) -> None:
        if self.lock is not None:
            self.lock.close()
        self.lock = None

    def start(self, slot: Slot, seed: int, tied: bool = False) -> None:
        """Start an attempt; the lock is held. A tied one is killed when this process ends, however it does."""
        self.show_start(slot.name)
        self.attempts += 1
        environment = os.environ | {"SEED": str(seed), "ROOT_DIR": str(root_dir()), "PYTHONUNBUFFERED": "1"}
        environment["OMP_NUM_THREADS"] = str(slot.threads)
        command = ["sh", "-c", TIED, "sh"] if tied else ["sh"]
        command += [str(REPOSITORY / "run_pipeline.sh"), self.type, self.object, str(self.views), slot.device]
        command += ["--input", str(self.photos)] if self.photos else []
        command += self.options
        with self.log.open("wb") as log:
            log.write(f"on {slot.name}\n".encode())
            log.flush()
            # A session of its own: Ctrl-C reaches the launcher alone, which then ends the whole group.
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE if tied else None,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[self.lock.fileno()],
            )
        if slot.cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self.process.pid, slot.cores)

    def show_start(self, place: str) -> None:
        """Note that an attempt has begun."""
        self.state, self.place, self.stage, self.read, self.started = "running", place, "starting", 0, time.monotonic()

    def read_stage(self) -> None:
        """Note the stage that the log is at, "2/6 poses"; only what is new in it is read."""
        with self.log.open("rb") as log:
            if log.seek(0, os.SEEK_END) < self.read:  # begun anew by another worker
                self.read = 0
            log.seek(self.read)
            lines = log.read().rpartition(b"\n")[0]
        if self.read == 0 and (place := PLACE.match(lines + b"\n")):
            self.place = place[1].decode(errors="replace")
        self.read += len(lines)
        if found := HEADER.findall(lines):
            self.stage = "{}/{} {}".format(*(part.decode(errors="replace") for part in found[-1]))

    def finish(self, seed: int) -> None:
        """Note how an ended attempt ended."""
        kill_group(self.process)  # a stage may outlive a launcher script that was killed
        if self.process.stdin is not None:
            self.process.stdin.close()
        if self.process.returncode == 0 and self.results(seed) is not None:
            self.seconds, self.state = time.monotonic() - self.started, "done"
        else:
            lines = self.log.read_text(errors="replace").replace("\r", "\n").split("\n")[1:]
            self.fail(next((line for line in reversed(lines) if line.strip()), f"exit {self.process.returncode}"))
        self.process, self.place = None, ""
        self.unlock()

    def fail(self, error: str) -> None:
        """Note a failed attempt."""
        self.seconds, self.error = time.monotonic() - self.started, error
        self.state = "waiting" if self.attempts < ATTEMPTS else "failed"


def stage_options(arguments: argparse.Namespace) -> list[str]:
    """What of the launcher's arguments is for the stages, as run_pipeline.sh takes it."""
    flags = ("preset", "backbone", "checkpoint", "pose_checkpoint", "fov", "size_mm")
    dropped = ["poses.drop_outliers=true"] * arguments.drop_outliers
    given = [(f"--{name.replace('_', '-')}", getattr(arguments, name)) for name in flags]
    return [word for flag, value in given if value for word in (flag, value)] + arguments.overrides + dropped


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the end: one that came while a process is being started would lose it."""
    held: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, lambda number, _: held.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in held:
            signal.raise_signal(number)


def end_all(jobs: list[Job]) -> None:
    """End the running jobs of this process: politely, then not."""
    running = [job for job in jobs if job.process is not None]
    end_groups([job.process for job in running])
    for job in running:
        job.state, job.error = "waiting", "interrupted"
        job.unlock()


def end_groups(leaders: list[subprocess.Popen]) -> None:
    """End processes that lead their groups, and all in these: politely, then not."""
    for leader in leaders:
        kill_group(leader, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    for leader in leaders:
        try:
            leader.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        kill_group(leader)
        leader.wait()


def kill_group(leader: subprocess.Popen, how: signal.Signals = signal.SIGKILL) -> None:
    """Signal a process's whole group."""
    try:
        os.killpg(leader.pid, how)
    except ProcessLookupError:
        pass
