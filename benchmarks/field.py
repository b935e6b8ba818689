"""Speed of the field library on this machine: joint fits as stages 1 and 2 run them, rays and images as stage 3 does.

    python benchmarks/field.py --device cpu --threads 1 --repeats 3

Prints the least milliseconds of several repeats (other work on the machine only adds to them), on the CPU of its time:
of a step of a batch of joint fits to five views, cameras moving, or of one at held cameras; of a training step on 4096
rays of a field of 64³ with the field's gradients, and of an image of 256², both also by torch where the CPU's rays are
compiled. The field is a coloured ball.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sap3d.cameras import maths as cam
from sap3d.field import grid as dense
from sap3d.field.rendering import render_views
from sap3d.field.synthesis import Level, joint_fit

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "3D_Recon/threestudio"))
from threestudio.models.geometry.dense_grid import DenseGrid  # noqa: E402
from threestudio.models.renderers.culled import CulledRenderer  # noqa: E402

RAYS, RESOLUTION, IMAGE = 4096, 64, 256
CAMERAS = torch.tensor([[0.3, 0.0, 1.8], [0.5, 1.4, 2.0], [0.1, 2.9, 1.7], [0.4, -1.5, 1.9], [0.2, -0.7, 1.8]])
LEVELS = {  # of relposepp.verify.Effort and camerabooth.main, with how many fits a batch
    "scout, 16 fits": (16, Level(16, 32, steps=12, pixels=64, samples=16)),
    "middle, 16 fits": (16, Level(16, 32, steps=12, pixels=96, samples=16)),
    "last, 3 fits": (3, Level(32, 64, steps=10, pixels=320, samples=32)),
    "held cameras, 1 fit": (1, Level(32, 64, steps=10, pixels=320, samples=32, pose_rate=0.0)),
}


def ball(resolution: int, device: torch.device) -> Tensor:
    """A grid [4, R, R, R]: a solid ball, red above, green below."""
    axis = torch.linspace(-dense.SCENE_BOUND, dense.SCENE_BOUND, resolution, device=device)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    density = ((0.4 - (x.square() + y.square() + z.square()).sqrt()) * 200 + 5).clamp(-15, 25)
    return torch.stack([density, 6 * z.sign(), -6 * z.sign(), torch.full_like(z, -6.0)])


def least(function: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Milliseconds of the fastest of several calls, after one that is not counted; processor time on the CPU."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times = []
    for _ in range(repeats + 1):
        start = clock()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1e3 * (clock() - start))
    return min(times[1:])


class Uncompiled(DenseGrid):
    """A grid of which the renderer does not know that it is one, so that torch computes its rays."""

    @property
    def field(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        return lambda points: dense.Grids(self.grid)(points)


def stage3(kind: type[DenseGrid], device: torch.device) -> CulledRenderer:
    """Stage 3's renderer of the ball."""
    geometry = kind(DenseGrid.Config())
    geometry.load({"grid": ball(RESOLUTION, device)})
    renderer = CulledRenderer(CulledRenderer.Config(), geometry)
    renderer.update_occupancy()
    return renderer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    measure = partial(least, repeats=arguments.repeats, device=device)
    cameras = CAMERAS.to(device)
    images = render_views(ball(32, device), cameras, 64, 48)
    for name, (count, level) in LEVELS.items():
        hypotheses = cameras.expand(count, -1, -1).contiguous()
        # The difference of two lengths leaves out the start and the final loss.
        short, long = (
            measure(partial(joint_fit, images, hypotheses, replace(level, steps=steps)))
            for steps in (2, 2 + level.steps)
        )
        print(f"{name:24s} {(long - short) / level.steps:8.1f} ms a step")
    generator = torch.Generator(device).manual_seed(0)
    pixels = 1.2 * torch.rand(len(CAMERAS), RAYS // len(CAMERAS), 2, generator=generator, device=device) - 0.6
    origins, directions = cam.rays(cameras, pixels)
    origins, directions = (part.expand(pixels.shape[:2] + (3,)).reshape(-1, 3) for part in (origins, directions))

    def step(renderer: CulledRenderer) -> None:
        rendering = renderer(origins, directions, generator)
        (rendering.color.square().mean() + rendering.distortion.mean()).backward()

    for kind, how in ((DenseGrid, ""), (Uncompiled, ", by torch")):
        renderer = stage3(kind, device)
        print(f"{'training rays' + how:24s} {measure(partial(step, renderer)):8.1f} ms a step")
        print(f"{'image' + how:24s} {measure(partial(renderer.image, cameras[0], IMAGE)):8.1f} ms")


if __name__ == "__main__":
    main()
