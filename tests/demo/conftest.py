"""A pipeline that takes a second, for the demo's tests."""

import json
import shutil
from pathlib import Path

import jobs as jb
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from sap3d.cameras.poses import write_poses
from sap3d.files import write_video
from sap3d.images import sheet


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A repository whose run_pipeline.sh is stand_in.sh; returns it."""
    files, repository = tmp_path / "files", tmp_path / "repository"
    files.mkdir()
    repository.mkdir()
    shutil.copy(Path(__file__).parent / "stand_in.sh", repository / "run_pipeline.sh")
    box = trimesh.creation.box()
    box.visual.vertex_colors = [200, 80, 30, 255]
    box.export(files / "mesh.glb")
    cameras = torch.tensor([[0.3, azimuth, 1.8] for azimuth in (0.0, 1.5, 3.0, -1.5)])
    for views in range(1, 5):
        write_poses(files / f"poses_{views}.json", cameras[None, :views], [0.0])
    write_video(files / "turntable.mp4", [np.full((32, 128, 3), value, np.uint8) for value in range(0, 200, 20)])
    Image.fromarray(sheet(np.zeros((84, 16, 16, 3), np.uint8), 12)).save(files / "sheet.png")
    metrics = [f"3d_{key}_mean" for key in ("psnr", "ssim", "lpips", "flip")] + ["CD", "IOU", "F1_01", "F1_02", "F1_03"]
    results = dict.fromkeys([*metrics, "rotation_error_stage3_symmetric"])
    (files / "results.json").write_text(
        json.dumps(results | {"views": 0, "3d_psnr_mean": 21.5, "seconds": {"poses": 2, "tuning": 3}})
    )
    monkeypatch.setenv("STAND_IN_FILES", str(files))
    monkeypatch.setattr(jb, "REPOSITORY", repository)
    return repository
