"""The hot path on a device that is pretended (tests/pretend.py), in whose place a GPU would be."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import imageio.v3 as imageio
import launch
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from camerabooth import main, regularisation
from camerabooth.judge import leave_one_out, seen_from_others
from relposepp import infer, outliers
from relposepp.model import Prediction
from relposepp.proposals import Poses, uninformed
from relposepp.published import PublishedRelPose
from relposepp.published_poses import Effort, predict_published
from sap3d.cameras.poses import write_poses
from sap3d.runs import training
from sap3d.runs.devices import step_generator
from sap3d.runs.options import filled
from tests.camerabooth.backbones.published.tiny import FLAT, make_model
from tests.pretend import DEVICE, pretended
from tests.threestudio.scenes import CAMERAS, config, make_scene
from tests.tiny import smooth_images, some_cameras
from threestudio.models.exporters import pictures

SHORT = {"steps": 2, "guidance_scale": 3.0, "eta": 1.0, "conditioning": "stochastic"}


def test_what_is_pretended_raises_where_devices_mix():
    without_values = torch.empty(3, device=DEVICE)
    with pretended() as device:
        there = torch.rand(3, device=device)
        assert there.device == device and there.cpu().device.type == "cpu" and there[torch.tensor([0])].item() >= 0
        for mixed in (
            lambda: there + torch.ones(3),
            lambda: there.index_put_((torch.tensor([0]),), torch.ones(1)),
            lambda: torch.ones(3)[there > 0],
            lambda: torch.rand(3, generator=torch.Generator(), device=device),
            lambda: there.numpy(),
            lambda: there + without_values,
        ):
            with pytest.raises((RuntimeError, TypeError)):
                mixed()
        rows = torch.arange(4.0, device=device)
        rows[[0, 3]] = rows[[3, 0]]
        assert rows.tolist() == [3, 1, 2, 0]


def test_a_published_model_is_judged_and_tuned_where_it_is(tmp_path, monkeypatch):
    model, prior = make_model(FLAT, image_size=16, sampling=SHORT), (smooth_images(3, 16)[None], some_cameras(3)[None])
    monkeypatch.setattr(regularisation, "regularisation_views", lambda *_, **__: prior)
    settings = filled(OmegaConf.load(main.CONFIG), "tuning", model.tuning).tuning
    settings = OmegaConf.merge(settings, {"steps": 1, "batch": 2, "prior_batch": 1})

    def fit(module, steps, device, *_, **__):
        module.to(device)
        module.training_step(None, 0).backward()
        assert all(value.grad.device == DEVICE for value in module.parameters() if value.requires_grad)
        module.validation_step()
        module.cpu()  # as Lightning leaves it

    monkeypatch.setattr(training, "fit", fit)
    with pretended() as device:
        model.to(device)
        images, cameras = smooth_images(3, 16).to(device), some_cameras(3).to(device)
        errors = leave_one_out(model, images, cameras)
        refined, trajectory = main.tune(model, images, cameras, [0], settings, 0, tmp_path)
        views = seen_from_others(model, images, refined)
    assert {each.device for each in (errors, refined, views)} == {DEVICE}
    assert trajectory.device == torch.device("cpu") and errors.cpu().isfinite().all()


def test_relposepp_searches_where_it_is():
    torch.manual_seed(0)
    network = PublishedRelPose(blocks=(1, 1, 1, 1), depth=1).eval().requires_grad_(False)
    azimuths = torch.zeros(3, 3, 72)
    embedded = Prediction(torch.full((3,), 0.3), torch.full((3,), 0.1), torch.ones(3), azimuths, azimuths)
    with pretended() as device:
        images, crops = torch.rand(3, 3, 64, 64), torch.rand(3, 3)
        effort = Effort(tree_samples=40, ascent_samples=20, ascent_steps=3, runs=2)
        found = predict_published(network.to(device), images, crops, embedded, effort, 0)
        likely = found.log_probabilities(found.configurations)
    assert {each.device.type for each in (found.azimuths, found.configurations, likely)} == {"cpu"}


def test_outliers_are_looked_for_where_all_else_is(monkeypatch):
    monkeypatch.setattr(outliers, "LEVEL", replace(outliers.LEVEL, steps=1))
    fitted, fit = [], outliers.joint_fit
    monkeypatch.setattr(outliers, "joint_fit", lambda images, *a, **k: fitted.append(images) or fit(images, *a, **k))
    photos = [np.full((32, 32, 4), 100 + 20 * view, np.uint8) for view in range(4)]
    with pretended() as device:
        poses = Poses(some_cameras(4)[None], [0.0], torch.ones(4), some_cameras(4), uninformed(4))
        known, said = infer.questioned(poses, photos, device)
    assert fitted[0].device == DEVICE and len(said["outliers"]["fall"]) == 4
    assert (known.confidence < 1).all() and not known.confidence.requires_grad


def test_stage_3_stays_there_to_its_last_picture(tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    scene = make_scene(tmp_path, CAMERAS)
    write_poses(scene.diffusion / "poses.json", CAMERAS[None], [0.0], symmetry={"order": 2})
    make_model(FLAT, image_size=16, sampling=SHORT).save_pretrained(scene.diffusion / "model")
    few = ["data.rays=64", "system.geometry.resolution=[[0,8]]", "system.expected_weight=1", "system.floor_spare=0.5"]
    few += ["pictures.size=16", "pictures.frames=2", "mesh.density=0.1", "system.corrections.exposure=0.1"]
    options = config(3, *few, "system.symmetry_rays=16", "mesh.texture_size=32")
    options["system"]["guidance"] |= {"expected_views": 6, "cameras": 1, "render_size": 16}

    def step(system, device) -> None:
        generator = step_generator(0, 0, device)
        batch = system.batches.draw(0)
        losses = system.photo_losses(batch, generator, refine=True) | system.roughness(generator)
        losses["symmetry"] = system.symmetry_loss(batch, 0, generator)
        losses["expected"] = system.expected_loss(0, generator)
        losses["guidance"] = system.distill(0, step_generator(0, 0))
        read = system.guidance.prepared
        losses["guidance"] = system.distill(1, step_generator(0, 1))
        assert system.guidance.prepared is read, "photos are encoded once"
        sum(losses.values()).backward()
        assert system.poses.offsets.grad.any() and system.geometry.values.grad.any()

    def fit(system, steps, device, work, *_, **__):
        system.to(device)
        system.on_train_start()
        system.corrections.values.data += 0.1
        step(system, device)
        system.renderer.update_occupancy()
        checkpoint = {"state_dict": system.state_dict()}
        system.on_save_checkpoint(checkpoint)
        system.cpu()
        kept = checkpoint["occupancy"].cpu(), {name: value.cpu() for name, value in checkpoint["geometry"].items()}
        system.on_load_checkpoint({"occupancy": kept[0], "geometry": kept[1]})  # as a killed run goes on
        system.to(device)
        system.on_train_start()
        step(system, device)
        system.on_train_end()
        system.cpu()  # as Lightning leaves it
        (work / "log").mkdir(parents=True)

    monkeypatch.setattr(training, "fit", fit)
    monkeypatch.setattr(launch, "choose_device", lambda _: DEVICE)
    grid = pictures.cam.evaluation_grid
    monkeypatch.setattr(pictures.cam, "evaluation_grid", lambda reference: grid(reference)[:8])
    pool = SimpleNamespace(map=map)  # what is pretended, is so in this thread alone
    monkeypatch.setattr(pictures, "single_threads", lambda: nullcontext(pool))
    with pretended():
        launch.train(options)
        picture = imageio.imread(scene.reconstruction / "test/007.png")
        launch.reexport(options, mesh=True)
        launch.reexport(options, mesh=False)
    assert (imageio.imread(scene.reconstruction / "test/007.png") == picture).all()
    assert (scene.reconstruction / "mesh.glb").exists()
