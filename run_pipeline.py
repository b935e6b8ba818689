"""Many objects: run_pipeline.sh for each, over the GPUs or CPU slots there are.

    python run_pipeline.py --object_type GSO_demo
    python run_pipeline.py --list dataset/benchmarks/scans8.txt --views 1 2 3 5 --cpu
    python run_pipeline.py --object_type HOPE_demo --objects milk popcorn --gpus 0,2 --min-free-gb 24
    python run_pipeline.py --object_type DEMO --input_dir photos/     # photos/mug/*.jpg, photos/shoe/*.jpg, …
    python run_pipeline.py --list objects.txt --backbone published tuning.steps=600    # all that run_pipeline.sh takes
    .venv/bin/python run_pipeline.py --list objects.txt --ray     # or --address HOST:PORT, a Ray cluster
    python run_pipeline.py --list objects.txt --slurm submit      # as a Slurm job array

One process an object and number of views, each with its own log beside its results; a failure is tried once more and
stops nothing else. A second start skips what is done with the same options. Ctrl-C ends all. Exit code 0 when all are
done, 1 when something failed, 130 when interrupted; results/summary.json says which. Any Python from 3.10 on will do:
run_pipeline.sh brings its own environment. With --ray or --address it must be one that has Ray, as .venv/bin/python
does. Ray and Slurm want this repository and ROOT_DIR at the same paths on all machines.
"""

import argparse
import json
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from statistics import mean

from sap3d.errors import UserError, one_line_errors
from sap3d.files import root_dir, write_json
from sap3d.names import JUNK_FOLDERS, check_name, read_object_list, safe_name, shown
from sap3d.runs.jobs import POLL, REPOSITORY, Job, end_all, stage_options, uninterrupted
from sap3d.runs.slots import Slot, cpu_slots, gpu_slots

SUMMARY_PAUSE = 20  # times what it takes to write the summary, until it is written again
METRICS = {"rotation_error_stage3_symmetric": "rotation°", "2d_psnr_mean": "2D PSNR", "3d_psnr_mean": "3D PSNR",
           "CD": "Chamfer", "F1_02": "F 0.05"}  # fmt: skip


