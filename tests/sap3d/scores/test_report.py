"""The page of a run, from made-up results."""

import html
import json
import re
from html.parser import HTMLParser

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
import trimesh

from sap3d.cameras.poses import write_poses
from sap3d.errors import UserError
from sap3d.meshes import Size
from sap3d.scene import Scene
from sap3d.scores import viewer
from sap3d.scores.evaluate import PICTURE_METRICS, POSE_STAGES
from sap3d.scores.report import MESH_METRICS, write_report


class Page(HTMLParser):
    """Sources of pictures and of the mesh, and the cells of all tables."""

    def __init__(self, text: str):
        super().__init__()
        self.sources, self.cells, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.sources += [attributes[name] for name in ("src", "href") if name in attributes]
        self.inside = tag in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.cells.append(data)

    def handle_endtag(self, tag):
        self.inside = False


@pytest.fixture
def scene(tmp_path, monkeypatch) -> Scene:
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    scene = Scene("toys", "ball", 2)
    results = {f"{prefix}_{key}_mean": 0.5 for prefix in ("2d", "3d") for key in PICTURE_METRICS}
    results |= {"2d_lpips_mean": None, **dict.fromkeys(MESH_METRICS, 0.25)}
    results |= {f"rotation_error_stage{stage}{suffix}": 3.14 for stage in POSE_STAGES for suffix in ("", "_symmetric")}
    results |= {"seed": 7, "commit": "abc<script>", "machine": {"cpu": "a & b", "cores": 2, "gpu": None}}
    scene.results.mkdir(parents=True)
    (scene.results / "results.json").write_text(json.dumps(results | {"seconds": {"poses": 30, "novel_views": 12}}))
    write_poses(scene.reconstruction / "poses.json", torch.tensor([[[0.5, 0.0, 1.8], [0.2, 1.0, 1.7]]]), [0.0])
    return scene


def test_the_page_holds_all_that_there_is(scene):
    imageio.imwrite(scene.reconstruction / "inputs.png", np.zeros((4, 4, 3), np.uint8))
    box = trimesh.creation.box()
    box.export(scene.reconstruction / "mesh.glb")
    Size.of(box.vertices, size_mm=95).write(scene.reconstruction)
    text = write_report(scene).read_text()
    assert viewer.scripts() in text
    text = text.replace(viewer.scripts(), "")  # tests/demo/test_viewer.py runs them without a network
    page = Page(text)
    mesh, picture = sorted(page.sources, key=lambda source: "gltf" not in source)
    assert mesh.startswith("data:model/gltf-binary;base64,") and picture.startswith("data:image/png;base64,")
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", html.unescape(text)), "nothing is fetched"
    assert "<script>" not in text
    assert "Size: 95 × 95 × 95 mm." in text
    assert {"3.1", "n/a", "0.500", "0.2500", "28.6", "57.3", "42"} <= set(page.cells)


def test_what_is_missing_is_left_out(scene):
    text = write_report(scene).read_text()
    page = Page(text)
    assert not page.sources and "<script>" not in text and "28.6" in page.cells


def test_photos_without_a_ground_truth_have_no_empty_tables(scene):
    path = scene.results / "results.json"
    results = json.loads(path.read_text())
    path.write_text(json.dumps({key: None if isinstance(value, float) else value for key, value in results.items()}))
    text = write_report(scene).read_text()
    assert "Poses" in text and "Time" in text
    assert not {"Pictures", "Mesh against truth", "Rotation error°"} & set(re.findall("<h2>(.*?)</h2>", text))
    assert "n/a" not in Page(text).cells


def test_an_object_without_results_is_refused(scene):
    (scene.results / "results.json").unlink()
    with pytest.raises(UserError, match="run python -m sap3d.scores.evaluate first"):
        write_report(scene)
