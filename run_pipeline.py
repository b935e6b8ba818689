"""Many objects: run_pipeline.sh for each, over the GPUs or CPU slots there are.

    python run_pipeline.py --object_type GSO_demo
    python run_pipeline.py --list dataset/benchmarks/scans8.txt --views 1 2 3 5 --cpu
    python run_pipeline.py --object_type HOPE_demo --objects milk popcorn --gpus 0,2 --min-free-gb 24
    python run_pipeline.py --object_type DEMO --input_dir photos/     # photos/mug/*.jpg, photos/shoe/*.jpg, …

One process an object and number of views, each with its own log beside its results; a failure is tried once more and
stops nothing else. A second start skips what is done. Ctrl-C ends all. Exit code 0 when all are done, 1 when something
failed, 130 when interrupted; results/summary.json says which. Any Python from 3.10 on will do: run_pipeline.sh brings
its own environment.
"""

import argparse
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import IO

from sap3d.errors import UserError, one_line_errors
from sap3d.files import root_dir, write_json
from sap3d.names import check_name, read_object_list

REPOSITORY = Path(__file__).resolve().parent
ATTEMPTS = 2
POLL = 0.5  # seconds
GRACE = 10.0  # seconds that an interrupted process has to end by itself
JOB_GB = 3.0  # of memory that a CPU slot should have; a job has been seen to take 1.9
HEADER = re.compile(rb"^\[(\d+)/(\d+)\] (.+)$", re.MULTILINE)  # of a stage, by run_pipeline.sh
METRICS = {"rotation_error_stage3_symmetric": "rotation°", "2d_psnr_mean": "2D PSNR", "3d_psnr_mean": "3D PSNR",
           "CD": "Chamfer", "F1_02": "F 0.05"}  # fmt: skip


@dataclass(frozen=True)
class Slot:
    """A place for one job: a GPU, or some CPU cores."""

    device: str  # run_pipeline.sh's fourth argument
    cores: frozenset[int]

    @property
    def name(self) -> str:
        return f"GPU {self.device}" if self.device != "cpu" else f"core {', '.join(map(str, sorted(self.cores)))}"


@dataclass
class Job:
    """One object at one number of views."""

    type: str
    object: str
    views: int
    photos: Path | None = None  # folder of own photos
    state: str = "waiting"  # then running, elsewhere (another launcher has it), done or failed
    attempts: int = 0
    seconds: float = 0.0  # of the last attempt
    error: str = ""  # last line of a failed attempt's log
    stage: str = ""
    read: int = 0  # bytes of the log that are read
    started: float = 0.0
    slot: Slot | None = None
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
        """The job's results.json, if it is there and of this seed."""
        try:
            results = json.loads((self.folder / "results.json").read_text())
        except (OSError, ValueError):
            return None
        return results if results.get("seed") == seed else None

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

    def start(self, slot: Slot, seed: int) -> None:
        """Start an attempt; the lock is held."""
        self.state, self.slot, self.stage, self.started = "running", slot, "starting", time.monotonic()
        self.read = 0
        self.attempts += 1
        environment = os.environ | {"SEED": str(seed), "ROOT_DIR": str(root_dir()), "PYTHONUNBUFFERED": "1"}
        environment["OMP_NUM_THREADS"] = str(len(slot.cores))
        command = ["sh", str(REPOSITORY / "run_pipeline.sh"), self.type, self.object, str(self.views), slot.device]
        command += ["--input", str(self.photos)] if self.photos else []
        with self.log.open("wb") as log:
            # A session of its own: Ctrl-C reaches the launcher alone, which then ends the whole group.
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True, pass_fds=[self.lock.fileno()]
            )
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self.process.pid, slot.cores)

    def read_stage(self) -> None:
        """Note the stage that the log is at, "2/6 poses"; only what is new in it is read."""
        with self.log.open("rb") as log:
            log.seek(self.read)
            lines = log.read().rpartition(b"\n")[0]
        self.read += len(lines)
        if found := HEADER.findall(lines):
            self.stage = "{}/{} {}".format(*(part.decode(errors="replace") for part in found[-1]))

    def finish(self, seed: int) -> None:
        """Note how an ended attempt ended."""
        self.seconds = time.monotonic() - self.started
        self.kill()  # a stage may outlive a launcher script that was killed
        if self.process.returncode == 0 and self.results(seed) is not None:
            self.state = "done"
        else:
            lines = self.log.read_text(errors="replace").replace("\r", "\n").split("\n")
            self.error = next((line for line in reversed(lines) if line.strip()), f"exit {self.process.returncode}")
            self.state = "waiting" if self.attempts < ATTEMPTS else "failed"
        self.process = self.slot = None
        self.unlock()

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Signal the job's whole process group."""
        try:
            os.killpg(self.process.pid, how)
        except ProcessLookupError:
            pass


