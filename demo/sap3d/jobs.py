"""Jobs of the demo: a folder each, and workers that run what is queued, one pipeline at a time each.

    jobs/ID/job.json     state and choices
           /photos/      as they were sent: 000.jpg …
           /cut/         000.png …: the foreground as alpha
       /chosen/      those of them that will do; what the pipeline reads
           /root/        ROOT_DIR of its pipeline
           /run.log
           /results/     what the page shows and offers (bundle.py)

All that is known is in these files, so a server that was killed goes on with its queue when it starts again.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path

import bundle
from PIL import Image

from sap3d.errors import UserError
from sap3d.files import exclusive, find_below, write_json
from sap3d.photos.reading import lens_exif
from sap3d.runs.jobs import POLL, REPOSITORY, end_groups
from sap3d.runs.options import FIELDS_OF_VIEW, read_tree, weights_path
from sap3d.scene import Scene

TYPE, OBJECT = "DEMO", "object"
STAGES = ("data", "poses", "tuning", "novel_views", "reconstruction", "evaluation")
# Seconds of the stages for four photos on two cores, until jobs of this machine tell better.
SECONDS = {
    "fast": (5, 30, 50, 15, 45, 4),
    "standard": (5, 50, 150, 18, 100, 4),
    "best": (5, 120, 300, 18, 270, 4),
    "published": (5, 60, 300, 240, 240, 20),  # on a card; a guess
}
PUBLISHED = "published"  # an effort that is not a preset, but the published weights
KEEP = 7 * 24 * 3600.0  # seconds after which a job that nobody runs is removed
HEADER = re.compile(r"^\[\d/\d\] (\w+)$")
ELAPSED = re.compile(r"^ +(\d+) s$")


@dataclass(frozen=True)
class Job:
    """One visitor's object. States: draft, queued, running, then done, failed or cancelled."""

    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def known(self) -> dict:
        """state, preset, photos (drafts.py), error, example (its name) and more."""
        return json.loads((self.folder / "job.json").read_text())

    def note(self, **changes: object) -> None:
        write_json(self.folder / "job.json", self.known | changes)

    @property
    def chosen(self) -> list[int]:
        """Indices of the photos that will do."""
        return [index for index, photo in enumerate(self.known["photos"]) if not photo["problem"]]

    @property
    def scene(self) -> Scene:
        return Scene(TYPE, OBJECT, len(self.chosen), self.folder / "root")

    @property
    def log(self) -> Path:
        return self.folder / "run.log"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def cut(self, index: int) -> Path:
        """The photo with its foreground as alpha."""
        return self.folder / "cut" / f"{index:03d}.png"


def find_job(jobs: Path, identifier: str | None) -> Job | None:
    """The job of an identifier that came from a browser, if there is one."""
    if not re.fullmatch("[0-9a-f]{32}", identifier or "") or not (jobs / identifier / "job.json").exists():
        return None
    return Job(jobs / identifier)


def one_at_a_time(change: Callable[..., None]) -> Callable[..., None]:
    """Make a change of a job wait for others, from its look at the job's state to its note of the new one."""

    @wraps(change)
    def waiting(job: Job, *arguments: object) -> None:
        with exclusive(job.folder / "job.json"):
            change(job, *arguments)

    return waiting


