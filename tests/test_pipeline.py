"""All stages, files to files, on a toy and a tiny configuration."""

import hashlib
import json
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import ablate as ablate_field
import imageio.v3 as imageio
import launch
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from camerabooth import ablate, go_nvs, main
from camerabooth.backbones.embedded.model import EmbeddedDiffusion
from dataset.render import Renderer
from dataset.toys import make_toy, toy_seed
from relposepp import descent, infer, rivals, verify
from relposepp.model import ModelConfig, RelativePose, save_model
from sap3d.cameras import maths as cam
from sap3d.cameras.poses import read_best_poses, read_pose_hypotheses
from sap3d.errors import UserError
from sap3d.field import synthesis
from sap3d.images import read_on_white, to_uint8
from sap3d.scene import Scene, image_paths
from sap3d.scores import evaluate, metrics
from sap3d.views import read_poses, write_view
from tests.tiny import tiny_model

TOY = "toy_004"
TRAIN_CAMERAS = torch.tensor([[0.3, 0.5, 1.7], [0.5, 2.0, 1.9], [0.2, -1.5, 1.8]])

TINY_FIELD = [
    "data.image_size=[[0,32]]",
    "data.rays=256",
    "system.geometry.resolution=[[0,16]]",
    "system.guidance_every=4",
    "system.guidance.expected_views=4",
    "system.floor_spare=0",  # to find the floor takes longer than the rest
    "trainer.max_steps=8",
    "pictures.size=32",
    "pictures.frames=8",
    "interchange.size=32",
    "mesh.texture_size=64",
    "mesh.resolution=32",
    "mesh.faces=500",
    "mesh.density=0.1",  # below the density that the field starts with, so that eight steps leave a mesh
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A ROOT_DIR with a toy at 64 × 64, its ground truth, and untrained models."""
    root = tmp_path_factory.mktemp("root")
    torch.manual_seed(0)
    save_model(RelativePose(ModelConfig(width=16, blocks=1)), root / "relposepp")
    tiny_model().save_pretrained(root / "diffusion")
    mesh = make_toy(toy_seed(TOY))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROOT_DIR", str(root))
        scene = Scene("toy_demo", TOY, 3)
        for folder, cameras in ((scene.train, TRAIN_CAMERAS), (scene.test, cam.evaluation_grid(TRAIN_CAMERAS[0]))):
            for index, image in enumerate(Renderer(mesh).render(cameras, 64)):
                write_view(folder, index, image, cameras[index])
        scene.mesh_folder.mkdir(parents=True)
        mesh.export(scene.mesh_folder / "mesh.ply")
    return root


@pytest.fixture(autouse=True)
def short_fits(monkeypatch):
    """Stage 1's finer fits of voxels in a tenth of their steps, small novel views, and coarsely measured meshes."""

    def short(levels):
        return tuple(replace(level, steps=level.steps // 10) for level in levels)

    monkeypatch.setattr(synthesis, "HELD", *short([synthesis.HELD]))
    for module in (verify, descent):
        monkeypatch.setattr(module, "DESCENT", short(module.DESCENT))
    for level in ("FAR", "NEARER", "DETAIL"):
        monkeypatch.setattr(rivals, level, *short([getattr(rivals, level)]))
    monkeypatch.setattr(go_nvs, "SIZE", 64)
    monkeypatch.setattr(metrics, "SURFACE_SAMPLES", 5000)
    monkeypatch.setattr(metrics, "occupancy", partial(metrics.occupancy, resolution=32))


def run(monkeypatch, program, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [program.__name__, *arguments])
    program.main()


def untrained(root: Path) -> list[str]:
    """Stage 1's options for untrained models."""
    return [f"weights={root / 'relposepp'}", f"diffusion.checkpoint={root / 'diffusion'}"]


def run_stages(monkeypatch, root: Path, views: int = 3, left_out: list[int] | None = None) -> dict[str, str]:
    """Stages 1–3 in a fresh set of outputs; returns a hash for each file that they hand on.

    Args:
        left_out: views that stage 1 is taken to have found not to fit.
    """
    monkeypatch.setenv("ROOT_DIR", str(root))
    scene = Scene("toy_demo", TOY, views)
    for folder in (scene.initial_poses.parent, scene.diffusion, scene.reconstruction):
        shutil.rmtree(folder, ignore_errors=True)
    common = ["--type", "toy_demo", "--object", TOY, "--views", str(views), "--device", "cpu"]
    search = ["candidates=4", "hypotheses=2", "effort.rounds=1", "effort.children=2", "effort.beam=2"]
    search += ["effort.finalists=2", "effort.proposed=1"]
    run(monkeypatch, infer, *common, *untrained(root), *search)
    if left_out:
        found = json.loads(scene.initial_poses.read_text())
        scene.initial_poses.write_text(json.dumps(found | {"left_out": left_out}))
    tuning = [
        "tuning.steps=2",
        "tuning.batch=2",
        "tuning.prior_batch=1",
        "tuning.prior_objects=2",
        "tuning.prior_nearest=false",
        "tuning.instance.steps=2",
    ]
    run(monkeypatch, main, *common, f"checkpoint={root / 'diffusion'}", *tuning)
    run(monkeypatch, go_nvs, *common, "novel_views.steps=2")
    data = [
        "data.type=toy_demo",
        f"data.object={TOY}",
        f"data.views={views}",
    ]
    run(monkeypatch, launch, "--train", *data, *TINY_FIELD, "device=cpu")
    handed_on = [
        scene.initial_poses,
        scene.diffusion / "poses.json",
        scene.diffusion / "model/model.safetensors",
        scene.diffusion / "preds/083.png",
        scene.reconstruction / "poses.json",
        scene.reconstruction / "field.safetensors",
        scene.reconstruction / "test/083.png",
    ]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in handed_on}


def test_pipeline_reads_no_ground_truth_and_repeats_with_its_seed(root, monkeypatch):
    with_truth = run_stages(monkeypatch, root)
    scene = Scene("toy_demo", TOY, 3)
    poses = json.loads((scene.diffusion / "poses.json").read_text())
    assert poses["symmetry"]["order"] in (1, 2) and poses["kept"] in ("initial", "refined")
    decided = json.loads(scene.initial_poses.read_text())
    assert decided["symmetry"]["order"] == poses["symmetry"]["order"] and "excess" in decided["symmetry"]
    considered = decided["considered"]
    assert considered["kept"] in considered["judged"] and {"chosen", "descended"} <= set(considered["judged"])
    assert len(decided["hypotheses"]) == len(decided["surprise"]) == 2
    hidden = root / "hidden"
    hidden.mkdir()
    for index, folder in enumerate((scene.train / "poses", scene.test, scene.mesh_folder)):
        folder.rename(hidden / str(index))
    try:
        without_truth = run_stages(monkeypatch, root)
    finally:
        for index, folder in enumerate((scene.train / "poses", scene.test, scene.mesh_folder)):
            (hidden / str(index)).rename(folder)
    assert with_truth == without_truth

    run(monkeypatch, evaluate, "--type", "toy_demo", "--object", TOY, "--views", "3")
    results = json.loads((scene.results / "results.json").read_text())
    for key in ("Rotation Error", "rotation_error_stage1", "2d_psnr_mean", "3d_psnr_mean", "CD", "IOU", "F1_01"):
        assert np.isfinite(results[key]), key


def test_own_photos_cameras_and_what_is_left_out_are_handed_on(root, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(root))
    scene = Scene("toy_demo", TOY, 3)
    scene.photo_record.write_text("{}")
    try:
        run_stages(monkeypatch, root, left_out=[1])
    finally:
        scene.photo_record.unlink()
    hypotheses, _ = read_pose_hypotheses(scene.initial_poses, 3)
    assert hypotheses.shape[1:] == (3, 7) and hypotheses[0, :, 3:].abs().min() > 0
    tuned, _ = read_pose_hypotheses(scene.diffusion / "poses.json", 3)
    placed, _ = read_pose_hypotheses(scene.reconstruction / "poses.json", 3)
    for handed_on in (tuned, placed):
        torch.testing.assert_close(handed_on[0, :, 6], hypotheses[0, :, 6])
    torch.testing.assert_close(tuned[0, :, 3:5], hypotheses[0, :, 3:5])
    torch.testing.assert_close(tuned[0, 1], hypotheses[0, 1])  # the left-out one stays where it was
    assert not placed[0, :, 3:5].any()
    for folder in (scene.diffusion, scene.reconstruction):
        assert read_best_poses(folder / "poses.json", 3).shape == (2, 7)
    interchange = json.loads((scene.reconstruction / "interchange/transforms.json").read_text())
    assert len(interchange["frames"]) == 2


def test_ablations_share_what_tunes_alike_and_go_on(root, monkeypatch, tmp_path):
    monkeypatch.setenv("ROOT_DIR", str(root))
    common = ["--type", "toy_demo", "--object", TOY, "--views", "3", "--device", "cpu"]
    run(monkeypatch, infer, *common, *untrained(root), "verify=false")
    (tmp_path / "list.txt").write_text(f"toy_demo {TOY}\n")
    tiny = [f"checkpoint={root / 'diffusion'}", "tuning.steps=2", "tuning.batch=2", "tuning.prior_objects=1"]
    tiny += ["tuning.prior_nearest=false", "tuning.instance.steps=2"]
    tuned, tune, variants = [], main.tune, OmegaConf.load(ablate.VARIANTS)
    monkeypatch.setattr(main, "tune", lambda *arguments: (tuned.append(arguments), tune(*arguments))[1])
    variants["nearest source alone"].novel_views.steps = 1
    OmegaConf.save(variants, tmp_path / "variants.yaml")
    monkeypatch.setattr(ablate, "VARIANTS", tmp_path / "variants.yaml")

    def ablations(*variants: str) -> dict:
        argv = ["ablate", "--list", str(tmp_path / "list.txt"), "--views", "3", "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", [*argv, *tiny, "--variants", *variants])
        ablate.run()
        return json.loads((root / "results/camerabooth/ablations.json").read_text())["3 views, seed 0"]

    table = ablations("full", "nearest source alone")
    assert len(tuned) == 1, "the sampling differs, the tuning does not"
    rows = [objects[f"toy_demo/{TOY}"] for objects in table.values()]
    assert rows[0]["psnr"] != rows[1]["psnr"] and rows[0]["stage2"] == rows[1]["stage2"]
    assert ablations("full", "without tuning")["full"] == table["full"]
    assert len(tuned) == 2 and tuned[1][4].steps == 0


def test_the_parts_of_stage_3_are_ablated(root, monkeypatch, tmp_path):
    monkeypatch.setenv("ROOT_DIR", str(root))
    scene = Scene("toy_demo", TOY, 3)
    before = {path: path.stat().st_mtime_ns for path in scene.reconstruction.rglob("*")}
    (tmp_path / "list.txt").write_text(f"{scene.type} {scene.object}\n")
    tuning = {"steps": 1, "batch": 2, "prior_objects": 1, "prior_nearest": False}
    changes = {"checkpoint": str(root / "diffusion"), "tuning": tuning}
    for stage, differing in ((main, changes), (infer, {"symmetry": {"excess": [1.0]}})):
        path = tmp_path / f"{stage.__name__}.yaml"
        OmegaConf.save(OmegaConf.merge(OmegaConf.load(stage.CONFIG), differing), path)
        monkeypatch.setattr(stage, "CONFIG", path)
    names = [ablate_field.FULL, ablate_field.UNTUNED, ablate_field.FAR_SIDE, ablate_field.EXPECTED]
    for name, changes in (
        (ablate_field.FULL, ["system.field_from=2"]),
        (ablate_field.UNTUNED, ["system.field_from=2"]),
        (ablate_field.FAR_SIDE, ["data.symmetric=false", "system.field_from=2"]),
    ):
        monkeypatch.setitem(ablate_field.VARIANTS, name, changes)
    argv = ["ablate", "--list", str(tmp_path / "list.txt"), "--views", "3", "--device", "cpu", "--true_poses"]
    monkeypatch.setattr(sys, "argv", [*argv, "--variants", *names, "--seed", "0", *TINY_FIELD])
    ablate_field.run()
    monkeypatch.setenv("ROOT_DIR", str(root))
    path = root / "results/threestudio/ablations.json"
    table = json.loads(path.read_text())["3 views, true poses, seed 0"]
    rows = [table[name][f"toy_demo/{TOY}"] for name in names]
    assert len({row["psnr"] for row in rows[:3]}) == 3
    assert rows[3] == rows[0], "views that the model expects play no part with three photos"
    assert [row["rotation"] for row in rows] == pytest.approx([0, 0, 0, 0], abs=1e-3)
    elevation, azimuth, _ = read_poses(scene.test).T[:, :, None]
    inputs = read_poses(scene.train, 3)
    beside = elevation.cos() * inputs[:, 0].cos() * (azimuth - inputs[:, 1]).cos()
    unseen = (elevation.sin() * inputs[:, 0].sin() + beside).amax(1).argmin().item()
    tiles = imageio.imread(path.with_name("unseen_3_true.png"))[2:130, 2:].reshape(128, 5, 130, 3)[:, :, :128]
    assert np.array_equal(tiles[:, 0], to_uint8(read_on_white(image_paths(scene.test)[unseen], 128)))
    folders = ["full", "without_tuning", "without_the_far_side", "full"]
    for tile, name in zip(tiles[:, 1:].swapaxes(0, 1), folders, strict=True):
        below = replace(scene, root=root / "runs/reconstruction_ablations/true" / name)
        assert np.array_equal(tile, to_uint8(read_on_white(below.reconstruction / f"test/{unseen:03d}.png", 128)))
    monkeypatch.setattr(ablate_field, "evaluate", lambda *_: pytest.fail("what is there was done again"))
    ablate_field.run()
    assert before == {path: path.stat().st_mtime_ns for path in scene.reconstruction.rglob("*")}


def test_tuning_that_lacks_memory_begins_anew_with_half_the_batch(root, monkeypatch, capsys):
    monkeypatch.setenv("ROOT_DIR", str(root))
    common = ["--type", "toy_demo", "--object", TOY, "--views", "1", "--device", "cpu"]
    run(monkeypatch, infer, *common, *untrained(root), "verify=false")

    def tune(model, images, cameras, prior, config, *_):
        if (config.batch, config.prior_batch) != (4, 2):
            model.network.encoder.stem.weight.data.fill_(float("nan"))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return cameras, cameras[None]

    monkeypatch.setattr(main, "tune", tune)
    run(
        monkeypatch,
        main,
        *common,
        f"checkpoint={root / 'diffusion'}",
        "tuning.batch=8",
        "tuning.prior_batch=4",
        "tuning.prior_nearest=false",
    )
    assert "tuning.batch=8: trying again with 4" in capsys.readouterr().out
    weights = load_file(Scene("toy_demo", TOY, 1).diffusion / "model/model.safetensors")
    assert all(value.isfinite().all() for value in weights.values())


def test_one_view_is_enough(root, monkeypatch):
    assert len(run_stages(monkeypatch, root, views=1)) == 7


@pytest.mark.parametrize(
    ("views", "option", "taken"),
    [
        (1, "symmetry.excess=[1.0]", False),
        (2, "symmetry.excess=[1.0]", True),
        (2, "symmetry.excess=[-1.0]", False),
        (3, "symmetry.excess=[0,1.0]", True),
        (3, "symmetry.most=2", False),
    ],
)
def test_photos_stand_for_the_far_side_where_they_agree_with_it(root, monkeypatch, views, option, taken):
    """Stage 1 finds it, stage 2 tunes to them from both sides, shows them so to the model, and hands it on."""
    monkeypatch.setenv("ROOT_DIR", str(root))
    common = ["--type", "toy_demo", "--object", TOY, "--views", str(views), "--device", "cpu"]
    run(monkeypatch, infer, *common, *untrained(root), "verify=false", option)
    tuned, shown, embed = [], [], EmbeddedDiffusion.embed_sources

    def tune(*arguments):
        tuned.append(arguments)
        return arguments[2], arguments[2][None]

    monkeypatch.setattr(main, "tune", tune)
    run(monkeypatch, main, *common, f"checkpoint={root / 'diffusion'}", "tuning.instance.steps=1")
    scene = Scene("toy_demo", TOY, views)
    decided, poses = (json.loads(path.read_text()) for path in (scene.initial_poses, scene.diffusion / "poses.json"))
    assert decided["symmetry"]["order"] == poses["symmetry"]["order"] == 1 + taken
    assert abs(decided["symmetry"].get("excess", 0)) < 1
    assert len(poses["hypotheses"][0]["cameras"]) == views
    _, images, cameras, *_ = tuned[0]
    assert len(images) == len(cameras) == views * (1 + taken)

    monkeypatch.setattr(
        EmbeddedDiffusion, "embed_sources", lambda *arguments: (shown.append(arguments), embed(*arguments))[1]
    )
    config, target = OmegaConf.load(main.CONFIG), cameras[:1].detach()
    go_nvs.novel_views(scene, scene.diffusion, config, torch.device("cpu"), 0, target)
    assert [len(images) for _, images, _ in shown] == [views * (1 + taken)]


@pytest.mark.parametrize("views, message", [("4", "3 images"), ("0", "at least 1"), ("two", "at least 1")])
def test_stages_refuse_a_bad_number_of_views(root, monkeypatch, views, message):
    monkeypatch.setenv("ROOT_DIR", str(root))
    for stage in (infer, main, go_nvs):
        options = ["--type", "toy_demo", "--object", TOY, "--views", views, "--device", "cpu"]
        if stage is infer:
            options += untrained(root)
        with pytest.raises(UserError, match=message if stage is infer or views != "4" else "no poses"):
            run(monkeypatch, stage, *options)


def test_stages_name_missing_weights(root, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(root))
    common = ["--type", "toy_demo", "--object", TOY, "--views", "3", "--device", "cpu"]
    with pytest.raises(UserError, match="nowhere.*weights"):
        run(monkeypatch, infer, *common, f"weights={root / 'nowhere'}")
    with pytest.raises(UserError, match="nowhere.*weights"):
        run(monkeypatch, main, *common, f"checkpoint={root / 'nowhere'}")