def find_objects(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """Types and names that the command line asks for.

    Raises:
        UserError: none, or an unreadable list.
    """
    if arguments.list:
        return read_object_list(arguments.list)
    if arguments.input_dir:
        return [(arguments.object_type, name) for name in photo_folders(arguments.input_dir, arguments.objects)]
    if arguments.objects:
        return [(arguments.object_type, name) for name in arguments.objects]
    scans = json.loads((REPOSITORY / "dataset/benchmarks/assets.json").read_text())["objects"]
    folder = root_dir() / "dataset/data/train" / arguments.object_type
    names = {path.name for path in folder.glob("*") if path.is_dir() and not path.name.startswith(".")}
    names |= set(scans.get(arguments.object_type, ()))
    if not names:
        raise UserError(f"{folder}: no objects of this type, and it is none of {', '.join(scans)} (docs/DATASET.md)")
    return [(arguments.object_type, name) for name in sorted(names)]


def photo_folders(folder: Path, wanted: list[str] | None) -> list[str]:
    """Names of the folders of photos in a folder, all or the wanted ones.

    Raises:
        UserError: none there, or not a wanted one.
    """
    names = sorted(path.name for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise UserError(f"{folder}: no folders of photos in it; it should hold one for each object")
    for name in set(wanted or ()) - set(names):
        raise UserError(f"{folder / name}: no such folder")
    return wanted or names


def gpu_slots(wanted: list[str] | None, min_free_gb: float) -> list[Slot]:
    """GPUs with enough free memory, the freest first; none where nvidia-smi is missing.

    Raises:
        UserError: a wanted GPU is not there or lacks memory.
    """
    query = ["nvidia-smi", "--query-gpu=index,memory.free", "--format=csv,noheader,nounits"]
    output = subprocess.run(query, capture_output=True, text=True).stdout if shutil.which(query[0]) else ""
    free = {index.strip(): float(memory) / 1024 for index, memory in (line.split(",") for line in output.splitlines())}
    fit = sorted((index for index in free if free[index] >= min_free_gb), key=lambda index: -free[index])
    for index in wanted or ():
        if index not in fit:
            there = f"{free[index]:.1f} GB free, --min-free-gb {min_free_gb:g}" if index in free else "no such GPU"
            raise UserError(f"--gpus {index}: {there}")
    chosen = [index for index in fit if wanted is None or index in wanted]
    return [Slot(index, frozenset(available_cores())) for index in chosen]


def cpu_slots(count: int | None) -> list[Slot]:
    """The cores shared out evenly; by default a slot a core, as far as memory goes."""
    cores = sorted(available_cores())
    if count is None:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1024**3
        count = max(1, min(len(cores), int(memory / JOB_GB)))
    # More slots than cores share them.
    return [Slot("cpu", frozenset(cores[index::count] or cores[index % len(cores) :][:1])) for index in range(count)]


def available_cores() -> set[int]:
    """Cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


class Board:
    """The live table on a terminal; elsewhere, a line for every change."""

    def __init__(self, jobs: list[Job], slots: int):
        self.jobs, self.slots, self.height = jobs, slots, 0
        self.live, self.seen = sys.stdout.isatty(), {id(job): job.state for job in jobs}

    def show(self) -> None:
        """Draw the state of things."""
        if self.live:
            lines = [self.line(job) for job in self.jobs if job.state in ("running", "elsewhere")] + [self.totals()]
            width = shutil.get_terminal_size().columns
            clear = f"\x1b[{self.height}F\x1b[J" if self.height else ""
            print(clear + "\n".join(line[: width - 1] for line in lines), flush=True)
            self.height = len(lines)
            return
        for job in self.jobs:
            now = f"{job.state} {job.stage if job.state == 'running' else job.attempts}"
            if self.seen[id(job)] != now and (job.state != "waiting" or job.attempts):
                print(self.line(job), flush=True)
            self.seen[id(job)] = now

    def line(self, job: Job) -> str:
        """One job."""
        seconds = time.monotonic() - job.started if job.state == "running" else job.seconds
        what = {"running": job.stage, "waiting": "failed, will be tried again"}.get(job.state, job.state)
        where = job.slot.name if job.slot else f"log {job.log}" if job.error and job.state != "done" else ""
        return f"{job.name:48s} {what:24s} {duration(seconds):>9s}  {where}"

    def totals(self) -> str:
        """Counts and the time left."""
        counts = {state: sum(job.state == state for job in self.jobs) for state in
                  ("done", "running", "elsewhere", "waiting", "failed")}  # fmt: skip
        known = [job.seconds for job in self.jobs if job.state == "done" and job.seconds]
        left = ""
        if known:
            rest = [mean(known) - (time.monotonic() - job.started) for job in self.jobs if job.state == "running"]
            left = (sum(max(r, 0.0) for r in rest) + counts["waiting"] * mean(known)) / self.slots
            left = f"; about {duration(left)} left"
        return ", ".join(f"{count} {state}" for state, count in counts.items() if count) + left


def duration(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes}:{seconds:02d} min"


def run(jobs: list[Job], slots: list[Slot], seed: int, board: Board) -> None:
    """Run all jobs that are not done; they note themselves how they ended."""
    free = list(slots)
    while any(job.state in ("waiting", "running", "elsewhere") for job in jobs):
        for job in jobs:
            if job.state == "running" and job.process.poll() is not None:
                free.append(job.slot)
                job.finish(seed)
                write_summary(jobs, seed)
            elif job.state == "running":
                job.read_stage()
        # First attempts first: what failed once waits for the others.
        for job in sorted(jobs, key=lambda job: job.attempts):
            if job.state in ("waiting", "elsewhere") and free:
                advance(job, free, seed)
        board.show()
        time.sleep(POLL)


def advance(job: Job, free: list[Slot], seed: int) -> None:
    """Start a job unless another launcher's processes have it, or have done it meanwhile."""
    if not job.try_lock():
        job.state = "elsewhere"
    elif job.results(seed) is not None and job.attempts == 0:
        job.state = "done"
        job.unlock()
    else:
        job.start(free.pop(0), seed)


def end_all(jobs: list[Job]) -> None:
    """End the running jobs: politely, then not."""
    running = [job for job in jobs if job.state == "running"]
    for job in running:
        job.kill(signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    for job in running:
        try:
            job.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        job.kill()
        job.process.wait()
        job.state, job.error = "waiting", "interrupted"
        job.unlock()


def write_summary(jobs: list[Job], seed: int) -> None:
    """results/summary.json: every job's state, seconds and metrics."""
    rows = []
    for job in jobs:
        results = (job.results(seed) if job.state == "done" else None) or {}
        row = {"type": job.type, "object": job.object, "views": job.views, "state": job.state, "attempts": job.attempts}
        row["seconds"] = round(sum(results.get("seconds", {}).values()) or job.seconds, 1)
        row |= {"error": job.error} if job.state == "failed" else {}
        rows.append(row | {metric: results.get(metric) for metric in METRICS})
    write_json(root_dir() / "results/summary.json", {"seed": seed, "jobs": rows})


def print_summary(jobs: list[Job], seed: int) -> None:
    """The table of metrics, then what failed and why."""
    print(f"{'':48s}" + "".join(f"{title:>11s}" for title in METRICS.values()))
    for job in jobs:
        results = (job.results(seed) if job.state == "done" else None) or {}
        values = (results.get(key) for key in METRICS)
        cells = "".join(f"{'n/a' if value is None else format(value, '.4g'):>11s}" for value in values)
        print(f"{job.name:48s}" + (cells if job.state == "done" else f"   {job.state}"))
    for job in jobs:
        if job.state == "failed":
            print(f"failed twice: {job.name}: {job.error} ({job.log})")
    print(f"→ {root_dir() / 'results/summary.json'}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--object_type", help="all objects of a type")
    what.add_argument("--list", type=Path, help='file of "TYPE OBJECT" lines')
    parser.add_argument("--objects", nargs="+", help="only these of the type")
    parser.add_argument("--input_dir", type=Path, help="a folder of folders of own photos, one an object")
    parser.add_argument("--views", type=int, nargs="+", default=[5], help="numbers of input images")
    parser.add_argument("--gpus", type=lambda text: text.split(","), help="CUDA indices, by default all that fit")
    parser.add_argument("--min-free-gb", type=float, default=8.0, help="free memory that a GPU must have")
    parser.add_argument("--cpu", action="store_true", help="use no GPU")
    parser.add_argument("--slots", type=int, help="CPU jobs at a time, by default one a core")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.objects and arguments.list:
        parser.error("--objects belongs to --object_type")
    if arguments.input_dir and arguments.list:
        parser.error("--input_dir belongs to --object_type, under which its objects are kept")
    if min(arguments.views) < 1 or (arguments.slots or 1) < 1:
        parser.error("--views and --slots must be at least 1")
    return arguments


def interrupt(*_) -> None:
    raise KeyboardInterrupt


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, interrupt)
    objects = dict.fromkeys((check_name(kind), check_name(name)) for kind, name in find_objects(arguments))
    # Objects first, so that neighbours do not prepare the same one at once.
    folder = arguments.input_dir and arguments.input_dir.resolve()
    jobs = [
        Job(kind, name, views, folder and folder / name)
        for views in dict.fromkeys(arguments.views)
        for kind, name in objects
    ]
    for job in jobs:
        job.state = "done" if job.results(arguments.seed) is not None else "waiting"
    slots = [] if arguments.cpu else gpu_slots(arguments.gpus, arguments.min_free_gb)
    slots = slots or cpu_slots(arguments.slots)
    done = sum(job.state == "done" for job in jobs)
    print(f"{len(jobs)} jobs, {done} done already; slots: {', '.join(slot.name for slot in slots)}", flush=True)
    try:
        run(jobs, slots, arguments.seed, Board(jobs, len(slots)))
    except KeyboardInterrupt:
        print("interrupted: ending what runs", flush=True)
        end_all(jobs)
        return 130
    finally:
        write_summary(jobs, arguments.seed)
    print_summary(jobs, arguments.seed)
    return int(any(job.state == "failed" for job in jobs))


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
