"""Exposure, roll, principal point and focal length: applied, undone, and found again by training."""

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
from tests.threestudio.test_launch import CAMERAS, config, make_scene, true_field
from threestudio.models.corrections import PhotoCorrections

WIDTHS = {"exposure": 0.15, "roll": 0.06, "shift": 0.04, "focal": 0.04}
# In expected deviations: gains, roll, shift right and up, focal; what is fixed in the mean is zero in the mean.
TRUE = torch.tensor(
    [[1, 1, 1, 0.8, 1, -0.9, 0.5], [-1, -1, -1, -1.2, -0.5, 0.6, -1], [0, 0, 0, 0.5, 0, 0.3, 0.5]]
)  # fmt: skip


def corrections(values: torch.Tensor = TRUE) -> PhotoCorrections:
    module = PhotoCorrections(PhotoCorrections.Config(**WIDTHS), len(values))
    module.values.data = values.clone()
    return module


def distort(images: torch.Tensor, module: PhotoCorrections) -> torch.Tensor:
    """What photos with these corrections show where ideal cameras see images [N, 4, S, S] of premultiplied colour."""
    size = images.shape[-1]
    view = torch.arange(len(images)).repeat_interleave(size**2)
    pixel = module.ideal_pixels(view, cam.pixel_grid(size).repeat(len(images), 1)).detach()
    grid = (pixel * torch.tensor([1.0, -1.0])).view(-1, size, size, 2)
    values = F.grid_sample(images, grid, align_corners=False).permute(0, 2, 3, 1).reshape(-1, 4)
    color, alpha = values[:, :3] + 1 - values[:, 3:], values[:, 3]
    color = module.expose(view, color, alpha).detach()
    return torch.cat([color, alpha[:, None]], 1).view(-1, size, size, 4).permute(0, 3, 1, 2)


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
    photos = distort(ideal, module)
    seen = torch.cat([ideal[:, :3] + 1 - ideal[:, 3:], ideal[:, 3:]], 1)
    assert (photos - seen).abs().max() > 0.2
    assert (module.undo(photos) - seen).abs().max() < 0.02


def test_a_photo_that_is_turned_shows_its_points_turned():
    """Positive values: the content counter-clockwise, to the right and up, larger, brighter."""
    values = torch.tensor([[0, 0, 0, 1.0, 0, 0, 0], [0, 0, 0, 0, 1, 2, 0], [0, 0, 0, 0, 0, 0, 1]])
    module = corrections(values)
    at = torch.tensor([[0.5, 0.0]])  # where the ideal camera sees a point that the photos show at …
    angle, focal = torch.tensor(WIDTHS["roll"]), torch.tensor(WIDTHS["focal"])
    shown = [
        torch.stack([0.5 * angle.cos(), 0.5 * angle.sin()])[None],
        at + torch.tensor([0.04, 0.08]),
        at * focal.exp(),
    ]
    for view, pixel in enumerate(shown):
        torch.testing.assert_close(module.ideal_pixels(torch.tensor([view]), pixel), at)


def test_without_deviations_nothing_is_touched():
    module = PhotoCorrections(PhotoCorrections.Config(), 2)
    pixel, color = torch.rand(5, 2), torch.rand(5, 3)
    view = torch.zeros(5, dtype=torch.long)
    assert torch.equal(module.ideal_pixels(view, pixel), pixel)
    torch.testing.assert_close(module.expose(view, color, torch.rand(5)), color)
    photos = torch.rand(2, 4, 8, 8)
    assert module.undo(photos) is photos


def test_the_mean_photo_is_the_gauge():
    module = corrections(TRUE + torch.tensor([1.0, 2, 3, 4, 5, 6, 7]))
    module.project()
    torch.testing.assert_close(module.values[:, :3], TRUE[:, :3])
    torch.testing.assert_close(module.values[:, 5:], TRUE[:, 5:])
    torch.testing.assert_close(module.values[:, 3:5], TRUE[:, 3:5] + torch.tensor([4.0, 5]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """PSNR on unseen views and field.safetensors' corrections, by whether they were free, from distorted photos."""
    truth = render_images(muted_field(), CAMERAS, 128, 128)
    images = torch.cat([truth.color - 1 + truth.opacity[..., None], truth.opacity[..., None]], -1).permute(0, 3, 1, 2)
    photos = F.interpolate(distort(images, corrections()), size=64, mode="area")
    found = {}
    for free in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ROOT_DIR", str(tmp_path_factory.mktemp("root")))
            scene = make_scene(None, CAMERAS)
            for index, photo in enumerate(photos.permute(0, 2, 3, 1)):
                alpha = photo[..., 3:]
                color = (photo[..., :3] - 1 + alpha) / alpha.clamp(min=1e-3)
                imageio.imwrite(scene.train / f"images/{index:03d}.png", to_uint8(torch.cat([color, alpha], -1)))
            options = [f"system.corrections.{name}={width if free else 0}" for name, width in WIDTHS.items()]
            rates = ["system.correction_rate=[20,0.3,0.03,120]", "system.pose_rate=[20,0.003,0.0005,120]"]
            launch.train(config(3, *options, *rates))
            folder = scene.reconstruction
            cameras = cam.evaluation_grid(read_best_poses(folder / "poses.json", 3)[0])[::6]
            true = render_images(muted_field(), cameras, 32, 96).color.numpy()
            renders = np.stack([imageio.imread(folder / f"test/{index:03d}.png") for index in range(0, 84, 6)]) / 255
            psnr = -10 * np.log10(np.square(renders - true).mean())
            found[free] = psnr, launch.load_file(folder / "field.safetensors")["corrections"]
    return found


def test_training_finds_what_differs_between_photos(runs):
    assert not runs[False][1].any()
    found = runs[True][1]
    # Not rolls: the object's tilt and the elevations can take up much of them.
    for part in (slice(0, 3), slice(5, 6), slice(6, 7)):
        assert (found - TRUE)[:, part].abs().mean() < 0.5 * TRUE[:, part].abs().mean()


def test_unseen_views_gain_by_it(runs):
    assert runs[True][0] > runs[False][0] + 2
