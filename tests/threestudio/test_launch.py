import csv
import json
import math
import shutil
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import imageio.v3 as imageio
import launch
import numpy as np
import pytest
import torch
import trimesh
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from camerabooth.backbones.interface import DiffusionModel
from sap3d.cameras import maths as cam
from sap3d.cameras.placement import Placement
from sap3d.cameras.poses import read_best_poses, write_poses
from sap3d.errors import UserError
from sap3d.field import grid as dense
from sap3d.files import REPOSITORY
from sap3d.images import to_uint8
from sap3d.meshes import Size, read_result
from sap3d.runs.devices import seed_everything
from sap3d.scene import Scene
from tests.renders import render_images
from tests.threestudio.fields import nodes
from tests.tiny import tiny_model
from threestudio.config import build
from threestudio.data.views import RayBatches
from threestudio.models.guidance.sds import MultiViewSDS, sharpen
from threestudio.systems.sap3d import SAP3D

CAMERAS = torch.tensor([[0.3, 0.0, 1.7], [0.5, 1.9, 1.8], [0.1, -2.2, 1.6]])
TINY = [
    "device=cpu",
    "trainer.max_steps=120",
    "trainer.log_every=10",
    "data.rays=1024",
    "data.image_size=[[0,32],[60,64]]",
    "system.geometry.resolution=[[0,12],[60,16]]",
    "system.guidance_weight=0",
    "system.expected_weight=0",
    "system.field_from=0",
    "system.bending_weight=1e-5",  # nodes are far apart
    "system.field_rate=[60,0.3,0.05,120]",
    "system.pose_rate=[20,0.01,0.001,120]",
    "system.occupancy_from=60",
    "mesh.resolution=32",
    "mesh.texture_size=128",
    "interchange.size=64",
    "pictures.size=32",
    "pictures.frames=4",
]
NO_FLOOR = "system.floor_spare=0"  # to find it takes longer than the rest of a small run


