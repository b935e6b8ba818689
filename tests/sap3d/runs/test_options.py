"""The tree of options: which preset is chosen, and that presets know its keys."""

import pytest
from omegaconf import OmegaConf

from sap3d.errors import UserError
from sap3d.files import REPOSITORY
from sap3d.runs import options
from sap3d.runs.options import PRESETS, RECONSTRUCTION, STAGES, read_tree, stage_config

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
    changes.pop(RECONSTRUCTION, None)  # tests/threestudio/test_options.py
    OmegaConf.set_struct(tree, True)
    OmegaConf.merge(tree, changes)


def test_the_size_is_stage_3s_alone():
    """So that another size makes its results stale and no others."""
    trees = [read_tree(words, "cpu") for words in ([], ["--size-mm", "95"])]
    for stage in STAGES:
        different = stage_config(stage, trees[0]) != stage_config(stage, trees[1])
        assert different == (stage == RECONSTRUCTION)
    assert trees[1].reconstruction.size_mm == 95


@pytest.mark.parametrize("size", ["0", "-3", "big", "true", "nan", "1e9"])
def test_sizes_that_no_object_has_are_refused(size):
    with pytest.raises(UserError, match="--size-mm must be from 1 to 100000 millimetres"):
        read_tree(["--size-mm", size], "cpu")
