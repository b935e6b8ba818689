"""Jobs of the demo: a folder each, which the workers (worker.py) run, and how a page finds them.

    jobs/ID/job.json     state and choices; photos in their order
           /photos/      as they were sent: 000.jpg …
           /masks/       000/00.png, 01.png, …: the outline that was found, and after each edit (drafts.py)
           /cut/         000.png …: the foreground as alpha
           /chosen/      those of them that are used; what the pipeline reads
           /root/        ROOT_DIR of its pipeline
           /run.log
    results/TOKEN/       what the page shows and offers (bundle.py), under a name that does not lead to the job

All that is known is in these files, so a server that was killed goes on with its queue when it starts again. A job
whose run has ended well is never changed again: a change makes another version of it, of the same `family`.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path

from sap3d.errors import UserError
from sap3d.files import exclusive, write_json
from sap3d.runs.options import FIELDS_OF_VIEW
from sap3d.scene import Scene

TYPE, OBJECT = "DEMO", "object"
STAGES = ("data", "poses", "tuning", "novel_views", "reconstruction", "evaluation")
PRESETS = ("fast", "standard", "best")
PUBLISHED = "published"  # an effort that is not a preset, but the published weights
KEEP = 7 * 24 * 3600.0  # seconds after which a job that nobody runs is removed
FACES, TEXTURES = (5_000, 10_000, 20_000, 60_000), (1024, 2048, 4096)
SEEDS = (0, 2**31 - 1)


@dataclass(frozen=True)
class Choices:
    """What is chosen for a run besides its preset."""

    fov: float | None = None  # of whole photos along their longer sides, degrees; None: EXIF's, else it is estimated
    drop_outliers: bool = False
    seed: int = 0
    faces: int = 10_000  # that the mesh is simplified to
    texture: int = 2048  # pixels of its side
    hypothesis: int = 1  # of stage 1's ranked placements of the photos, the one that is taken

    def checked(self) -> "Choices":
        """Raises UserError for what cannot be."""
        low, high = FIELDS_OF_VIEW
        if self.fov is not None and not low <= self.fov <= high:
            raise UserError(f"The lens's angle of view must be from {low} to {high} degrees.")
        if not SEEDS[0] <= self.seed <= SEEDS[1] or self.seed != int(self.seed):
            raise UserError(f"The seed must be a whole number from {SEEDS[0]} to {SEEDS[1]}.")
        if self.faces not in FACES or self.texture not in TEXTURES or not 1 <= self.hypothesis <= 8:
            raise UserError("There is no such choice.")
        return self


@dataclass(frozen=True)
class Job:
    """One version of one visitor's object. States: draft, queued, running, then done, failed or cancelled."""

    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def known(self) -> dict:
        """state, preset, choices, photos (drafts.py), family, error and more."""
        return json.loads((self.folder / "job.json").read_text())

    def note(self, **changes: object) -> None:
        write_json(self.folder / "job.json", self.known | changes)

    @property
    def chosen(self) -> list[int]:
        """Indices of the photos that will do and are not left out."""
        return [i for i, photo in enumerate(self.known["photos"]) if not photo["problem"] and not photo["left_out"]]

    @property
    def choices(self) -> Choices:
        return Choices(**self.known.get("choices", {}))

    @property
    def busy(self) -> bool:
        return self.known["state"] in ("queued", "running")

    @property
    def scene(self) -> Scene:
        return Scene(TYPE, OBJECT, len(self.chosen), self.folder / "root")

    @property
    def log(self) -> Path:
        return self.folder / "run.log"

    @property
    def token(self) -> str:
        """By which results are shared: whoever has it cannot find the job."""
        return hashlib.sha256(f"results of {self.id}".encode()).hexdigest()[:32]

    @property
    def results(self) -> Path:
        return self.folder.parents[1] / "results" / self.token

    def cut(self, index: int) -> Path:
        """The photo with its foreground as alpha."""
        return self.folder / "cut" / f"{self.known['photos'][index]['key']}.png"


def find_job(jobs: Path, identifier: str | None) -> Job | None:
    """The job of an identifier that came from a browser, if there is one."""
    if not re.fullmatch("[0-9a-f]{32}", identifier or "") or not (jobs / identifier / "job.json").exists():
        return None
    return Job(jobs / identifier)


def find_shared(jobs: Path, token: str | None) -> Job | None:
    """The finished job whose results have a token that came from a browser, if there is one."""
    return next((job for job in all_jobs(jobs) if job.token == token and job.known["state"] == "done"), None)


def versions(jobs: Path, job: Job) -> list[Job]:
    """A job and the others of its family, the oldest first."""
    alike = [other for other in all_jobs(jobs) if other.known["family"] == job.known["family"]]
    return sorted(alike, key=lambda other: other.known["created"])


def one_at_a_time(change: Callable) -> Callable:
    """Make a change of a job wait for others, from its look at the job's state to its note of the new one."""

    @wraps(change)
    def waiting(job: Job, *arguments: object):
        with exclusive(job.folder / "job.json"):
            return change(job, *arguments)

    return waiting


@one_at_a_time
def submit(job: Job, preset: str, choices: Choices, expected: list[float]) -> None:
    """Queue a job with the photos that will do: a draft, or one whose run has failed or was cancelled.

    Args:
        expected: seconds of its stages (pace.py).

    Raises:
        UserError: no photo will do, the job waits, runs or is done already, or there is no such choice.
    """
    state = job.known["state"]
    if state in ("queued", "running"):
        raise UserError("This job runs already.")
    if state == "done":
        raise UserError("This job is done: another run is another version of it.")
    if not job.chosen:
        raise UserError("No photo can be used. Mend an outline, or send other photos.")
    if preset not in (*PRESETS, PUBLISHED):
        raise UserError(f"There is no preset '{preset}'.")
    (job.folder / "cancel").unlink(missing_ok=True)
    chosen = asdict(choices.checked())
    job.note(state="queued", preset=preset, choices=chosen, queued=time.time(), expected=expected, error="")


def cancel(job: Job) -> None:
    """Ask the worker to end a job; it notes when it has."""
    if job.busy:
        (job.folder / "cancel").touch()


def all_jobs(jobs: Path) -> list[Job]:
    return [Job(path.parent) for path in jobs.glob("*/job.json")]


def queue(jobs: Path) -> list[Job]:
    """Jobs that wait, the first to run first."""
    waiting = [(known["queued"], job) for job in all_jobs(jobs) if (known := job.known)["state"] == "queued"]
    return [job for _, job in sorted(waiting, key=lambda pair: pair[0])]


def remove_old(jobs: Path) -> None:
    """Remove jobs that are older than `KEEP` and neither wait nor run."""
    for job in all_jobs(jobs):
        remove_if_old(job)


@one_at_a_time
def remove_if_old(job: Job) -> None:
    known = job.known
    if known["state"] not in ("queued", "running") and time.time() - known["created"] > KEEP:
        shutil.rmtree(job.results, ignore_errors=True)
        shutil.rmtree(job.folder)
