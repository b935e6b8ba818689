"""Speed of stage 3 on this machine: with empty space left out, against plain dense sampling and against the memory.

    python benchmarks/reconstruction.py --threads 1 --seconds 5

Fits a toy's field from five photos at true cameras by configs/sap3d.yaml, with the untuned model as its prior. Then, at
each of the schedule's resolutions, a step on the photos' rays (field and cameras) and a test view are timed with the
renderer as it is, and with one that evaluates as closely spaced samples everywhere. Last, the step's other parts, and
how fast interpolation reads and writes, against a copy.
"""

import argparse
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.diffusion import rate
from camerabooth.backbones.embedded.model import EMBEDDED_WEIGHTS
from dataset.prepare import prepare
from sap3d.cameras import maths as cam
from sap3d.cameras.poses import write_poses
from sap3d.field import grid as dense
from sap3d.runs.cores import available_cores
from sap3d.runs.devices import seed_everything, step_generator
from sap3d.runs.training import fit
from sap3d.scene import Scene
from sap3d.views import read_poses

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "3D_Recon/threestudio"))
import launch  # noqa: E402

from threestudio.config import build, milestone, scheduled  # noqa: E402
from threestudio.models.renderers.culled import CulledRenderer  # noqa: E402
from threestudio.systems.sap3d import SAP3D  # noqa: E402

TOY, VIEWS = "toy_000", 5
IMAGE = 256  # pixels a side


def fitted() -> tuple[SAP3D, float]:
    """A system after all its steps, and the seconds they took."""
    prepare("toy_demo", TOY, VIEWS)
    scene = Scene("toy_demo", TOY, VIEWS)
    cameras = read_poses(scene.train, VIEWS)
    cameras[:, 1] = cam.wrap_angle(cameras[:, 1] - cameras[0, 1].clone())
    write_poses(scene.diffusion / "poses.json", cameras[None], [0.0])
    names = ["data.type=toy_demo", f"data.object={TOY}", f"data.views={VIEWS}"]
    config = launch.read_config(launch.DEFAULT, [*names, f"system.guidance.model={EMBEDDED_WEIGHTS}"])
    seed_everything(0)
    system = build(config["system"], build(config["data"], 0), cameras)
    start = time.perf_counter()
    fit(system, config["trainer"]["max_steps"], torch.device("cpu"), scene.reconstruction, "benchmark")
    return system, time.perf_counter() - start


def photo_step(system: SAP3D, step: int) -> None:
    """Losses on the photos' rays at a step, and their gradients."""
    losses = system.photo_losses(system.batches.draw(step), step_generator(0, step), refine=True)
    descend(system, losses, step)


def roughness_step(system: SAP3D, step: int) -> None:
    """The field's bending and variation, and their gradients."""
    descend(system, system.roughness(step_generator(0, step)), step)


def descend(system: SAP3D, losses: dict[str, Tensor], step: int) -> None:
    system.zero_grad()
    sum(scheduled(getattr(system.config, f"{name}_weight"), step) * loss for name, loss in losses.items()).backward()


def plain(system: SAP3D, renderer: CulledRenderer) -> CulledRenderer:
    """A renderer without occupancy, whose samples along the whole ray are as close as the other's."""
    everywhere = round(renderer.config.samples_per_node * system.geometry.resolution)
    options = CulledRenderer.Config(samples=everywhere, image_samples=4 * renderer.config.image_samples)
    return CulledRenderer(options, renderer.geometry)


def compare(system: SAP3D, step: int, seconds: float) -> None:
    """Print a line: milliseconds of a step and of an image, each without and with what is plain."""
    culled = system.renderer
    system.geometry.resize(milestone(system.geometry.config.resolution, step))
    culled.update_occupancy()
    camera = system.poses.cameras()[0]
    times: dict[str, list[float]] = {"step": [], "image": []}
    for renderer in (culled, plain(system, culled)):
        system.renderer = renderer
        times["step"].append(1e3 / rate(partial(photo_step, system, step), seconds))
        times["image"].append(1e3 / rate(partial(renderer.image, camera, IMAGE), seconds))
    system.renderer = culled
    rays = system.batches.rays / times["step"][0]
    (ours, other), (image, other_image) = times["step"], times["image"]
    print(f"{system.geometry.resolution:10d}³ {milestone(system.batches.sizes, step):6d}² {ours:10.1f} {other:10.1f} "
          f"{other / ours:6.1f} {rays:12.1f} {image:12.0f} {other_image:10.0f} {other_image / image:6.1f}")  # fmt: skip


def interpolation(system: SAP3D, seconds: float) -> tuple[float, float]:
    """Billions of bytes a second that interpolation reads at random points (8 nodes of 4 values each), and that it
    reads and writes with its gradients."""
    points = torch.rand(1, 100_000, 3) * 0.8 - 0.4
    size = points[..., 0].numel() * 8 * 4 * 4 / 1e9
    grid = system.geometry.grid

    def both() -> None:
        dense.sample(grid, points).sum().backward()

    with torch.no_grad():
        forwards = rate(partial(dense.sample, grid, points), seconds)
    return size * forwards, 2 * size * rate(both, seconds)


def copy_bandwidth(seconds: float) -> float:
    """Billions of bytes a second that copying 256 MB reads and writes."""
    source = torch.zeros(64 * 2**20)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / 1e9 * rate(partial(target.copy_, source), seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(available_cores()))
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ROOT_DIR"] = folder
        system, spent = fitted()
    report(system, spent, arguments)


def report(system: SAP3D, spent: float, arguments: argparse.Namespace) -> None:
    """Print everything."""
    print(f"{arguments.threads} threads; all steps, with the prior: {spent:.0f} s")
    print(f"{'resolution':>11s} {'photos':>7s} {'step, ms':>10s} {'plain':>10s} {'times':>6s} {'rays/ms':>12s} "
          f"{f'{IMAGE}², ms':>12s} {'plain':>10s} {'times':>6s}")  # fmt: skip
    for step, _ in system.geometry.config.resolution:
        compare(system, step, arguments.seconds)
    roughness = 1e3 / rate(partial(roughness_step, system, step), arguments.seconds)
    adam = 1e3 / rate(system.configure_optimizers().step, arguments.seconds)
    every = system.config.roughness_every
    print(f"at the last resolution: bending and variation, every {every} steps, {roughness:.1f} ms; Adam {adam:.1f} ms")
    read, both = interpolation(system, arguments.seconds)
    print(f"interpolation at random points: {read:.1f} GB/s, with gradients {both:.1f} GB/s; "
          f"copying: {copy_bandwidth(arguments.seconds):.1f} GB/s")  # fmt: skip


if __name__ == "__main__":
    main()