def find_objects(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """Types and names that the command line asks for.

    Raises:
        UserError: none, or an unreadable list.
    """
    if arguments.list:
        return read_object_list(arguments.list)
    if arguments.input_dir:
        folders = photo_folders(arguments.input_dir)
        wanted = {name: name for name in folders} | {path.name: name for name, path in folders.items()}
        for name in set(arguments.objects or ()) - set(wanted):
            raise UserError(f"{arguments.input_dir / name}: no such folder")
        return [(arguments.object_type, wanted[name]) for name in arguments.objects or folders]
    if arguments.objects:
        return [(arguments.object_type, name) for name in arguments.objects]
    scans = json.loads((REPOSITORY / "dataset/benchmarks/assets.json").read_text())["objects"]
    folder = root_dir() / "dataset/data/train" / arguments.object_type
    names = {path.name for path in folder.glob("*") if path.is_dir() and not path.name.startswith(".")}
    names |= set(scans.get(arguments.object_type, ()))
    if not names:
        raise UserError(f"{folder}: no objects of this type, and it is none of {', '.join(scans)} (docs/DATASET.md)")
    return [(arguments.object_type, name) for name in sorted(names)]


def photo_folders(folder: Path) -> dict[str, Path]:
    """The folders of photos in a folder by their objects' names, which are plain ones.

    Raises:
        UserError: none there.
    """
    paths = [path for path in sorted(folder.glob("*")) if path.is_dir() and not path.name.startswith(".")]
    paths = [path for path in paths if path.name.lower() not in JUNK_FOLDERS]
    if not paths:
        raise UserError(f"{folder}: no folders of photos in it; it should hold one for each object")
    named = {path.name: path for path in paths if safe_name(path.name, set()) == path.name}
    for path in paths:
        if path.name not in named:
            named[safe_name(path.name, set(named))] = path
    return dict(sorted(named.items()))


class Board:
    """The live table on a terminal; elsewhere, a line for every change."""

    def __init__(self, jobs: list[Job], runner):
        self.jobs, self.runner, self.height = jobs, runner, 0
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
            if self.seen[id(job)] != now and job.state != "queued" and (job.state != "waiting" or job.attempts):
                print(self.line(job), flush=True)
            self.seen[id(job)] = now

    def line(self, job: Job) -> str:
        """One job."""
        seconds = time.monotonic() - job.started if job.state == "running" else job.seconds
        what = {"running": job.stage, "waiting": "failed, will be tried again"}.get(job.state, job.state)
        where = job.place or (f"log {job.log}" if job.error and job.state != "done" else "")
        return f"{job.name:48s} {what:24s} {duration(seconds):>9s}  {where}"

    def totals(self) -> str:
        """Counts and the time left."""
        counts = {state: sum(job.state == state for job in self.jobs) for state in
                  ("done", "running", "queued", "elsewhere", "waiting", "failed")}  # fmt: skip
        known = [job.seconds for job in self.jobs if job.state == "done" and job.seconds]
        left = ""
        if known:
            rest = [mean(known) - (time.monotonic() - job.started) for job in self.jobs if job.state == "running"]
            left = sum(max(r, 0.0) for r in rest) + (counts["queued"] + counts["waiting"]) * mean(known)
            left /= max(self.runner.at_once, 1)
            left = f"; about {duration(left)} left"
        return ", ".join(f"{count} {state}" for state, count in counts.items() if count) + left


def duration(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes}:{seconds:02d} min"


class Local:
    """This machine's GPUs or cores, a job each at a time. launch_ray.RayTasks is the same for a cluster."""

    def __init__(self, slots: list[Slot]):
        self.slots, self.running = slots, []
        self.at_once, self.description = len(slots), f"slots: {', '.join(slot.name for slot in slots)}"

    def has_room(self) -> bool:
        return len(self.running) < len(self.slots)

    def start(self, job: Job, seed: int) -> None:
        """Start a job whose lock is held."""
        slot = next(slot for slot in self.slots if all(slot is not taken for _, taken in self.running))
        with uninterrupted():
            job.start(slot, seed)
            self.running.append((job, slot))

    def update(self, seed: int) -> bool:
        """Note what has become of the jobs; true if any has ended."""
        ended = [job for job, _ in self.running if job.process.poll() is not None]
        self.running = [(job, slot) for job, slot in self.running if job.process.returncode is None]
        for job in ended:
            job.finish(seed)
        for job, _ in self.running:
            job.read_stage()
        return bool(ended)

    def close(self) -> None:
        """End what runs."""
        end_all([job for job, _ in self.running])


def make_runner(arguments: argparse.Namespace):
    """What runs the jobs: this machine, or a Ray cluster.

    Raises:
        UserError: a GPU is not to be had, or Ray is not.
    """
    gpus = [] if arguments.cpu or arguments.address else gpu_slots(arguments.gpus, arguments.min_free_gb)
    if not (arguments.ray or arguments.address):
        return Local(gpus or cpu_slots(arguments.slots))
    from sap3d.runs.launch_ray import join_cluster, start_cluster  # Ray is needed here alone

    if arguments.address:
        return join_cluster(arguments.address, arguments.cpu, arguments.cores, arguments.slots)
    jobs = arguments.slots or max(1, len(cpu_slots(None)) // arguments.cores)
    return start_cluster([slot.gpu for slot in gpus], jobs, arguments.cores)


def run(jobs: list[Job], runner, seed: int, board: Board, summary: bool) -> None:
    """Run all jobs that are not done; they note themselves how they ended."""
    stale, due = False, 0.0
    while any(job.state in ("waiting", "queued", "running", "elsewhere") for job in jobs):
        stale |= runner.update(seed)
        if stale and summary and time.monotonic() >= due:
            begun = time.monotonic()
            write_summary(jobs, seed)
            # It reads all results: of many jobs, it must not take more than a share of the time.
            stale, due = False, time.monotonic() + SUMMARY_PAUSE * (time.monotonic() - begun)
        # First attempts first: what failed once waits for the others.
        for job in sorted(jobs, key=lambda job: job.attempts):
            if job.state in ("waiting", "elsewhere") and runner.has_room():
                advance(job, runner, seed)
        board.show()
        time.sleep(POLL)


def advance(job: Job, runner, seed: int) -> None:
    """Start a job unless another launcher's processes have it, or have done it meanwhile."""
    if not job.try_lock():
        job.state = "elsewhere"
    elif job.attempts == 0 and job.is_done(seed):
        job.state = "done"
        job.unlock()
    else:
        runner.start(job, seed)


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


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--object_type", help="all objects of a type")
    what.add_argument("--list", type=Path, help='file of "TYPE OBJECT" lines')
    parser.add_argument("--objects", nargs="+", help="only these of the type")
    parser.add_argument("--preset", choices=("fast", "standard", "best", "gpu"))
    parser.add_argument("--backbone", help="embedded, or published: Zero-1-to-3 and RelPose++")
    parser.add_argument("--checkpoint", metavar="PATH", help="Zero-1-to-3's, absolute or below ROOT_DIR")
    parser.add_argument("--pose-checkpoint", metavar="PATH", help="RelPose++'s, likewise")
    parser.add_argument("--fov", metavar="DEGREES", help="field of view of whole photos along their longer sides")
    parser.add_argument("--size-mm", metavar="LENGTH", help="every object's longest side, millimetres")
    parser.add_argument("--drop-outliers", action="store_true", help="leave photos out that do not fit the rest")
    parser.add_argument("--input_dir", type=Path, help="a folder of folders of own photos, one an object")
    parser.add_argument("--views", type=int, nargs="+", default=[5], help="numbers of input images")
    parser.add_argument(
        "--gpus",
        type=lambda text: text.split(","),
        help="CUDA indices (of CUDA_VISIBLE_DEVICES), by default all that fit",
    )
    parser.add_argument("--min-free-gb", type=float, default=8.0, help="free memory that a GPU must have")
    parser.add_argument("--cpu", action="store_true", help="use no GPU")
    parser.add_argument("--slots", type=int, help="CPU jobs at a time, by default one a core; of a cluster, any jobs")
    parser.add_argument("--seed", type=int, default=0)
    cluster = parser.add_mutually_exclusive_group()
    cluster.add_argument("--ray", action="store_true", help="start a Ray cluster on this machine and run on it")
    cluster.add_argument("--address", help="run on this Ray cluster: HOST:PORT, or auto for the one this machine is of")
    cluster.add_argument(
        "--slurm", nargs="?", const="print", choices=["print", "submit"],
        help="print a job array script for sbatch (for GPUs, unless --cpu), or submit it; SBATCH_PARTITION etc. count",
    )  # fmt: skip
    parser.add_argument("--cores", type=int, default=1, help="cores of a job with --ray, --address or --slurm")
    parser.add_argument("--no-summary", action="store_true", help="leave results/summary.json alone, as array tasks do")
    # By themselves: --objects and --views would take them for theirs.
    overrides = [word for word in sys.argv[1:] if re.match(r"[a-z]\w*\.[.\w]+=", word)]
    arguments = parser.parse_args([word for word in sys.argv[1:] if word not in overrides])
    arguments.overrides = overrides
    if arguments.objects and arguments.list:
        parser.error("--objects belongs to --object_type")
    if arguments.input_dir and arguments.list:
        parser.error("--input_dir belongs to --object_type, under which its objects are kept")
    if min(arguments.views) < 1 or (arguments.slots or 1) < 1 or arguments.cores < 1:
        parser.error("--views, --slots and --cores must be at least 1")
    if arguments.gpus and (arguments.address or arguments.slurm):
        parser.error("--gpus chooses among this machine's: with --address and --slurm the cluster does")
    return arguments


def interrupt(*_) -> None:
    raise KeyboardInterrupt


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, interrupt)
    objects = dict.fromkeys((check_name(kind), check_name(name)) for kind, name in find_objects(arguments))
    # Objects first, so that neighbours do not prepare the same one at once.
    folders = photo_folders(arguments.input_dir.resolve()) if arguments.input_dir else {}
    for name, path in folders.items():
        if name != path.name and (arguments.object_type, name) in objects:
            print(f"{shown(path.name)}: becomes the object {name}", flush=True)
    jobs = [
        Job(kind, name, views, folders.get(name), tuple(stage_options(arguments)))
        for views in dict.fromkeys(arguments.views)
        for kind, name in objects
    ]
    for job in jobs:
        job.state = "done" if job.is_done(arguments.seed) else "waiting"
    if arguments.slurm:
        from sap3d.runs.launch_slurm import array_script, submit

        script = array_script([job for job in jobs if job.state != "done"], arguments)
        print(submit(script) if arguments.slurm == "submit" else script, end="")
        return 0
    runner = make_runner(arguments)
    signal.signal(signal.SIGTERM, interrupt)  # again: Ray sets a handler of its own
    done = sum(job.state == "done" for job in jobs)
    print(f"{len(jobs)} jobs, {done} done already; {runner.description}", flush=True)
    try:
        run(jobs, runner, arguments.seed, Board(jobs, runner), not arguments.no_summary)
    except KeyboardInterrupt:
        print("interrupted: stopping the running jobs", flush=True)
        return 130
    finally:
        runner.close()
        if not arguments.no_summary:
            write_summary(jobs, arguments.seed)
    print_summary(jobs, arguments.seed)
    if not arguments.no_summary:
        print(f"→ {root_dir() / 'results/summary.json'}")
    return int(any(job.state == "failed" for job in jobs))


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
