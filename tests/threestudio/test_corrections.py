"""Exposure and white balance: applied, undone, and found again by training."""

from functools import partial

import imageio.v3 as imageio
import launch
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sap3d.cameras import maths as cam
from sap3d.cameras.poses import read_best_poses
from sap3d.images import to_uint8
from tests.renders import render_images
from tests.threestudio.scenes import CAMERAS, NO_FLOOR, config, make_scene, true_field
from threestudio.models.corrections import PhotoCorrections

WIDTH = 0.15
# Logarithms of gains in expected deviations; none in the mean.
TRUE = torch.tensor([[1.0, 1.2, 0.9], [-1.0, -1.1, -1.2], [0.0, -0.1, 0.3]])


def corrections(values: torch.Tensor = TRUE) -> PhotoCorrections:
    module = PhotoCorrections(PhotoCorrections.Config(WIDTH), len(values))
    module.values.data = values.clone()
    return module


def exposed(images: torch.Tensor, module: PhotoCorrections) -> torch.Tensor:
    """What photos with these gains show of images [N, 4, S, S] of premultiplied colour."""
    size = images.shape[-1]
    view = torch.arange(len(images)).repeat_interleave(size**2)
    values = images.permute(0, 2, 3, 1).reshape(-1, 4)
    color = module.expose(view, values[:, :3] + 1 - values[:, 3:], values[:, 3]).detach()
    return torch.cat([color, values[:, 3:]], 1).view(-1, size, size, 4).permute(0, 3, 1, 2)


def muted_field() -> torch.Tensor:
    """The balls in colours that a gain does not drive out of range."""
    field = true_field()
    return torch.cat([field[:1], field[1:].clamp(-1.0, 0.8)])


def blobs(size: int) -> torch.Tensor:
    """Smooth premultiplied pictures, [3, 4, size, size]."""
    grid = cam.pixel_grid(size)
    centres = torch.tensor([[0.3, 0.2], [-0.3, 0.1], [0.0, -0.35]])
    bumps = (-((grid[:, None] - centres) ** 2).sum(-1) / 0.05).exp().T.view(3, size, size)
    picture = torch.cat([0.8 * bumps, bumps.sum(0, keepdim=True).clamp(max=1)])
    return torch.stack([picture, picture.flip(-1), picture.flip(-2)])


def test_undo_gives_what_ideal_cameras_see():
    ideal, module = blobs(128), corrections()
    photos = exposed(ideal, module)
    seen = torch.cat([ideal[:, :3] + 1 - ideal[:, 3:], ideal[:, 3:]], 1)
    assert (photos - seen).abs().max() > 0.1
    assert (module.undo(photos) - seen).abs().max() < 1e-5


def test_a_bright_photo_shows_brighter_colours_and_white_as_it_is():
    module, view = corrections(), torch.tensor([0, 0])
    color = module.expose(view, torch.tensor([[0.5, 0.4, 0.3], [1.0, 1.0, 1.0]]), torch.tensor([1.0, 0.0]))
    gains = (WIDTH * TRUE[0]).exp()
    torch.testing.assert_close(color, torch.stack([torch.tensor([0.5, 0.4, 0.3]) * gains, torch.ones(3)]))


def test_without_deviations_nothing_is_touched():
    module = PhotoCorrections(PhotoCorrections.Config(0.0), 2)
    module.values.data.fill_(1.0)
    color = torch.rand(5, 3)
    torch.testing.assert_close(module.expose(torch.zeros(5, dtype=torch.long), color, torch.rand(5)), color)
    module.values.data.zero_()
    photos = torch.rand(2, 4, 8, 8)
    assert module.undo(photos) is photos


def test_the_mean_photo_is_the_gauge():
    module = corrections(TRUE + torch.tensor([1.0, 2, 3]))
    module.project()
    torch.testing.assert_close(module.values, TRUE - TRUE.mean(0))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """PSNR on unseen views and field.safetensors' corrections, by whether they were free, from distorted photos."""
    truth = render_images(muted_field(), CAMERAS, 128, 128)
    images = torch.cat([truth.color - 1 + truth.opacity[..., None], truth.opacity[..., None]], -1).permute(0, 3, 1, 2)
    photos = F.interpolate(exposed(images, corrections()), size=64, mode="area")
    found = {}
    for free in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ROOT_DIR", str(tmp_path_factory.mktemp("root")))
            scene = make_scene(None, CAMERAS)
            for index, photo in enumerate(photos.permute(0, 2, 3, 1)):
                alpha = photo[..., 3:]
                color = (photo[..., :3] - 1 + alpha) / alpha.clamp(min=1e-3)
                imageio.imwrite(scene.train / f"images/{index:03d}.png", to_uint8(torch.cat([color, alpha], -1)))
            options = [f"system.corrections.exposure={WIDTH if free else 0}"]
            rates = ["system.correction_rate=[20,0.3,0.03,120]", "system.pose_rate=[20,0.003,0.0005,120]"]
            patch.setattr(launch, "export", partial(launch.export, mesh=False))
            grid = cam.evaluation_grid
            patch.setattr(cam, "evaluation_grid", lambda camera, grid=grid: grid(camera)[::6])
            launch.train(config(3, *options, *rates, NO_FLOOR))
            folder = scene.reconstruction
            cameras = cam.evaluation_grid(read_best_poses(folder / "poses.json", 3)[0])
            true = render_images(muted_field(), cameras, 32, 96).color.numpy()
            renders = np.stack([imageio.imread(path) for path in sorted((folder / "test").iterdir())]) / 255
            psnr = -10 * np.log10(np.square(renders - true).mean())
            found[free] = psnr, launch.load_file(folder / "field.safetensors")["corrections"]
    return found


def test_training_finds_what_differs_between_photos(runs):
    assert not runs[False][1].any()
    found = runs[True][1]
    assert (found - TRUE).abs().mean() < 0.5 * TRUE.abs().mean()


def test_unseen_views_gain_by_it(runs):
    assert runs[True][0] > runs[False][0] + 0.2
