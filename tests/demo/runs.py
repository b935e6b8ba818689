"""Drafts and queued jobs for tests that need no page."""

import time
from pathlib import Path

import drafts
import jobs as jb
from jobs import Choices

from sap3d.photos.intake import Limits
from tests.demo.photos import write_photos

PATIENCE = 30.0  # seconds
EDIT = {"kind": "keep", "tool": "point", "points": [[0.5, 0.5]]}


def wait_for(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def draft(folder: Path, tmp_path: Path, count: int = 4, name: str = "sent", back=(70, 90, 160)) -> jb.Job:
    return drafts.create_job(folder, write_photos(tmp_path / name, count, back), Limits())[0]


def submit(job: jb.Job, preset: str = "fast", choices: Choices = Choices()) -> None:  # noqa: B008
    jb.submit(job, preset, choices, [1.0] * 6)
