"""The repository's examples: they are there in full, small, named, and open at once."""

import json
import time

import examples
import pytest
import trimesh
from make_examples import EXAMPLES
from outcome import FILES
from settings import Settings

FOLDERS = sorted(path.parent for path in examples.FOLDER.glob("*/job.json"))


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    settings = Settings(tmp_path_factory.mktemp("demo"))
    examples.prepare(settings)
    return settings


def test_they_are_small_and_say_whose_they_are():
    assert FOLDERS
    assert sum(path.stat().st_size for path in examples.FOLDER.rglob("*") if path.is_file()) < 8e6
    for folder in FOLDERS:
        about = (folder / "about.json").read_text()
        assert "CC0 1.0" in about or "CC BY" in about


@pytest.mark.parametrize("name", [folder.name for folder in FOLDERS])
def test_they_offer_all_files_of_a_run(settings, name):
    job = examples.find_example(settings, name)
    shown = {"viewer.glb", "cameras.glb", "novel_views.png", "initial_poses.json"}
    assert {path.name for path in job.results.iterdir()} >= {*FILES, *shown}
    assert trimesh.load_mesh(job.results / "mesh.stl").is_watertight
    assert len(job.chosen) >= 4 and all(job.cut(index).exists() for index in job.chosen)


@pytest.mark.parametrize("name", [folder.name for folder in FOLDERS])
def test_they_are_what_their_command_makes(name):
    """Of the object and with the options that make_examples.py has; nothing of it was made by hand."""
    example, job = EXAMPLES[name], examples.Job(examples.FOLDER / name)
    results = json.loads((job.scene.results / "results.json").read_text())
    scene = example.scene(name)
    assert (results["type"], results["object"], results["views"]) == (scene.type, scene.object, example.views)
    assert results["options"] == example.words and job.known["preset"] == example.preset
    stages = ["data", "poses", "tuning", "novel_views", "reconstruction", "evaluation"]
    assert list(results["seconds"]) == stages and sum(results["seconds"].values()) == job.known["ended"]


def test_they_are_made_ready_once(settings):
    def written() -> dict[str, int]:
        return {job.id: (job.results / "report.html").stat().st_mtime_ns for job in examples.all_examples(settings)}

    before = written()
    examples.prepare(settings)
    assert written() == before


def test_only_their_names_are_theirs(settings):
    for name in ("..", "", None, "a/..", "toString"):
        assert examples.find_example(settings, name) is None


@pytest.mark.parametrize("name", [folder.name for folder in FOLDERS])
def test_they_open_in_less_than_two_seconds(settings, name):
    """What the server does for it; browsers are in test_app.py."""
    from page import Page

    page = Page(settings)
    page.build()
    start = time.process_time()
    page.show(examples.find_example(settings, name))
    assert time.process_time() - start < 2
