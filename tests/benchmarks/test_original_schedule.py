import json

import pytest

from benchmarks import original_schedule
from sap3d.errors import UserError


def test_steps_are_the_originals():
    assert original_schedule.schedule(5) == {"tuning": 2000, "sampling": 6300, "distillation": 4500}


def test_a_runs_stages_are_read_and_others_refused(tmp_path):
    path = tmp_path / "results.json"
    seconds = {
        "data": 1.0,
        "poses": 10.0,
        "tuning": 20.0,
        "novel_views": 3.0,
        "reconstruction": 40.0,
        "evaluation": 5.0,
    }
    path.write_text(json.dumps({"views": 3, "seconds": seconds}))
    assert original_schedule.seconds_of(path) == (3, 73.0)
    path.write_text("{}")
    with pytest.raises(UserError, match="not the results.json"):
        original_schedule.seconds_of(path)
