"""Drafts of jobs: what visitors send, what is cut out of it, and what they change of it.

A photo of job.json has a `key`, by which its files are called, and a list of `edits` of its outline. masks/KEY/00.png
is the outline that was found, and each edit adds one, so that each can be undone.
"""

import secrets
import shutil
import tempfile
import time
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from jobs import Job, one_at_a_time

from sap3d.errors import UserError
from sap3d.files import atomic_file, write_json
from sap3d.photos.intake import Limits, find_photos, natural
from sap3d.photos.mending import check_edit, mend
from sap3d.photos.quality import notices, problem
from sap3d.photos.reading import SUFFIXES, Photo, read_photos

BUSY = "The photos cannot be changed while this run goes on. Cancel it first, or wait for its end."
OWN = ("key", "edits", "left_out", "first")  # what a job knows of a photo besides `Photo`'s
MOST_EDITS = 200  # of an outline


def create_job(jobs: Path, sent: list[Path], limits: Limits, before: Job | None = None) -> tuple[Job, list[str]]:
    """A draft from what a visitor sent, with the photos' foregrounds, and a sentence on each file that was refused.

    Args:
        before: a job that the photos are added to: itself while it is a draft, else another version of it.

    Raises:
        UserError: nothing usable, or too much was sent; no job is left behind.
    """
    draft = before is not None and before.known["state"] == "draft"
    job = before if draft else fork(before, jobs) if before else empty(jobs)
    try:
        with tempfile.TemporaryDirectory(dir=job.folder) as scratch:
            known = known_photos(job)
            used = sum(not entry["left_out"] for _, entry in known)
            found, refused = find_photos(sent, Path(scratch), limits, already=used)
            photos, unread = read_photos(found, [photo for photo, _ in known])
            refused += unread
            if not photos:
                raise UserError("; ".join(refused) or "no photos in it")
            add_photos(job, photos)
    except BaseException:
        if not draft:
            shutil.rmtree(job.folder)
        raise
    return job, refused


@one_at_a_time
def add_photos(job: Job, photos: list[Photo]) -> None:
    """Add photos to a draft, in the natural order of names unless a person has put them into another.

    Raises:
        UserError: the job is no draft.
    """
    entries = check_draft(job)
    ordered = entries == sorted(entries, key=lambda entry: natural(entry["name"]))
    for photo in photos:
        entries.append(add(job, photo, f"{len(entries):03d}"))
    if ordered:
        entries.sort(key=lambda entry: natural(entry["name"]))
    job.note(photos=entries)


def empty(jobs: Path) -> Job:
    """A job without photos."""
    job = Job(jobs / secrets.token_hex(16))
    for name in ("photos", "cut", "masks"):
        (job.folder / name).mkdir(parents=True)
    write_json(job.folder / "job.json", {"state": "draft", "created": time.time(), "family": job.id, "photos": []})
    return job


def fork(before: Job, jobs: Path) -> Job:
    """Another version of a job, as a draft with the same photos and choices."""
    job, known = empty(jobs), before.known
    for name in ("photos", "cut", "masks"):
        shutil.copytree(before.folder / name, job.folder / name, dirs_exist_ok=True)
    kept = {name: known[name] for name in ("photos", "preset", "choices") if name in known}
    # Of an example each visitor makes an object of their own.
    job.note(**kept, family=job.id if known.get("example") else known["family"])
    return job


def add(job: Job, photo: Photo, key: str) -> dict:
    """Keep a photo's files; returns what the job is to know of it."""
    # Nothing of a name that was sent becomes a path, and the suffix is the content's.
    shutil.copyfile(photo.path, job.folder / "photos" / f"{key}{SUFFIXES[photo.kind]}")
    (job.folder / "masks" / key).mkdir(exist_ok=True)
    imageio.imwrite(job.folder / "masks" / key / "00.png", photo.rgba[..., 3])
    imageio.imwrite(job.folder / "cut" / f"{key}.png", photo.rgba)
    kept = {name: getattr(photo, name) for name in ("name", "kind", "method", "fov", "taken", "problem", "notices")}
    first = {name: kept[name] for name in ("method", "problem", "notices")}
    return kept | {"key": key, "edits": [], "left_out": False, "first": first}


