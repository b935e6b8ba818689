"""Stage 3's options and presets, and those that it refuses."""

import subprocess
import sys
from dataclasses import fields

import launch
import pytest
from omegaconf import OmegaConf

from sap3d.errors import UserError
from sap3d.files import REPOSITORY
from tests.threestudio.scenes import CAMERAS, config, make_scene
from threestudio.models.guidance.sds import MultiViewSDS
from threestudio.systems.sap3d import SAP3D


@pytest.mark.parametrize("preset", ["fast", "best", "gpu"])
def test_presets_change_the_first_config(preset):
    """All of a preset's keys exist, its schedules end with the training, and the rest stays."""
    names = ["data.type=toys", "data.object=balls"]
    standard = launch.read_config(["configs/sap3d.yaml"], names)
    changes = OmegaConf.load(REPOSITORY / f"configs/{preset}.yaml").reconstruction
    changed = launch.read_config(["configs/sap3d.yaml"], names, changes)
    assert changed["system"].keys() == standard["system"].keys() and changed["interchange"] == standard["interchange"]
    known = {
        name: {each.name for each in fields(part)}
        for name, part in (("system", SAP3D.Config), ("guidance", MultiViewSDS.Config))
    }
    assert set(changes.system) <= known["system"] and set(changes.system.get("guidance", {})) <= known["guidance"]
    steps = changed["trainer"]["max_steps"]
    assert (steps < standard["trainer"]["max_steps"]) == (preset == "fast")
    assert schedule_ends(changed) == {steps}
    assert changed["data"]["image_size"][-1][0] < steps and changed["system"]["geometry"]["resolution"][-1][0] < steps


@pytest.mark.parametrize("views, steps", [(1, 460), (2, 460), (3, 760), (5, 760)])
def test_few_photos_train_for_fewer_steps(views, steps):
    """The schedules end with them, and with the steps that a user asks for."""
    names = ["data.type=toys", "data.object=balls", f"data.views={views}"]
    standard = launch.read_config(["configs/sap3d.yaml"], names)
    assert standard["trainer"]["max_steps"] == steps and schedule_ends(standard) == {steps}
    asked = launch.read_config(["configs/sap3d.yaml"], [*names, "trainer.max_steps=1000"])
    assert asked["trainer"]["max_steps"] == 1000 and schedule_ends(asked) == {1000}


def schedule_ends(config: dict) -> set[int]:
    """Where the schedules end that last as long as the training."""
    system = config["system"]
    ends = {system[name][3] for name in ("field_rate", "pose_rate", "correction_rate")}
    return ends | {system["guidance"]["noise_level"][3]}


def test_missing_poses_are_one_line(tmp_path):
    command = [sys.executable, launch.__file__, "--train", "data.type=toys", "data.object=none", "data.views=2"]
    done = subprocess.run(command, capture_output=True, text=True, env={"ROOT_DIR": str(tmp_path), "PATH": ""})
    assert done.returncode == 2
    assert done.stderr.startswith("error: no images in") and done.stderr.count("\n") == 1


def test_missing_poses_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    scene = make_scene(tmp_path, CAMERAS)
    (scene.diffusion / "poses.json").unlink()
    with pytest.raises(UserError, match="poses.json: no poses; run the stage before this one"):
        launch.train(config())
    assert not scene.reconstruction.parent.exists()


@pytest.mark.parametrize(
    "override", ["system.colour_weight=1", "data.nothing=2", "nothing=3", "device=tpu", "trainer.step=9"]
)
def test_bad_override_is_refused(override, tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    make_scene(tmp_path, CAMERAS)
    with pytest.raises(UserError, match="config: .*no '(colour_weight|nothing|step)'|GPU_INDEX must be a number"):
        launch.train(config(3, override))


def test_a_value_in_the_place_of_a_block_is_refused():
    with pytest.raises(UserError, match="trainer=3: .*another kind"):
        config(3, "trainer=3")
