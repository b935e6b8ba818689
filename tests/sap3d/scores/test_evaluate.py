"""Evaluation of a synthetic scene whose outputs are its ground truth, seen from another gauge."""

import json
import math

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
import trimesh

from sap3d.cameras.maths import Y_UP, evaluation_grid
from sap3d.cameras.poses import write_poses
from sap3d.errors import UserError
from sap3d.meshes import Size
from sap3d.scene import Scene
from sap3d.scores import evaluate
from sap3d.views import write_view

AZIMUTH = 0.9  # of view 0 in the true world


def shape() -> trimesh.Trimesh:
    return trimesh.creation.box((0.8, 0.3, 0.4)).apply_translation([0.1, 0.05, 0])


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """Two views, three test views, and outputs that equal the truth turned by −AZIMUTH."""
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    scene = Scene("toy_demo", "thing", 2)
    truth = torch.tensor([[0.3, AZIMUTH, 1.8], [0.5, 2.0, 1.7]])
    rgba = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 4), np.uint8)
    for index, camera in enumerate(truth):
        write_view(scene.train, index, rgba[index], camera)
    for folder in (scene.diffusion / "preds", scene.reconstruction / "test", scene.mesh_folder):
        folder.mkdir(parents=True)
    for index in range(3):
        write_view(scene.test, index, rgba[index], evaluation_grid(truth[0])[index])
        for folder in (scene.diffusion / "preds", scene.reconstruction / "test"):
            imageio.imwrite(folder / f"{index:03d}.png", rgba[index])
    estimate = truth - torch.tensor([0, AZIMUTH, 0])
    for path in (scene.initial_poses, scene.diffusion / "poses.json", scene.reconstruction / "poses.json"):
        write_poses(path, estimate[None], [0.0])
    shape().export(scene.mesh_folder / "mesh.ply")
    turn = trimesh.transformations.rotation_matrix(-AZIMUTH, [0, 0, 1])
    write_result(scene, shape().apply_transform(turn), size_mm=40)
    return scene


def write_result(scene: Scene, mesh: trimesh.Trimesh, size_mm: float | None = None) -> None:
    """As stage 3 writes a mesh of the poses' world."""
    size = Size.of(mesh.vertices, size_mm)
    size.write(scene.reconstruction)
    mesh.apply_transform(np.array(Y_UP)).apply_scale(size.metres).export(scene.reconstruction / "mesh.obj")


def test_the_truth_in_another_gauge_is_perfect(scene):
    results = evaluate.evaluate(scene, seed=0, device="cpu")
    assert results["NAME"] == "thing"
    for key in ("Rotation Error", "rotation_error_stage1", "rotation_error_stage2", "rotation_error_stage3_symmetric"):
        assert results[key] == pytest.approx(0, abs=1e-3)
    for key in ("Elevation", "Azimuth", "Radius"):
        assert results[key] == pytest.approx(0, abs=1e-4)
    for prefix in ("2d", "3d"):
        assert results[f"{prefix}_psnr_mean"] > 99
        assert results[f"{prefix}_ssim_mean"] == pytest.approx(1)
        assert results[f"{prefix}_flip_mean"] == pytest.approx(0, abs=1e-6)
        assert f"{prefix}_lpips_mean" in results
    assert results["IOU"] > 0.99
    assert results["CD"] < 0.005
    assert results["F1_01"] == 1


def test_a_wrong_mesh_gauge_and_a_wrong_azimuth_count(scene):
    write_result(scene, shape())
    estimate = torch.tensor([[0.3, 0.0, 1.8], [0.5, 2.0 - AZIMUTH + math.radians(20), 1.7]])
    write_poses(scene.diffusion / "poses.json", estimate[None], [0.0])
    results = evaluate.evaluate(scene, seed=0, device="cpu")
    assert results["IOU"] < 0.7
    assert 15 < results["rotation_error_stage2"] < 20
    assert results["Rotation Error"] == pytest.approx(0, abs=1e-3)


def test_small_predictions_are_enlarged(scene):
    for path in (scene.diffusion / "preds").glob("*.png"):
        imageio.imwrite(path, np.full((16, 16, 3), 255, np.uint8))
    for path in (scene.test / "images").glob("*.png"):
        imageio.imwrite(path, np.zeros((64, 64, 4), np.uint8))  # transparent is white
    assert evaluate.evaluate(scene, seed=0, device="cpu")["2d_psnr_mean"] == 100


@pytest.mark.parametrize(
    "output, stage",
    [
        (lambda scene: scene.initial_poses, "relposepp/infer.py"),
        (lambda scene: scene.diffusion / "poses.json", "camerabooth/main.py"),
        (lambda scene: scene.diffusion / "preds/002.png", "camerabooth/go_nvs.py"),
        (lambda scene: scene.reconstruction / "mesh.obj", "3D_Recon/threestudio/launch.py"),
    ],
)
def test_a_missing_output_names_its_stage(scene, output, stage):
    output(scene).unlink()
    with pytest.raises(UserError, match=f"{output(scene)} is missing: run {stage}"):
        evaluate.evaluate(scene, seed=0, device="cpu")


def test_own_photos_have_null_metrics(scene, monkeypatch, capsys):
    for folder in (scene.train / "poses", scene.test / "images", scene.mesh_folder):
        for path in folder.iterdir():
            path.unlink()
    (scene.results).mkdir(parents=True)
    (scene.results / "stages.json").write_text('{"poses": {"seconds": 12}}')
    monkeypatch.setattr("sys.argv", "evaluate --type toy_demo --object thing --views 2 --seed 7".split())
    evaluate.main()
    results = json.loads((scene.results / "results.json").read_text())
    for key in ("CD", "IOU", "F1_03", "Rotation Error", "Elevation", "2d_psnr_mean", "3d_flip_mean"):
        assert results[key] is None
    assert results["seed"] == 7
    assert results["seconds"]["poses"] == 12
    printed = capsys.readouterr().out
    assert "no ground-truth poses, test views, mesh of toy_demo/thing" in printed
    assert str(scene.reconstruction / "mesh.obj") in printed


def test_the_gpu_is_that_of_the_stages(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: f"card {index}")
    assert evaluate.describe_machine("2")["gpu"] == "card 2"
    assert evaluate.describe_machine("cpu")["gpu"] is None
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert evaluate.describe_machine("2")["gpu"] is None


def test_listed_symmetries():
    assert evaluate.read_symmetry(Scene("GSO_demo", "white_bowl", 2)) == math.inf
    assert evaluate.read_symmetry(Scene("HOPE_demo", "popcorn", 2)) == 1
    assert evaluate.read_symmetry(Scene("DEMO", "my_mug", 2)) == 1
