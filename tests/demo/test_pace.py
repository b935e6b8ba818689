"""What is promised of a run's time, and how the promise is corrected."""

import json
import time
from dataclasses import asdict

import drafts
import pace
import pytest
from jobs import STAGES, Choices, Job
from pace import SECONDS, Stage, outlook
from settings import Settings

from tests.demo.photos import write_photos


def finished(jobs, tmp_path, preset: str, slowness: float, ended: float) -> Job:
    """A job that took so many times what is usual."""
    job, _ = drafts.create_job(jobs, write_photos(tmp_path / "sent", 1), Settings(tmp_path).limits)
    job.note(state="done", preset=preset, choices=asdict(Choices()), ended=ended)
    job.results.mkdir(parents=True)
    seconds = {name: slowness * usual for name, usual in zip(STAGES, SECONDS[preset])}
    (job.results / "results.json").write_text(json.dumps({"seconds": seconds}))
    return job


def test_one_slow_run_promises_nothing_but_several_do(tmp_path):
    jobs = tmp_path / "jobs"
    assert pace.expected_seconds(jobs, "fast") == list(SECONDS["fast"])
    finished(jobs, tmp_path, "best", 20.0, 1.0)
    assert pace.expected_seconds(jobs, "fast") == list(SECONDS["fast"])
    finished(jobs, tmp_path, "fast", 3.0, 2.0)
    finished(jobs, tmp_path, "fast", 3.0, 3.0)
    assert pace.expected_seconds(jobs, "standard") == pytest.approx([3 * usual for usual in SECONDS["standard"]])


def test_what_is_left_follows_the_first_stages():
    usual = [5.0, 30.0, 50.0, 15.0, 45.0, 4.0]
    slow = outlook([Stage("data", 20.0, True), Stage("poses", 120.0, True)], usual)
    assert slow[:2] == [0.0, 0.0] and sum(slow) > 2 * sum(usual[2:])
    quick = outlook([Stage("data", 2.0, True), Stage("poses", 12.0, True)], usual)
    assert sum(quick) < 0.8 * sum(usual[2:])


def test_the_promise_does_not_stand_still_while_a_stage_takes_longer():
    """A promise of 2:11 that stays for minutes is no promise."""
    usual = [5.0, 30.0, 50.0, 15.0, 45.0, 4.0]
    left = [
        sum(outlook([Stage("data", 5.0, True), Stage("poses", seconds, False)], usual))
        for seconds in range(30, 300, 30)
    ]
    assert all(later > before for before, later in zip(left, left[1:]))


def test_a_stages_own_bar_says_what_is_left_of_it(tmp_path):
    job, _ = drafts.create_job(tmp_path / "jobs", write_photos(tmp_path / "sent", 1), Settings(tmp_path).limits)
    job.note(state="running", started=time.time() - 60)
    bars = "fit:   1%|     | 6/400 [00:20<21:54,  3.3s/it]\rfit:   5%|▌    | 20/400 [01:06<21:06,  3.3s/it]"
    job.log.write_text(f"[1/6] data\n      4 s\n[2/6] poses\n{bars}")
    data, poses = pace.stages(job)
    assert data == Stage("data", 4.0, True) and not poses.over and 55 <= poses.seconds <= 70
    assert poses.bar == 21 * 60 + 6
    assert outlook([data, poses], list(SECONDS["fast"]))[1] == poses.bar
    job.log.write_text(job.log.read_text() + "\n      70 s\n[3/6] tuning\n")
    assert pace.stages(job)[2].bar == 0.0  # another stage's