@one_at_a_time
def submit(job: Job, preset: str, fov: float | None = None, drop_outliers: bool = False) -> None:
    """Queue a job, whatever became of it before, with the photos that will do.

    Args:
        fov: of whole photos along their longer sides, degrees; None: what their EXIF says, else it is estimated.
        drop_outliers: leave out photos that do not fit the rest.

    Raises:
        UserError: none will, the job waits or runs already, or no such field of view.
    """
    known = job.known
    if known["state"] in ("queued", "running"):
        raise UserError("this job runs already")
    if not job.chosen:
        raise UserError("no photo will do: click one to mend its outline, or send others")
    if preset not in SECONDS:
        raise UserError(f"no preset '{preset}'")
    if fov is not None and not FIELDS_OF_VIEW[0] <= fov <= FIELDS_OF_VIEW[1]:
        raise UserError(f"the lens's angle of view must be from {FIELDS_OF_VIEW[0]} to {FIELDS_OF_VIEW[1]} degrees")
    (job.folder / "cancel").unlink(missing_ok=True)
    expected = expected_seconds(job.folder.parent, preset, len(job.chosen))
    camera = {"fov": fov, "drop_outliers": drop_outliers}
    job.note(state="queued", preset=preset, **camera, queued=time.time(), expected=expected, error="")


def cancel(job: Job) -> None:
    """Ask the worker to end a job; it notes when it has."""
    if job.known["state"] in ("queued", "running"):
        (job.folder / "cancel").touch()


def all_jobs(jobs: Path) -> list[Job]:
    return [Job(path.parent) for path in jobs.glob("*/job.json")]


def queue(jobs: Path) -> list[Job]:
    """Jobs that wait, the first to run first."""
    waiting = [(known["queued"], job) for job in all_jobs(jobs) if (known := job.known)["state"] == "queued"]
    return [job for _, job in sorted(waiting, key=lambda pair: pair[0])]


def expected_seconds(jobs: Path, preset: str, views: int) -> list[float]:
    """Of each stage: as the last job of this kind took on this machine.

    Else `SECONDS`, times what the last job of any kind took of them.
    """
    done = [(known["queued"], known, job) for job in all_jobs(jobs) if (known := job.known)["state"] == "done"]
    if not done:
        return list(SECONDS[preset])
    alike = [entry for entry in done if entry[1]["preset"] == preset and len(entry[2].chosen) == views]
    _, known, last = max(alike or done, key=lambda entry: entry[0])
    seconds = json.loads((last.results / "results.json").read_text())["seconds"]
    if alike:
        return [seconds.get(stage, usual) for stage, usual in zip(STAGES, SECONDS[preset])]
    usual = sum(SECONDS[known["preset"]][STAGES.index(stage)] for stage in seconds)
    factor = sum(seconds.values()) / usual if usual else 1.0
    return [factor * usual for usual in SECONDS[preset]]


def stages(job: Job) -> list[tuple[str, float, bool]]:
    """Stages that the log tells of so far: name, seconds, and whether it is over; the last may still run."""
    if not job.log.exists():
        return []
    found, known = [], job.known
    for line in job.log.read_text(errors="replace").splitlines():
        if header := HEADER.match(line):
            found.append([header[1], 0.0, False])
        elif found and (elapsed := ELAPSED.match(line)):
            found[-1][1:] = [float(elapsed[1]), True]
    if found and not found[-1][2]:
        spent = (known.get("ended") or time.time()) - known["started"] - sum(seconds for _, seconds, _ in found)
        found[-1][1:] = [max(spent, 0.0), known["state"] == "done"]
    return [tuple(stage) for stage in found]


def newest_picture(job: Job) -> Path | None:
    """Of what the stages have drawn, the last."""
    scene = job.scene
    drawn = [
        scene.reconstruction / "inputs.png",
        scene.reconstruction.with_name(f".{OBJECT}.training") / "preview.png",
        scene.diffusion / "page.png",
        scene.diffusion / "before_after.png",
        scene.initial_poses.with_suffix(".png"),
        scene.train / "contact_sheet.png",
    ]
    return next((path for path in drawn if path.exists()), None)