def true_field() -> torch.Tensor:
    """Three coloured balls of which no two views agree, [4, 24, 24, 24]."""
    axis = torch.linspace(-dense.SCENE_BOUND, dense.SCENE_BOUND, 24)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    grid = torch.full((4, 24, 24, 24), -6.0)
    for channel, centre, radius in ((1, (0.25, 0, 0), 0.2), (2, (-0.1, 0.25, 0.1), 0.2), (3, (-0.1, -0.2, -0.2), 0.25)):
        distance = ((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2).sqrt()
        grid[0] = torch.maximum(grid[0], (radius - distance) * 150 + 5)
        grid[channel] = torch.where(distance < radius + 0.05, 6.0, grid[channel])
    return grid


def make_scene(root: Path, cameras: torch.Tensor, views: int = 3, field: torch.Tensor | None = None) -> Scene:
    """Photos of a field, by default the true one, and `cameras` as stage 2's poses."""
    scene = Scene("toys", "balls", views)
    truth = render_images(true_field() if field is None else field, CAMERAS, 64, 128)
    (scene.train / "images").mkdir(parents=True)
    for index in range(len(CAMERAS)):
        alpha = truth.opacity[index, ..., None]
        color = (truth.color[index] - (1 - alpha)) / alpha.clamp(min=1e-3)
        imageio.imwrite(scene.train / "images" / f"{index:03d}.png", to_uint8(torch.cat([color, alpha], -1)))
    scene.diffusion.mkdir(parents=True)
    write_poses(scene.diffusion / "poses.json", cameras[None, :views], [0.0])
    return scene


def config(views: int = 3, *overrides: str) -> dict:
    names = ["data.type=toys", "data.object=balls", f"data.views={views}"]
    return launch.read_config(["configs/sap3d.yaml"], [*names, *TINY, *overrides])


@pytest.fixture
def field_alone(monkeypatch):
    """Training writes the field, but neither mesh nor pictures: to make them takes longer."""
    monkeypatch.setattr(launch, "export", lambda *_, **__: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run from perturbed poses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROOT_DIR", str(tmp_path_factory.mktemp("root")))
        initial = CAMERAS + torch.tensor([[0.05, 0.0, 0.0], [-0.06, 0.1, 0.0], [0.04, -0.1, 0.0]])
        scene = make_scene(None, initial)
        seed_everything(0)  # as main does: without deterministic kernels, two threads differ in the last bits
        launch.train(config())
        yield scene, initial


def test_all_files_are_written(trained):
    folder = trained[0].reconstruction
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("config.yaml", "poses.json", "field.safetensors", "log", "inputs.png"),
        *("test", "turntable.mp4", "mesh.obj", "mesh.mtl", "mesh.png", "mesh.glb", "interchange"),
        *("mesh.stl", "splat.ply", "size.json"),
    }
    assert [path.name for path in sorted((folder / "test").iterdir())] == [f"{index:03d}.png" for index in range(84)]
    assert imageio.imread(folder / "test" / "000.png").shape == (32, 32, 3)
    assert imageio.imread(folder / "turntable.mp4").shape == (4, 32, 128, 3)
    field = load_file(folder / "field.safetensors")
    assert field["grid"].shape == (4, 16, 16, 16)
    assert -0.5 < field["floor"] < -0.3, "the lowest ball ends at -0.45"
    assert trimesh.load_mesh(folder / "mesh.glb").volume > 0


def test_losses_go_down(trained):
    with open(trained[0].reconstruction / "log/from_step_0/metrics.csv") as file:
        rows = [row for row in csv.DictReader(file)]
    assert float(rows[-1]["color"]) < 0.1 * float(rows[0]["color"])
    assert float(rows[-1]["mask"]) < 0.1 * float(rows[0]["mask"])


def test_field_shows_unseen_views(trained):
    folder = trained[0].reconstruction
    cameras = cam.evaluation_grid(read_best_poses(folder / "poses.json", 3)[0])
    truth = render_images(true_field(), cameras[::6], 32, 96).color.numpy()
    renders = np.stack([imageio.imread(folder / "test" / f"{index:03d}.png") for index in range(0, 84, 6)]) / 255
    assert -10 * math.log10(np.square(renders - truth).mean()) > 17


def test_poses_are_recovered_and_gauge_kept(trained):
    scene, initial = trained
    refined = read_best_poses(scene.reconstruction / "poses.json", 3)
    before = cam.pairwise_rotation_errors(initial, CAMERAS).mean()
    after = cam.pairwise_rotation_errors(refined, CAMERAS).mean()
    assert after < 0.5 * before
    assert refined[0, 1] == 0
    assert json.loads((scene.reconstruction / "poses.json").read_text())["refined"] is True


def test_poses_are_judged_where_fine_print_is_seen(tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    make_scene(tmp_path, CAMERAS, views=1)
    x, y, z = nodes(64)
    checks = 6.0 * (-1.0) ** (torch.arange(64)[:, None, None] + torch.arange(64)[:, None] + torch.arange(64))
    ball = ((x**2 + y**2 + z**2).sqrt() < 0.5).float() * 18 - 6
    grid = torch.stack([ball, checks, -checks, checks])
    view, options = render_images(grid, CAMERAS[:1], 256, 64), config(1)
    system = build(options["system"], build(options["data"], 0), CAMERAS[:1])
    system.photos = torch.cat([view.color, view.opacity[..., None]], -1).permute(0, 3, 1, 2)
    system.geometry.load({"grid": grid})
    off = CAMERAS[:1] + torch.tensor([0.0, 0.02, 0.0])
    assert system.reprojection_loss(CAMERAS[:1]) < 0.3 * system.reprojection_loss(off)


def test_export_repeats_the_mesh(trained):
    mesh = trained[0].reconstruction / "mesh.obj"
    before = mesh.read_bytes()
    mesh.unlink()
    launch.reexport(config(), mesh=True)
    assert mesh.read_bytes() == before


def test_results_are_of_the_scaled_and_turned_world(trained, tmp_path, monkeypatch):
    whole = trained[0].reconstruction
    shutil.copytree(trained[0].root, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    folder = tmp_path / whole.relative_to(trained[0].root)
    state, cameras = load_file(folder / "field.safetensors"), read_best_poses(folder / "poses.json", 3)
    assert state["scale"] == 1 and cameras[0, 1] == 0
    more = {"scale": torch.tensor(0.5), "turn": state["turn"] + 0.3}
    save_file(state | more, folder / "field.safetensors")
    write_poses(folder / "poses.json", Placement(0.5, 0.3).cameras(cameras)[None], [0.0])
    launch.reexport(config(), mesh=True)
    launch.reexport(config(), mesh=False)
    before, after = (read_result(path) for path in (whole, folder))
    turn = trimesh.transformations.rotation_matrix(0.3, (0, 0, 1))
    np.testing.assert_allclose(after.vertices, 0.5 * before.apply_transform(turn).vertices, atol=1e-6)
    matrices = [
        json.loads((path / "interchange/transforms.json").read_text())["frames"][1]["transform_matrix"]
        for path in (whole, folder)
    ]
    nearer = turn @ np.array(matrices[0])
    nearer[:3, 3] *= 0.5
    np.testing.assert_allclose(matrices[1], nearer, atol=1e-5)
    views = [imageio.imread(path / "test/007.png").astype(int) for path in (whole, folder)]
    assert abs(views[1] - views[0]).max() <= 1


def test_files_get_the_objects_size(trained, tmp_path, monkeypatch):
    whole = trained[0].reconstruction
    shutil.copytree(trained[0].root, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    folder = tmp_path / whole.relative_to(trained[0].root)
    launch.reexport(config(3, "size_mm=120"), mesh=True)
    metres = Size.read(folder).metres
    assert max(Size.read(folder).sides) == pytest.approx(0.12)
    for name in ("mesh.obj", "mesh.glb", "splat.ply", "interchange/points.ply"):
        before, after = (trimesh.load(path / name).bounds for path in (whole, folder))
        np.testing.assert_allclose(after, metres * before, atol=1e-4)
    before, after = (trimesh.load(path / "mesh.stl").extents for path in (whole, folder))
    np.testing.assert_allclose(after, 1000 * metres * before, rtol=1e-3)
    distances = [
        np.array(json.loads((path / "interchange/transforms.json").read_text())["frames"][1]["transform_matrix"])[:3, 3]
        for path in (whole, folder)
    ]
    np.testing.assert_allclose(distances[1], metres * distances[0], atol=1e-6)
    assert (folder / "poses.json").read_bytes() == (whole / "poses.json").read_bytes()


def test_failed_run_leaves_the_earlier_one(trained, monkeypatch):
    folder = trained[0].reconstruction
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
    monkeypatch.setattr(launch, "export", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        launch.train(config(3, "trainer.max_steps=1", NO_FLOOR))
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) == before
    assert list(folder.parent.iterdir()) == [folder]


def test_a_killed_run_ends_as_if_it_had_not_been(trained, monkeypatch):
    """With the same bytes as the whole run, so that these are the seed's."""
    folder = trained[0].reconstruction
    names = ("poses.json", "field.safetensors", "mesh.obj", "test/007.png")
    before = [(folder / name).read_bytes() for name in names]
    draw, steps = RayBatches.draw, []

    def killed(batches, step):
        steps.append(step)
        if steps[-1] == 90 and 70 in steps:  # between checkpoints, after the grid has grown
            raise KeyboardInterrupt
        return draw(batches, step)

    with monkeypatch.context() as patch:
        patch.setattr(RayBatches, "draw", killed)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            launch.train(config())
    assert [(folder / name).read_bytes() for name in names] == before, "the earlier run is as it was"
    (folder.with_name(".balls.training") / ".preview.vm-1.partial.png").touch()  # a kill may leave it
    monkeypatch.setattr(RayBatches, "draw", lambda batches, step: (steps.append(step), draw(batches, step))[1])
    launch.train(config())
    assert steps[90:] == [90, *range(80, 120)]
    assert [(folder / name).read_bytes() for name in names] == before
    assert list(folder.parent.iterdir()) == [folder]


def test_half_the_rays_where_memory_does_not_suffice(tmp_path, monkeypatch, capsys, field_alone):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    scene, draw = make_scene(tmp_path, CAMERAS), RayBatches.draw

    def small(batches, step):
        if batches.rays > 600 and step == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return draw(batches, step)

    monkeypatch.setattr(RayBatches, "draw", small)
    launch.train(config(3, "trainer.max_steps=2", NO_FLOOR))
    assert "reconstruction.data.rays=1024: trying again with 512" in capsys.readouterr().out
    assert "rays: 512" in (scene.reconstruction / "config.yaml").read_text()
    assert list(scene.reconstruction.parent.iterdir()) == [scene.reconstruction]


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
    guidance = ["system.guidance.target=tests.threestudio.test_launch.BlueGuidance", "system.guidance_weight=10"]
    options = launch.read_config(
        ["configs/sap3d.yaml"], ["data.type=toys", "data.object=balls", "data.views=1", *TINY, *guidance]
    )
    options["system"]["guidance"] = {"target": options["system"]["guidance"]["target"]}
    launch.train(options)
    grid = load_file(scene.reconstruction / "field.safetensors")["grid"]
    back = render_images(grid, CAMERAS[:1] + torch.tensor([0, math.pi, 0]), 32, 48)
    red, green, blue = back.color[back.opacity > 0.9].mean(0)
    assert blue > 0.7 and red < 0.4 and green < 0.4


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


def bare_guidance(**options) -> MultiViewSDS:
    """Guidance whose model stage 2 has not saved."""
    guidance = MultiViewSDS.__new__(MultiViewSDS)
    torch.nn.Module.__init__(guidance)
    guidance.config = MultiViewSDS.Config(**options)
    return guidance


def test_sds_cameras_cover_the_sphere():
    guidance = bare_guidance(cameras=2000, elevation_range=[-10, 80])
    drawn = guidance.draw_cameras(CAMERAS, torch.Generator().manual_seed(0))
    assert -10.01 < torch.rad2deg(drawn[:, 0]).min() < -8 and 75 < torch.rad2deg(drawn[:, 0]).max() < 80.01
    assert drawn[:, 1].max() - drawn[:, 1].min() > 6.2
    assert 1.6 <= drawn[:, 2].min() and drawn[:, 2].max() <= 1.8


@pytest.fixture
def model() -> DiffusionModel:
    return tiny_model()


@pytest.mark.parametrize("views", [1, 3])
def test_views_are_expected_where_no_photo_looks(model, views):
    guidance = bare_guidance(expected_views=12, unseen_from=60.0)
    guidance.model = model
    guidance.condition(torch.rand(views, 4, 64, 64), CAMERAS[:views])
    images, cameras = guidance.expect(CAMERAS[:views], torch.Generator().manual_seed(0))
    assert 0 < len(images) == len(cameras) < 12 and images.shape[1] == 4
    assert cam.sight_cosines(cameras, CAMERAS[:views]).max() < 0.5
    guidance.config.unseen_from = 180.0
    assert len(guidance.expect(CAMERAS[:views], torch.Generator().manual_seed(0))[0]) == 0


def test_photos_are_read_once_for_all_steps(model, monkeypatch):
    read, prepare = [], model.prepare
    monkeypatch.setattr(model, "prepare", lambda images: read.append(images) or prepare(images))
    guidance, photos = bare_guidance(), torch.rand(3, 4, 64, 64)
    guidance.model = model
    for moved in (0.0, 0.1):
        guidance.condition(photos.clone(), CAMERAS + moved)
        torch.testing.assert_close(guidance.sources.cameras[0], CAMERAS + moved)
    assert len(read) == 1
    guidance.condition(1 - photos, CAMERAS)
    assert len(read) == 2 and torch.equal(
        guidance.sources.images[0], model.embed_sources(1 - photos, CAMERAS).images[0]
    )


def test_guidance_leaves_out_what_stage_2_remembers_of_the_object(model, tmp_path):
    model.save_pretrained(tmp_path / "weights")
    model.instance = torch.nn.Parameter(torch.ones(8, 8, 8, 8))
    model.save_pretrained(tmp_path / "tuned")
    expected = []
    for folder in ("weights", "tuned"):
        guidance = MultiViewSDS(MultiViewSDS.Config(str(tmp_path / folder), expected_views=8), scene=None)
        guidance.forget_object()
        guidance.condition(torch.linspace(0, 1, 3 * 4 * 64 * 64).view(3, 4, 64, 64), CAMERAS)
        expected.append(guidance.expect(CAMERAS, torch.Generator().manual_seed(0))[0])
    assert len(expected[0]) and torch.equal(*expected)


def test_a_known_field_gets_contrast_about_its_surface(model):
    guidance = bare_guidance(contrast=2.0)
    guidance.model = model
    guidance.condition(torch.rand(2, 4, 64, 64), CAMERAS[:2])
    plain, sharp = model.raw_field(guidance.sources, 12), guidance.raw_field(12)
    assert torch.equal(plain[1:], sharp[1:])
    surface = -dense.DENSITY_SHIFT
    torch.testing.assert_close(sharp[0] - surface, 2 * (plain[0] - surface))


def test_sharpened_masks_keep_colours():
    alpha = torch.tensor([0.0, 0.2, 0.5, 0.7, 1.0]).view(1, 1, 1, 5)
    own = torch.tensor([0.2, 0.9, 0.4]).view(1, 3, 1, 1)
    sharp = sharpen(torch.cat([own * alpha + 1 - alpha, alpha], 1), 2.0)
    expected = torch.tensor([0.0, 0.0, 0.5, 0.9, 1.0]).view(1, 1, 1, 5)
    torch.testing.assert_close(sharp, torch.cat([own * expected + 1 - expected, expected], 1))


def test_a_hash_grid_takes_the_dense_grids_place(tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    scene = make_scene(tmp_path, CAMERAS)
    geometry = {"target": "threestudio.models.geometry.hash_grid.HashGrid", "resolution": [[0, 12], [60, 24]]}
    geometry |= {"levels": 4, "base": 8, "finest": 24, "log2_entries": 12, "hidden": 16}
    options = config(
        3, "system.field_rate=0.02", "system.bending_weight=0", "data.rays=512", NO_FLOOR, "pictures.size=16"
    )
    options["system"]["geometry"] = geometry
    launch.train(options)
    before = (scene.reconstruction / "test/007.png").read_bytes()
    launch.reexport(options, mesh=False)
    assert (scene.reconstruction / "test/007.png").read_bytes() == before
    with open(scene.reconstruction / "log/from_step_0/metrics.csv") as file:
        losses = [float(row["color"]) for row in csv.DictReader(file)]
    assert losses[-1] < 0.5 * losses[0]
    with pytest.raises(UserError, match="not a field of this geometry"):
        launch.reexport(config(), mesh=True)


def test_guidance_is_set_by_the_model_unless_the_config_says_otherwise(tmp_path, model):
    model.settings = replace(model.settings, guidance_scale=3.0, contrast=1.5)
    model.save_pretrained(tmp_path / "tuned")
    names, folder = ("guidance_scale", "contrast"), str(tmp_path / "tuned")
    for chosen, expected in (({}, [3.0, 1.5]), ({"guidance_scale": 7.5, "contrast": 1.0}, [7.5, 1.0])):
        guidance = MultiViewSDS(MultiViewSDS.Config(folder, **chosen), scene=None)
        assert [guidance._setting(name) for name in names] == expected