def known_photos(job: Job) -> list[tuple[Photo, dict]]:
    """A job's photos as they are cut out now, and what it knows of them."""
    found = []
    for index, known in enumerate(job.known["photos"]):
        about = {name: value for name, value in known.items() if name not in OWN}
        path = job.folder / "photos" / f"{known['key']}{SUFFIXES[known['kind']]}"
        found.append((Photo(path=path, rgba=imageio.imread(job.cut(index)), **about), known))
    return found


def changeable(job: Job, jobs: Path) -> Job:
    """The job itself while it is a draft, else another version of it, for nothing that was computed is lost.

    Raises:
        UserError: the job waits or runs.
    """
    refuse_busy(job)
    return job if job.known["state"] == "draft" else fork(job, jobs)


def refuse_busy(job: Job) -> None:
    """Raises UserError for a job that waits or runs."""
    if job.busy:
        raise UserError(BUSY)


@one_at_a_time
def edit(job: Job, index: int, change: dict | None) -> None:
    """Change the outline of a draft's photo; without an edit, undo the last one.

    Raises:
        UserError: the job is no draft, or that is no edit.
    """
    photos = check_draft(job)
    photo = photos[index]
    rgba, masks = imageio.imread(job.cut(index)), job.folder / "masks" / photo["key"]
    if change is None and photo["edits"]:
        (masks / f"{len(photo['edits']):02d}.png").unlink()
        photo["edits"].pop()
        rgba[..., 3] = imageio.imread(masks / f"{len(photo['edits']):02d}.png")
    elif change is not None:
        if len(photo["edits"]) >= MOST_EDITS:
            raise UserError(f"An outline takes at most {MOST_EDITS} edits.")
        change = check_edit(change)
        rgba[..., 3] = mend(np.ascontiguousarray(rgba[..., :3]), rgba[..., 3], change)
        photo["edits"].append(change)
        imageio.imwrite(masks / f"{len(photo['edits']):02d}.png", rgba[..., 3])
    judge(photo, rgba)
    with atomic_file(job.cut(index)) as partial:
        imageio.imwrite(partial, rgba)
    job.note(photos=photos)


def judge(photo: dict, rgba: np.ndarray) -> None:
    """Note what is wrong with a photo, by its outline as it is."""
    if not photo["edits"]:
        photo |= photo["first"]
        return
    # A person has looked at it: whether colours look alike is no longer asked.
    trouble = problem(rgba, "marked")
    photo |= {"method": "marked", "problem": trouble, "notices": [] if trouble else notices(rgba, "marked")}


def doubts(photo: dict) -> list[str]:
    """What of a photo that will do should be looked at before a run."""
    if photo["problem"] or photo["left_out"]:
        return []
    by_colour = ["the outline was found by colours alone: see that it follows the object"]
    return photo["notices"] + by_colour * (photo["method"] == "grabcut")


@one_at_a_time
def leave_out(job: Job, index: int, left_out: bool) -> None:
    """Leave a draft's photo out of what follows, or use it again.

    Raises:
        UserError: the job is no draft.
    """
    photos = check_draft(job)
    photos[index]["left_out"] = left_out
    job.note(photos=photos)


@one_at_a_time
def move(job: Job, index: int, by: int) -> None:
    """Let a draft's photo change places with the one before (-1) or after (1) it.

    Raises:
        UserError: the job is no draft.
    """
    photos, to = check_draft(job), index + by
    if 0 <= to < len(photos):
        photos[index], photos[to] = photos[to], photos[index]
        job.note(photos=photos)


def check_draft(job: Job) -> list[dict]:
    """The photos of a draft.

    Raises:
        UserError: it waits or runs, or is a version that is over.
    """
    refuse_busy(job)
    known = job.known
    if known["state"] != "draft":
        raise UserError("This version has been run: change another one.")
    return known["photos"]
