"""How still the colours of a video around the object are: each frame against the one before it, warped into place.

    python benchmarks/flicker.py --list dataset/benchmarks/scans8.txt --views 5

Objects must have gone through stage 2. Its model renders a closed circle of frames at 256×256. Through the field's
depth each pixel of a frame is looked up in the frame before. Printed is the mean difference of colours, in levels of
255, over pixels inside the silhouette whose point both frames see. A field whose colours are fixed in space has none
but what interpolation and uncertain depth leave.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from camerabooth.backbones.embedded.model import EmbeddedDiffusion
from camerabooth.backbones.embedded.rendering import render
from camerabooth.backbones.embedded.volume import Field
from camerabooth.go_nvs import FRAMES, SIZE, orbit, show_photos
from sap3d.cameras import maths as cam
from sap3d.cameras.maths import SCENE_BOUND
from sap3d.cameras.poses import read_best_poses
from sap3d.errors import one_line_errors
from sap3d.names import read_object_list
from sap3d.scene import Scene, check_views

SOLID = 0.95  # opacity of pixels that are compared
SAME_POINT = 0.02  # world units, by which the depths of one point in two frames may differ


def frames_of(scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """Cameras [F, ≥ 3], and of each its colours and opacity [F, 4, S, S] and distances along the rays [F, S, S]."""
    model = EmbeddedDiffusion.from_pretrained(scene.diffusion / "model")
    poses = read_best_poses(scene.diffusion / "poses.json", scene.views)
    sources, cameras = show_photos(model, scene, scene.diffusion, poses)
    circle = orbit(cameras[0])
    with torch.no_grad():
        colours = model.conditional_mean(sources, circle, torch.Generator(), SIZE)
        depths = torch.stack([distances(model, model.lift(sources), camera) for camera in circle])
    return circle, colours, depths


def distances(model: EmbeddedDiffusion, field: Field, camera: Tensor) -> Tensor:
    """Expected distances along a camera's rays, [S, S]."""
    view = render(field, camera[None, None], cam.pixel_grid(SIZE), model.network.config.samples)
    relative = view.depth[0, 0] / view.image[0, 0, :, 3].clamp(min=0.05)
    return (camera[2] + relative * SCENE_BOUND).unflatten(-1, (SIZE, SIZE))


def differences(cameras: Tensor, colours: Tensor, depths: Tensor) -> Tensor:
    """Mean difference in [0, 1] of each frame from the one before, warped into its place, [F]."""
    found = []
    for now, before in zip(range(len(cameras)), [len(cameras) - 1, *range(len(cameras) - 1)]):
        origins, directions = cam.rays(cameras[now], cam.pixel_grid(colours.shape[-1]))
        points = origins + depths[now].flatten()[:, None] * directions
        where, depth = cam.project(cameras[before], points)
        grid = (where * where.new_tensor([1.0, -1.0]))[None, :, None]
        there = F.grid_sample(colours[before, None], grid, align_corners=False)[0, :, :, 0]
        seen = F.grid_sample(depths[before, None, None], grid, align_corners=False)[0, 0, :, 0]
        here = colours[now].flatten(1)
        both = (here[3] > SOLID) & (there[3] > SOLID) & ((seen - depth).abs() < SAME_POINT)
        found.append((here - there)[:3, both].abs().mean())
    return torch.stack(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", type=Path, required=True, help="a file of lines TYPE OBJECT")
    parser.add_argument("--views", default="5")
    arguments = parser.parse_args()
    means = []
    print(f"{FRAMES} frames, {math.degrees(2 * math.pi / FRAMES):.0f}° apart: mean difference after warping, of 255")
    for type_name, object_name in read_object_list(arguments.list):
        means.append(255 * differences(*frames_of(Scene(type_name, object_name, check_views(arguments.views)))).mean())
        print(f"{object_name:32s}{means[-1]:8.2f}", flush=True)
    print(f"{'mean':32s}{np.mean(means):8.2f}")


if __name__ == "__main__":
    with one_line_errors():
        main()
