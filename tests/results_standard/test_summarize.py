"""Tables over objects: means, what is missing, and two runs side by side."""

import json
import sys
from pathlib import Path

import pytest
import summarize
from PIL import Image

from sap3d.errors import UserError


def write_run(folder: Path, shift: float = 0.0, objects: str = "abc") -> Path:
    """Objects with 3D PSNRs of 20, 22, 24, … dB, one more with every view, all moved by `shift`."""
    for views in (2, 3):
        for index, name in enumerate(objects):
            path = folder / f"T/{name}/{views}/results.json"
            path.parent.mkdir(parents=True)
            content = {"type": "T", "object": name, "views": views, "seconds": {"poses": 2, "reconstruction": 3}}
            content |= {"3d_psnr_mean": 20 + 2 * index + views + shift, "3d_lpips_mean": None}
            content |= {"rotation_error_stage3": 5 if index else 90, "CD": 0.02 + 0.001 * index * (shift != 0)}
            path.write_text(json.dumps(content))
    return folder


def cell(tables, title: str, row: str, column: str) -> str:
    rows = next(rows for name, rows in tables if name.startswith(title))
    return next(r for r in rows if r[0] == row)[rows[0].index(column)]


def test_means_are_over_the_objects_that_have_a_value(tmp_path):
    tables = summarize.make_tables(summarize.read_results(write_run(tmp_path), None))
    assert cell(tables, "3 views: Pictures", "T/b", "3D PSNR") == "25.00"
    assert cell(tables, "3 views: Pictures", "mean", "3D PSNR") == "25.00"
    assert cell(tables, "2 views: Pictures", "mean", "3D PSNR") == "24.00"
    assert cell(tables, "2 views: Pictures", "mean", "3D LPIPS") == "n/a"
    assert cell(tables, "2 views: Seconds", "mean", "total") == "5"
    assert cell(tables, "Means over objects: Pictures", "3", "3D PSNR") == "25.00"
    assert cell(tables, "Final rotation", "2", "< 15°") == "67 %"
    assert cell(tables, "Final rotation", "2", "median") == "5.00"


def test_only_listed_objects_in_their_order(tmp_path):
    results = summarize.read_results(write_run(tmp_path), ["T/c", "T/a"])
    assert [r["name"] for r in results] == ["T/c", "T/c", "T/a", "T/a"]
    with pytest.raises(UserError, match="no results.json"):
        summarize.read_results(tmp_path, ["T/z"])


def test_differences_beyond_noise_are_marked(tmp_path):
    """PSNR differs by 1 dB everywhere; the Chamfer distance by 0, 0.001, 0.002: in the mean 1.7 standard errors."""
    first = summarize.read_results(write_run(tmp_path / "first"), None)
    second = summarize.read_results(write_run(tmp_path / "second", 1.0, "abcd"), None)
    tables = summarize.compare_tables(first, second)
    assert cell(tables, "3 views: Pictures", "T/b", "3D PSNR") == "25.00 → 26.00"
    assert cell(tables, "3 views: Pictures", "mean", "3D PSNR") == "25.00 → 26.00*"
    assert cell(tables, "3 views: Mesh", "mean", "Chamfer") == "0.0200 → 0.0210"
    assert not any(row[0] == "T/d" for _, rows in tables for row in rows)
    with pytest.raises(UserError, match="in common"):
        summarize.compare_tables(first[:1], second[-1:])


def test_styles_and_figure(tmp_path, monkeypatch, capsys):
    folder = write_run(tmp_path / "first")
    for style, sign in (("--markdown", "|---|"), ("--latex", r"\toprule")):
        monkeypatch.setattr(sys, "argv", ["summarize.py", "--results", str(folder), style])
        summarize.main()
        assert sign in capsys.readouterr().out
    other, path = write_run(tmp_path / "second", 1.0), tmp_path / "views.png"
    arguments = ["--results", str(folder), "--compare", str(other), "--figure", str(path)]
    monkeypatch.setattr(sys, "argv", ["summarize.py", *arguments])
    summarize.main()
    with Image.open(path) as image:
        colors = {color for _, color in image.convert("RGB").getcolors(1 << 20)}
    assert (31, 119, 180) in colors and (255, 127, 14) in colors  # the means of both runs
