"""A tiny scene of coloured balls, and stage 3 on it."""

from pathlib import Path

import imageio.v3 as imageio
import launch
import torch

from sap3d.cameras.poses import write_poses
from sap3d.field import grid as dense
from sap3d.images import to_uint8
from sap3d.scene import Scene
from tests.renders import render_images

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
    "mesh.faces=500",
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
