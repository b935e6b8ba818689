"""What a finished run says of its poses, and what can be done about them."""

import json
import shutil
from dataclasses import asdict

import drafts
import jobs as jb
import outcome
import pytest
import torch
from settings import Settings

from sap3d.cameras.poses import write_poses
from tests.demo.pages import download, job_of, mesh_shown, run, send
from tests.demo.photos import write_photos

AROUND = torch.tensor([[0.3, azimuth, 1.8] for azimuth in (0.0, 1.5, 3.0)])


@pytest.fixture
def done(tmp_path) -> jb.Job:
    """A finished job of three photos whose stage 1 said what `said` writes."""
    settings = Settings(tmp_path / "demo")
    job, _ = drafts.create_job(settings.jobs, write_photos(tmp_path / "sent", 3), settings.limits)
    job.note(state="done", preset="fast", choices=asdict(jb.Choices()))
    job.results.mkdir(parents=True)
    return job


def said(job: jb.Job, confidence: list[float], others: list[torch.Tensor], **more: object) -> str:
    placements = torch.stack([AROUND, *others])
    path = job.results / "initial_poses.json"
    write_poses(path, placements, [0.1 * rank for rank in range(len(placements))], confidence=confidence, **more)
    return outcome.trust(job)


def test_sure_poses_need_no_words(done):
    assert said(done, [0.9, 0.8, 0.95], [AROUND * torch.tensor([1.0, -1.0, 1.0])]) == ""
    (done.results / "initial_poses.json").unlink()
    assert outcome.trust(done) == ""


def test_doubtful_poses_are_told_with_the_photo_and_what_to_do(done):
    nearly, another = AROUND + torch.tensor([0.0, 0.02, 0.0]), AROUND * torch.tensor([1.0, -1.0, 1.0])
    told = said(done, [0.9, 0.4, 0.95], [nearly, another])
    assert "It is doubtful where 1.jpg was taken from (40% sure)." in told and "another photo from between" in told
    assert 'data-act="drop" data-index="1"' in told and 'data-index="0"' not in told
    assert 'data-act="hypothesis" data-index="3"' in told  # the second is nearly the first
    assert "the least sure of them is placed right with a probability of 30%" in said(done, [0.6, 0.3, 0.5], [nearly])


def test_a_photo_that_does_not_fit_is_told(done):
    told = said(done, [0.9, 0.9, 0.9], [], outliers={"named": [2], "fall": [], "unexplained": []})
    assert "2.jpg does not fit the other photos." in told and 'data-index="2"' in told


def test_a_version_without_the_photo_or_with_the_second_answer_runs_beside(
    visitor, settings, files, tmp_path, monkeypatch
):
    doubtful = shutil.copytree(files, tmp_path / "doubtful")
    monkeypatch.setenv("STAND_IN_FILES", str(doubtful))
    for views in (3, 4):
        path = doubtful / f"poses_{views}.json"
        said = json.loads(path.read_text()) | {"confidence": [0.9, 0.5] + [0.9] * (views - 2)}
        path.write_text(json.dumps(said))
    page = visitor()
    send(page, write_photos(tmp_path / "sent", 4))
    run(page)
    mesh_shown(page)
    first = job_of(page, settings)
    page.click("#doubt [data-act=hypothesis]")
    page.wait_for_selector("#history a:has-text('Version 2')")
    mesh_shown(page)
    assert "poses.hypothesis=2" in download(page, "report.html").decode()
    page.click("#history a:has-text('Version 1')")
    mesh_shown(page)
    page.click("#doubt [data-act=drop]")
    page.wait_for_selector("#history a:has-text('Version 3')")
    mesh_shown(page)
    third = job_of(page, settings)
    assert third.chosen == [0, 2, 3] and first.chosen == [0, 1, 2, 3]
    assert [job.known["state"] for job in jb.versions(settings.jobs, first)] == ["done"] * 3
