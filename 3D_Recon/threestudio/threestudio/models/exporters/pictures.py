"""Pictures of the field: the evaluation views, a turntable, the inputs beside their re-renders and the errors."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as imageio
import matplotlib
import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from sap3d.cameras import maths as cam
from sap3d.field import grid as dense
from sap3d.field.rendering import Rendering
from sap3d.files import atomic_file, atomic_folder, write_video
from sap3d.images import sheet, to_uint8
from threestudio.models.renderers.culled import CulledRenderer

PREVIEW = "preview.png"  # in the folder of a training run
PREVIEW_SIZE, PREVIEW_EVERY = 128, 40  # pixels, steps
WORST = 0.5  # error of a pixel's colour, mean over its channels, that is drawn brightest


class Preview(pl.Callback):
    """Shows the field as it evolves: seen from the first photo, and from a quarter, a half and three quarters on."""

    def __init__(self, path: Path):
        self.path = path

    @torch.no_grad()
    def on_train_batch_end(self, trainer, system, outputs, batch, step: int) -> None:
        if (step + 1) % PREVIEW_EVERY:
            return
        cameras = system.poses.cameras()[:1].repeat(4, 1)
        cameras[:, 1] += torch.arange(4) * math.pi / 2
        images = [system.renderer.image(camera, PREVIEW_SIZE).color.cpu() for camera in cameras]
        with atomic_file(self.path) as partial:
            imageio.imwrite(partial, sheet(to_uint8(torch.stack(images)), 4))


class PictureExporter:
    """Writes test/000.png …, turntable.mp4 and inputs.png."""

    @dataclass
    class Config:
        size: int = 256
        frames: int = 120
        fps: int = 24

    def __init__(self, config: Config, renderer: CulledRenderer):
        self.config, self.renderer = config, renderer

    def write(self, folder: Path, photos: Tensor, cameras: Tensor) -> None:
        """Args: photos: colour on white and alpha, [N, 4, S, S]; cameras: [N, 3]."""
        self.renderer.update_occupancy(margin=0)
        self.renderer.drop_floaters()
        self.write_inputs(folder / "inputs.png", photos, cameras)
        self.write_test_views(folder / "test", cameras[0])
        self.write_turntable(folder / "turntable.mp4", cameras[0])

    def render(self, cameras: Tensor, label: str) -> Iterator[Rendering]:
        """Images of cameras [V, 3] in order."""
        with single_threads() as pool:
            images = pool.map(lambda camera: self.renderer.image(camera, self.config.size), cameras)
            yield from tqdm(images, desc=label, total=len(cameras), unit="image")

    def write_test_views(self, folder: Path, reference: Tensor) -> None:
        """The 84 views of `sap3d.cameras.maths.evaluation_grid` about a reference camera [≥ 3], RGB on white."""
        with atomic_folder(folder) as partial:
            for index, image in enumerate(self.render(cam.evaluation_grid(reference), "test views")):
                imageio.imwrite(partial / f"{index:03d}.png", to_uint8(image.color))

    def write_inputs(self, path: Path, photos: Tensor, cameras: Tensor) -> None:
        """Rows: photos, the field at their cameras, and where the two differ, from black to yellow."""
        size = self.config.size
        photos = F.interpolate(photos[:, :3].cpu(), size=size, mode="area").permute(0, 2, 3, 1)
        renders = torch.stack([image.color.cpu() for image in self.render(cameras, "inputs")])
        errors = colored((renders - photos).abs().mean(-1) / WORST, "inferno")
        with atomic_file(path) as partial:
            imageio.imwrite(partial, sheet(to_uint8(torch.cat([photos, renders, errors])), len(cameras)))

    def write_turntable(self, path: Path, reference: Tensor) -> None:
        """RGB | normal | depth | opacity once around the object, from a reference camera's [≥ 3] elevation and
        radius."""
        cameras = cam.plain(reference).repeat(self.config.frames, 1)
        cameras[:, 1] += torch.arange(self.config.frames) * (2 * math.pi / self.config.frames)
        normals = normal_grid(self.renderer.geometry.grid.detach())
        images = self.render(cameras, "turntable")
        write_video(path, (frame(image, camera, normals) for image, camera in zip(images, cameras)), self.config.fps)


def colored(values: Tensor, name: str) -> Tensor:
    """Colours [..., 3] of values [...] in matplotlib's map of that name, from 0 to 1."""
    return torch.from_numpy(matplotlib.colormaps[name](values.cpu().numpy())[..., :3]).float()


@contextmanager
def single_threads() -> Iterator[ThreadPoolExecutor]:
    """A pool of a worker for each thread, whose tensor operations keep to one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def normal_grid(grid: Tensor) -> Tensor:
    """Outward directions (not unit) from a grid [1, 4, R, R, R]: minus the gradient of its smoothed raw density.

    Returns:
        x, y and z components, [1, 3, R, R, R].
    """
    smooth = F.avg_pool3d(F.pad(grid[:, :1], (1,) * 6, mode="replicate"), 3, 1)[0, 0]
    return -torch.stack(torch.gradient(smooth)[::-1])[None]


def frame(image: Rendering, camera: Tensor, normals: Tensor) -> np.ndarray:
    """A turntable frame from an image [S, S] and its camera [3], uint8 [S, 4 S, 3]: RGB | world normal | depth |
    opacity (black is opaque)."""
    opacity, camera = image.opacity[..., None], camera.to(image.opacity.device)
    depth = image.depth[..., None] / opacity.clamp(min=1e-4)
    origins, directions = cam.rays(camera, cam.pixel_grid(len(opacity), camera.device))
    points = origins + depth.view(-1, 1) * directions
    normal = F.normalize(dense.sample(normals, points[None])[0], dim=-1).view_as(image.color)
    near = (camera[2] + dense.SCENE_BOUND - depth) / (2 * dense.SCENE_BOUND)  # 1 is nearest
    shade = colored(near[..., 0], "turbo").to(opacity)
    layers = (normal / 2 + 0.5, shade, torch.zeros_like(shade))
    return to_uint8(torch.cat([image.color, *(layer * opacity + 1 - opacity for layer in layers)], 1))
