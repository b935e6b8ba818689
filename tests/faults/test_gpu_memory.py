"""A GPU's memory that runs out in each stage, by stand-ins: half the batch, or one line that names stage and fix."""

import runpy
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from camerabooth import go_nvs
from sap3d.errors import UserError
from sap3d.files import REPOSITORY
from sap3d.runs import devices
from sap3d.scene import Scene
from sap3d.views import write_view

SCENE = ["--type", "T", "--object", "o", "--views", "1", "--device", "3"]
FIELD = ["--train", "data.type=T", "data.object=o", "data.views=1", "device=3"]


@pytest.mark.parametrize(
    ("program", "arguments", "stage", "lower"),
    [
        ("relposepp/infer.py", SCENE, "poses", "lower poses.candidates or poses.effort.beam, "),
        ("camerabooth/main.py", SCENE, "tuning", "lower tuning.batch or tuning.prior_objects, "),
        ("camerabooth/go_nvs.py", SCENE, "novel_views", ""),
        (
            "3D_Recon/threestudio/launch.py",
            FIELD,
            "reconstruction",
            "lower reconstruction.data.rays or reconstruction.system.guidance.cameras, ",
        ),
    ],
)
def test_each_stage_names_itself_and_what_to_lower(program, arguments, stage, lower, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    write_view(Scene("T", "o", 1).train, 0, np.full((8, 8, 4), 255, np.uint8), torch.tensor([0.3, 0.0, 1.8]))
    monkeypatch.setattr(sys, "argv", [program, *arguments])

    def full(name: str) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 3 has a total of 8 GiB")

    monkeypatch.setattr(devices, "choose_device", full)
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(REPOSITORY / program), run_name="__main__")
    said = f"error: {stage}: CUDA out of memory. Free some, {lower}or take another GPU_INDEX, or cpu\n"
    assert exit.value.code == 2 and capsys.readouterr().err == said


@pytest.mark.parametrize("limit", [42, 40])
def test_novel_views_are_made_in_halves_or_end_in_one_line(limit, tmp_path, monkeypatch, capsys):
    cameras = torch.tensor([[0.3, 0.0, 1.8]])
    model = SimpleNamespace(image_size=8, knows_field=False, sampling={"steps": 2}, embed_sources=lambda *_: None)
    stand_ins = {
        "load_model": lambda *_: model,
        "read_best_poses": lambda *_: cameras,
        "read_middles": lambda *_: torch.zeros(1, 2),
        "read_symmetry_order": lambda *_: 1,
        "read_kept_images": lambda *_: [np.full((8, 8, 4), 255, np.uint8)],
        "VIEWS_AT_ONCE": 84,
    }
    for name, value in stand_ins.items():
        monkeypatch.setattr(go_nvs, name, value)

    def sample(model, sources, targets, generator, steps, batch, size):
        if batch > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return torch.zeros(len(targets), 4, 8, 8)

    monkeypatch.setattr(go_nvs, "sample", sample)

    def views():
        config = SimpleNamespace(novel_views={})
        return go_nvs.novel_views(Scene("T", "o", 1, tmp_path), tmp_path, config, torch.device("cpu"), 0)[0]

    if limit == 42:
        assert views().shape == (84, 256, 256, 3)
    else:
        with pytest.raises(UserError, match="novel views at once=84 and 42: free some of it"):
            views()
    assert "novel views at once=84: trying again with 42" in capsys.readouterr().out
