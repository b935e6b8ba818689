"""The tree of options: which preset is chosen, and that presets know its keys."""

import pytest
from omegaconf import OmegaConf

from sap3d.files import REPOSITORY
from sap3d.runs import options
from sap3d.runs.options import PRESETS, RECONSTRUCTION, read_tree

PUBLISHED = ["--backbone", "published"]


@pytest.mark.parametrize(
    ("words", "device", "cuda", "preset"),
    [
        (PUBLISHED, "0", True, "gpu"),
        (PUBLISHED, "cpu", True, "standard"),
        (PUBLISHED, "0", False, "standard"),  # there is none, so the CPU is used
        ([], "0", True, "standard"),
        ([*PUBLISHED, "--preset", "fast"], "0", True, "fast"),
    ],
)
def test_published_weights_choose_their_preset_on_a_gpu(words, device, cuda, preset, monkeypatch):
    monkeypatch.setattr(options, "has_cuda", lambda: cuda)
    expected = OmegaConf.merge(
        read_tree([], "cpu").tuning, OmegaConf.load(REPOSITORY / f"configs/{preset}.yaml").get("tuning", {})
    )
    assert read_tree(words, device).tuning == expected


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_change_what_there_is(preset):
    tree, changes = read_tree([], "cpu"), OmegaConf.load(REPOSITORY / f"configs/{preset}.yaml")
    changes.pop(RECONSTRUCTION, None)  # tests/threestudio/test_launch.py
    OmegaConf.set_struct(tree, True)
    OmegaConf.merge(tree, changes)
