"""Drafts of jobs: what visitors send, what is cut out of it, and their clicks on it."""

import secrets
import shutil
import tempfile
import time
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from jobs import Job, one_at_a_time

from sap3d.errors import UserError
from sap3d.files import write_json
from sap3d.photos.grabcut import correct_mask
from sap3d.photos.intake import Limits, find_photos, natural
from sap3d.photos.quality import notices, problem
from sap3d.photos.reading import SUFFIXES, Photo, read_photo, read_photos


def create_job(jobs: Path, sent: list[Path], limits: Limits, before: Job | None = None) -> tuple[Job, list[str]]:
    """A draft from what a visitor sent, with the photos' foregrounds, and a sentence on each file that was refused.

    Args:
        before: a draft whose photos, with the clicks on them, are to be in the new one, too.

    Raises:
        UserError: nothing usable, or too much was sent; no job is left behind.
    """
    job = Job(jobs / secrets.token_hex(16))
    for name in ("photos", "cut"):
        (job.folder / name).mkdir(parents=True)
    try:
        with tempfile.TemporaryDirectory(dir=job.folder) as scratch:
            known = known_photos(before) if before else []
            found, refused = find_photos(sent, Path(scratch), limits, already=len(known))
            photos, unread = read_photos(found, [photo for photo, _ in known])
            refused += unread
            if not photos:
                raise UserError("; ".join(refused) or "no photos in it")
            both = sorted(known + [(photo, entry(photo)) for photo in photos], key=lambda pair: natural(pair[0].name))
            for index, (photo, _) in enumerate(both):
                # Nothing of a name that was sent becomes a path, and the suffix is the content's.
                shutil.copyfile(photo.path, job.folder / "photos" / f"{index:03d}{SUFFIXES[photo.kind]}")
                imageio.imwrite(job.cut(index), photo.rgba)
    except BaseException:
        shutil.rmtree(job.folder)
        raise
    entries = [known for _, known in both]
    write_json(job.folder / "job.json", {"state": "draft", "created": time.time(), "photos": entries})
    return job, refused


def entry(photo: Photo) -> dict:
    """What a job knows of a photo: about it, and the points that were clicked."""
    kept = {name: getattr(photo, name) for name in ("name", "kind", "method", "fov", "taken", "problem", "notices")}
    return kept | {"keep": [], "remove": []}


def known_photos(job: Job) -> list[tuple[Photo, dict]]:
    """A draft's photos as they are cut out now, and what it knows of them."""
    paths = sorted((job.folder / "photos").iterdir())
    found = []
    for index, (path, known) in enumerate(zip(paths, job.known["photos"], strict=True)):
        about = {name: value for name, value in known.items() if name not in ("keep", "remove")}
        found.append((Photo(path=path, rgba=imageio.imread(job.cut(index)), **about), known))
    return found


@one_at_a_time
def mark(job: Job, index: int, kind: str, point: tuple[float, float] | None) -> None:
    """Cut a photo's foreground anew with one more point to keep or to remove; without a point, as it was at first.

    Args:
        kind: "keep" or "remove".
        point: (x, y) in shares of width and height.

    Raises:
        UserError: the job waits or runs.
    """
    if job.known["state"] in ("queued", "running"):
        raise UserError("this job runs: cancel it before you change its photos")
    for made_of_other_photos in (job.folder / "root", job.results):
        shutil.rmtree(made_of_other_photos, ignore_errors=True)
    photos = job.known["photos"]
    photo = photos[index]
    first = read_photo(sorted((job.folder / "photos").iterdir())[index], photo["name"])
    rgba = first.rgba
    if point is None:
        photo |= entry(first)
    else:
        photo[kind].append(point)
        keep, remove = (np.array(photo[name]).reshape(-1, 2) for name in ("keep", "remove"))
        rgba[..., 3] = correct_mask(np.ascontiguousarray(rgba[..., :3]), rgba[..., 3], keep, remove)
        # A person has looked at it: whether colours look alike is no longer asked.
        photo |= {"method": "marked", "problem": problem(rgba, "marked"), "notices": notices(rgba, "marked")}
    imageio.imwrite(job.cut(index), rgba)
    job.note(photos=photos, state="draft", example="")  # whose results were of its own outlines
