"""What the objective makes of a model's guidance, a field it knows, and an object's symmetry."""

import math
from dataclasses import dataclass
from pathlib import Path

import launch
import pytest
import torch
from safetensors.torch import load_file

from sap3d.cameras.poses import write_poses
from sap3d.field import grid as dense
from tests.renders import render_images
from tests.threestudio.scenes import CAMERAS, NO_FLOOR, TINY, config, make_scene, true_field
from threestudio.systems.sap3d import SAP3D


class BlueGuidance(torch.nn.Module):
    """Wants every view blue where it is opaque."""

    @dataclass
    class Config:
        render_size: int = 16

    image_size = 16

    def __init__(self, config, scene):
        super().__init__()
        self.config, self.conditions = config, []

    def forget_object(self):
        pass

    def condition(self, images, cameras):
        assert images.shape == (1, 4, 16, 16) and cameras.shape == (1, 3)

    def draw_cameras(self, inputs, generator):
        return inputs + torch.tensor([0.0, math.pi, 0.0])

    def forward(self, rendered, cameras, step, generator):
        blue = torch.tensor([0.0, 0.0, 1.0])[:, None, None] * rendered[:, 3:] + 1 - rendered[:, 3:]
        return (rendered[:, :3] - blue.detach()).square().mean()


class TrueGuidance(torch.nn.Module):
    """Expects what is true, all round."""

    @dataclass
    class Config:
        pass

    image_size, knows_field = 32, True

    def __init__(self, config, scene):
        super().__init__()

    def forget_object(self):
        pass

    def condition(self, images, cameras):
        assert images.shape == (len(cameras), 4, 32, 32)

    def raw_field(self, resolution):
        assert resolution == 16
        return dense.resize(true_field()[None], resolution)[0]

    def expect(self, inputs, generator):
        cameras = inputs[:1] + torch.tensor([[0.0, turn, 0.0] for turn in (1.0, 2.1, 3.1, -2.1, -1.0)])
        views = render_images(true_field(), cameras, 32, 64)
        return torch.cat([views.color, views.opacity[..., None]], -1).permute(0, 3, 1, 2), cameras


@pytest.mark.parametrize("views", [1, 2])
def test_the_field_is_fitted_to_expected_views(tmp_path, monkeypatch, field_alone, views):
    """With two photos these views come at the start alone, and their shape stays."""
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    scene = make_scene(tmp_path, CAMERAS, views)
    unseen = CAMERAS[:1] + torch.tensor([0.1, math.pi / 2, 0.0])
    truth, errors = render_images(true_field(), unseen, 32, 64).color, []
    for weight in (0, 1):
        options = config(views, f"system.expected_weight={weight}", "system.expected_until=60", NO_FLOOR)
        options["system"]["guidance"] = {"target": f"{__name__}.TrueGuidance"}
        launch.train(options)
        grid = load_file(scene.reconstruction / "field.safetensors")["grid"]
        errors.append((render_images(grid, unseen, 32, 48).color - truth).square().mean())
    without, expected = errors
    assert expected < (0.2 if views == 1 else 0.7) * without


def guided(root: Path, guidance: str, *overrides: str) -> dict:
    """A run of two photos, with a class of this file as guidance, whose field may begin at step 60."""
    make_scene(root, CAMERAS, 2)
    options = config(2, "system.expected_weight=1", "system.field_from=60", *overrides, NO_FLOOR)
    options["system"]["guidance"] = {"target": f"{__name__}.{guidance}"}
    return options


