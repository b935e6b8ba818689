"""Workers: they run what is queued, one pipeline at a time each."""

import fcntl
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import bundle
from jobs import OBJECT, PUBLISHED, TYPE, Choices, Job, all_jobs, queue
from PIL import Image

from sap3d.files import find_below
from sap3d.photos.reading import lens_exif
from sap3d.runs.jobs import POLL, REPOSITORY, end_groups
from sap3d.runs.options import read_tree, weights_path


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
        if not job.busy:
            return  # another worker was faster
        write_chosen(job)
        environment = os.environ | {"ROOT_DIR": str(job.folder / "root"), "PYTHONUNBUFFERED": "1"}
        environment["SEED"] = str(job.choices.seed)
        job.note(state="running", started=time.time(), ended=None)
        with job.log.open("wb") as log:
            process = subprocess.Popen(
                self.command(job), env=environment, stdout=log, stderr=log, start_new_session=True, pass_fds=[lock]
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
            end_groups([process])  # what outlives a pipeline that was killed
            job.note(
                state="failed", ended=time.time(), error=why(process.returncode, job.log.read_text(errors="replace"))
            )

    def command(self, job: Job) -> list[str]:
        """What runs a job's pipeline."""
        known, choices, usual = job.known, job.choices, Choices()
        command = ["sh", str(REPOSITORY / "run_pipeline.sh"), TYPE, OBJECT, str(len(job.chosen)), self.device]
        command += ["--input", str(job.folder / "chosen")]
        command += self.published if known["preset"] == PUBLISHED else ["--preset", known["preset"]]
        command += ["--fov", f"{choices.fov:g}"] if choices.fov else []
        command += ["--drop-outliers"] * choices.drop_outliers
        keys = {"poses.hypothesis": "hypothesis", "reconstruction.mesh.faces": "faces",
                "reconstruction.mesh.texture_size": "texture"}  # fmt: skip
        for key, name in keys.items():
            if (value := getattr(choices, name)) != getattr(usual, name):
                command.append(f"{key}={value}")
        return command + [*self.options]


def why(status: int, log: str) -> str:
    """Why a pipeline has failed, for its visitor.

    Args:
        status: its exit status, of which signals make negative ones, and shells and stages large ones.
    """
    lines = [line for line in log.split("\n") if line.strip() and "\r" not in line]  # bars are one line
    if status < 0 or status > 128:
        return "something outside ended it, or memory ran out. Press Run to go on from the last finished stage."
    return lines[-1] if lines else "no output"


def write_chosen(job: Job) -> None:
    """Write the photos that the pipeline is to read, with their foregrounds and what is known of their lens."""
    photos = job.folder / "chosen"
    shutil.rmtree(photos, ignore_errors=True)
    photos.mkdir()
    for index in job.chosen:
        seen = job.known["photos"][index].get("fov")
        with Image.open(job.cut(index)) as cut:
            cut.save(photos / f"{index:03d}.png", **({"exif": lens_exif(seen, cut.size)} if seen else {}))


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