class Worker(threading.Thread):
    """Runs queued jobs, one after the other."""

    def __init__(self, jobs: Path, device: str, published: Sequence[str] = (), options: Sequence[str] = ()):
        """
        Args:
            published: what run_pipeline.sh is told where the published weights are chosen.
            options: what it is told besides, always.
        """
        super().__init__(daemon=True)
        self.jobs, self.device, self.published, self.options = jobs, device, published, options
        self.ends = threading.Event()

    def run(self) -> None:
        while not self.ends.wait(POLL):
            for job in self.candidates():
                with (job.folder / ".lock").open("w") as lock:
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except OSError:
                        continue  # another worker's, or a pipeline that outlived its server
                    self.process(job, lock.fileno())
                break

    def candidates(self) -> list[Job]:
        """Jobs that a killed server left running, then those that wait."""
        return [job for job in all_jobs(self.jobs) if job.known["state"] == "running"] + queue(self.jobs)

    def process(self, job: Job, lock: int) -> None:
        """Run one job to its end and note it. The pipeline inherits the lock."""
        if (job.folder / "cancel").exists():
            job.note(state="cancelled", ended=time.time())
            return
        if job.known["state"] not in ("queued", "running"):
            return  # another worker was faster
        known, environment = job.known, os.environ | {"ROOT_DIR": str(job.folder / "root"), "PYTHONUNBUFFERED": "1"}
        photos = job.folder / "chosen"
        shutil.rmtree(photos, ignore_errors=True)
        photos.mkdir()
        for index in job.chosen:
            with Image.open(job.cut(index)) as cut:
                seen = known["photos"][index].get("fov")
                cut.save(photos / job.cut(index).name, **({"exif": lens_exif(seen, cut.size)} if seen else {}))
        command = ["sh", str(REPOSITORY / "run_pipeline.sh"), TYPE, OBJECT, str(len(job.chosen)), self.device]
        command += ["--input", str(photos)]
        command += self.published if known["preset"] == PUBLISHED else ["--preset", known["preset"]]
        command += ["--fov", f"{known['fov']:g}"] if known.get("fov") else []
        command += ["--drop-outliers"] * known.get("drop_outliers", False)
        command += self.options
        job.note(state="running", started=time.time(), ended=None)
        with job.log.open("wb") as log:
            process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True, pass_fds=[lock]
            )
        while process.poll() is None and not self.ends.is_set() and not (job.folder / "cancel").exists():
            time.sleep(POLL)
        if process.poll() is None:
            end_groups([process])
        if self.ends.is_set() and process.returncode:
            return  # it goes on when the server starts again
        if (job.folder / "cancel").exists():
            job.note(state="cancelled", ended=time.time())
        elif process.returncode == 0:
            try:
                bundle.collect(job.scene, job.results)
                job.note(state="done", ended=time.time())
            except Exception as error:  # the worker must go on with other jobs
                job.note(state="failed", ended=time.time(), error=f"results: {error}")
        else:
            lines = [line for line in job.log.read_text(errors="replace").splitlines() if line.strip()]
            job.note(state="failed", ended=time.time(), error=lines[-1] if lines else "no output")


def published_options(checkpoint: str | None = None, pose_checkpoint: str | None = None) -> list[str]:
    """What run_pipeline.sh is told to use the published weights; nothing where they are not there.

    Args:
        checkpoint, pose_checkpoint: absolute or below this process's ROOT_DIR; None: where they are looked for.
    """
    pose_default = read_tree([], "cpu").poses.checkpoint
    found = weights_path("published", checkpoint), find_below(pose_checkpoint or pose_default)
    if not (found[0].exists() or found[0].with_suffix("").exists()) or not found[1].exists():
        return []
    # Jobs have ROOT_DIRs of their own.
    return ["--backbone", "published", "--checkpoint", str(found[0]), "--pose-checkpoint", str(found[1])]


def remove_old(jobs: Path) -> None:
    """Remove jobs that are older than `KEEP` and neither wait nor run."""
    for job in all_jobs(jobs):
        remove_if_old(job)


@one_at_a_time
def remove_if_old(job: Job) -> None:
    known = job.known
    if known["state"] not in ("queued", "running") and time.time() - known["created"] > KEEP:
        shutil.rmtree(job.folder)