def test_the_field_begins_with_what_the_model_knows(tmp_path, monkeypatch):
    """It takes the place of the schedules' first steps, and of the expected views."""
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    options = guided(tmp_path, "TrueGuidance", "system.expected_until=60")
    steps, training_step = [], SAP3D.training_step
    monkeypatch.setattr(SAP3D, "training_step", lambda self, _, step: steps.append((step, self)) or training_step(
        self, _, step))  # fmt: skip
    errors, begin = [], SAP3D.begin

    def begun(system, steps):
        left_out = begin(system, steps)
        errors.append(system.reprojection_loss(system.poses.initial, 32))
        return left_out

    monkeypatch.setattr(SAP3D, "begin", begun)
    launch.train(options)
    assert errors[0] < 0.01 and [step for step, _ in steps] == list(range(60))
    assert steps[0][1].expected is None and steps[0][1].guidance is None


class FieldlessGuidance(TrueGuidance):
    """Knows no field, and counts how often it is made."""

    knows_field, made = False, 0

    def __init__(self, config, scene):
        super().__init__(config, scene)
        FieldlessGuidance.made += 1


def test_a_model_without_a_field_is_read_once_and_expects_views(tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    options = guided(tmp_path, "FieldlessGuidance", "trainer.max_steps=70")
    losses, expected_loss = [], SAP3D.expected_loss
    monkeypatch.setattr(SAP3D, "expected_loss", lambda self, *args: losses.append(args) or expected_loss(self, *args))
    launch.train(options)
    assert FieldlessGuidance.made == 1 and [step for step, _ in losses] == list(range(70))


class DoubledGuidance(TrueGuidance):
    """Expects nothing; is shown the photos from both sides."""

    def condition(self, images, cameras):
        assert torch.equal(images[:1], images[1:])
        torch.testing.assert_close(cameras[1] - cameras[0], torch.tensor([0.0, math.pi, 0.0]))

    def expect(self, inputs, generator):
        return torch.zeros(0, 4, 32, 32), inputs[:0]


def test_of_an_object_with_a_symmetry_a_photo_shows_the_far_side(tmp_path, monkeypatch, field_alone):
    """The same photo is what the far side looks like, too, unless it is told not to be."""
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    truth = torch.maximum(true_field(), true_field().flip(-1, -2))  # six balls, some of mixed colours
    scene = make_scene(tmp_path, CAMERAS, views=1, field=truth)
    write_poses(scene.diffusion / "poses.json", CAMERAS[None, :1], [0.0], symmetry={"order": 2})
    photo = render_images(truth, CAMERAS[:1], 32, 64).color
    errors = []
    for symmetric in (True, False):
        overrides = [f"data.symmetric={symmetric}", f"system.expected_weight={int(symmetric)}"]
        options = config(1, *overrides, "system.symmetry_weight=1")
        options["system"]["guidance"] = {"target": f"{__name__}.DoubledGuidance"}
        launch.train(options)
        grid = load_file(scene.reconstruction / "field.safetensors")["grid"]
        sides = render_images(grid, CAMERAS[:1] + torch.tensor([[0.0, 0.0, 0.0], [0.0, math.pi, 0.0]]), 32, 48)
        errors.append((sides.color - photo).square().mean((1, 2, 3)))
    symmetric, plain = errors
    assert symmetric[0] < 0.02 and symmetric[1] < 0.25 * plain[1], errors


def test_guidance_decides_what_no_photo_shows(tmp_path, monkeypatch, field_alone):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    scene = make_scene(tmp_path, CAMERAS, views=1)
    guidance = ["system.guidance.target=tests.threestudio.test_sap3d.BlueGuidance", "system.guidance_weight=10"]
    options = launch.read_config(
        ["configs/sap3d.yaml"], ["data.type=toys", "data.object=balls", "data.views=1", *TINY, *guidance]
    )
    options["system"]["guidance"] = {"target": options["system"]["guidance"]["target"]}
    launch.train(options)
    grid = load_file(scene.reconstruction / "field.safetensors")["grid"]
    back = render_images(grid, CAMERAS[:1] + torch.tensor([0, math.pi, 0]), 32, 48)
    red, green, blue = back.color[back.opacity > 0.9].mean(0)
    assert blue > 0.7 and red < 0.4 and green < 0.4
