"""Tables in pages: what stands between the markers is made of result files, and nothing else changes."""

import json
from pathlib import Path

import page_tables
import pytest

from sap3d.errors import UserError
from sap3d.files import REPOSITORY

SCANS8 = "dataset/benchmarks/scans8.txt"
END = "<!-- end of table -->"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two scans at one to three photos: 3D PSNRs of 20, 22, 24 dB and 22, 24, 26 dB; Chamfer best from two."""
    for views in (1, 2, 3):
        for index, name in enumerate(("milk", "ketchup")):
            path = tmp_path / f"HOPE_demo/{name}/{views}/results.json"
            path.parent.mkdir(parents=True)
            content = {"type": "HOPE_demo", "object": name, "views": views, "seed": 0, "commit": f"{index}"}
            content |= {"seconds": {"poses": 60}, "machine": {"cpu": "C", "cores": 1}}
            content |= {"3d_psnr_mean": 18 + 2 * index + 2 * views, "CD": (0.03, 0.02, 0.025)[views - 1], "IOU": 0.6}
            content |= {"rotation_error_stage3": 100.0, "rotation_error_stage3_symmetric": 4.0 + 20 * index}
            path.write_text(json.dumps(content | ({"rotation_error_stage3": None} if views == 1 else {})))
    return tmp_path


def made(folder: Path, marked: str) -> list[list[str]]:
    """The cells that a marker is filled with."""
    text = page_tables.fill(f"<!-- table: {marked} -->\n{END}\n", folder)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[1:-1]]


def test_means_by_number_of_photos(folder):
    head, _, one, two, three = made(folder, f"means {SCANS8}")
    assert [row[head.index("3D PSNR (dB)")] for row in (one, two, three)] == ["21.0", "23.0", "25.0"]
    assert one[head.index("rotation error (°)")] == "n/a" and two[head.index("rotation error (°)")] == "100.0"
    assert two[head.index("< 15°")] == "0 %" and two[head.index("up to symmetry (°)")] == "14.0"
    assert two[head.index("2D PSNR (dB)")] == "n/a"


def test_objects_at_one_number_of_photos(folder):
    head, _, milk, ketchup, mean = made(folder, f"objects {SCANS8} 3")
    assert [row[head.index("3D PSNR (dB)")] for row in (milk, ketchup, mean)] == ["24.0", "26.0", "25.0"]


def test_cost_adds_seconds_and_takes_the_most_memory(folder):
    names = ("data", "poses", "tuning", "novel_views", "reconstruction", "evaluation")
    stages = {name: {"seconds": 10.4, "gb": 1.0} for name in names} | {"poses": {"seconds": 60, "gb": 1.5}}
    (folder / "cost.json").write_text(json.dumps({"photos": {"2": stages, "16": stages}}))
    head, _, two, many = made(folder, "cost cost.json")
    assert (two[0], many[0]) == ("2", "16")
    assert [two[head.index(name)] for name in ("data", "poses", "total", "memory (GB)")] == ["10", "60", "112", "1.5"]


def test_aims_say_where_they_are_met(folder):
    rows = {row[0]: row[1:] for row in made(folder, f"aims {SCANS8}")}
    assert rows["3D PSNR (dB)"] == ["1, 2, 3", "at least 20.0, 22.0, 24.0", "21.0, 23.0, 25.0", "yes"]
    assert rows["IoU"] == ["2, 3", "at least 0.580, 0.650", "0.600, 0.600", "with 2"]
    assert "Chamfer" not in rows  # aimed at with five photos alone
    assert rows["means that get better with every photo"][2:] == ["all but Chamfer", "no"]


def test_the_original_stands_beside_as_many_photos(folder):
    rows = made(folder, f"original {SCANS8}")
    assert [row[0] for row in rows[2:]] == ["2", "", "3", ""]
    assert rows[2][1:5] == ["original", "23.4", "11.3", "63 %"]
    assert rows[3][1:7] == ["ours", "100.0 (14.0)", "100.0 (14.0)", "0 % (50 %)", "n/a", "23.0"]


def test_runs_count_states_and_processors(folder):
    text = page_tables.fill(f"<!-- table: runs {SCANS8} -->\n{END}", folder)
    assert "6 runs at 2 states of the code, seed 0. Processor × cores: C × 1 (6 runs)." in text


def test_a_page_keeps_the_rest_and_is_the_same_the_second_time(folder, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"Before.\n\n<!-- table: brief {SCANS8} -->\nold\n{END}\n\nAfter.\n")
    page_tables.write(page, folder)
    once = page.read_text()
    assert once.startswith("Before.\n") and once.endswith("After.\n") and "old" not in once and "| 25.0 |" in once
    page_tables.write(page, folder)
    assert page.read_text() == once


def test_a_marker_that_cannot_be_filled_is_named(folder, tmp_path):
    with pytest.raises(UserError, match="there is no 'medians'"):
        page_tables.fill(f"<!-- table: medians {SCANS8} -->\n{END}", folder)
    with pytest.raises(UserError, match="no results.json"):
        page_tables.fill(f"<!-- table: means dataset/benchmarks/toys6.txt -->\n{END}", folder)
    page = tmp_path / "page.md"
    page.write_text("<!-- table: means x -->\n")
    with pytest.raises(UserError, match="end of table"):
        page_tables.write(page, folder)


@pytest.mark.parametrize("page", ["docs/RESULTS.md", "README.md"])
def test_the_pages_are_what_the_results_make_them(page):
    """If this fails: python results_standard/run/summarize.py --write docs/RESULTS.md README.md"""
    text = (REPOSITORY / page).read_text()
    assert page_tables.MARKED.search(text)
    assert page_tables.fill(text, REPOSITORY / "results_standard") == text
