import pytest
import torch

from sap3d.cameras import maths as cam
from sap3d.field import grid as dense
from sap3d.field.occupancy import Occupancy
from sap3d.field.rendering import distortion, render, render_image, render_rays
from tests.renders import render_images
from tests.threestudio.fields import ball

CAMERA = torch.tensor([0.4, 0.3, 1.7])
# With a principal point, a roll and a field of view of its own.
CAMERAS = [CAMERA, torch.tensor([0.4, 0.3, 1.7, 0.1, -0.05]), torch.tensor([0.4, 0.3, 2.2, 0.1, 0.0, 0.5, 0.7])]


def blobs(resolution=24, seed=0):
    """Soft and hard places, and much emptiness."""
    noise = torch.randn(1, 4, 6, 6, 6, generator=torch.Generator().manual_seed(seed))
    grid = dense.resize(noise * 12, resolution)[0]
    grid[0] -= 14
    return grid


def rays(camera, size):
    origins, directions = cam.rays(camera, cam.pixel_grid(size, camera.device))
    return origins.expand_as(directions), directions


def skipping(grid, camera, size, samples, margin=2, **options):
    """Rays of an image before white, without what is empty."""
    space = Occupancy.of(grid[0].detach(), margin=margin, **options)
    return render_rays(dense.Grids(grid[None]), *rays(camera, size), space, samples, len(grid[0]) // 2).on(1.0)


@pytest.mark.parametrize("camera", CAMERAS, ids=["3", "5", "7"])
@pytest.mark.parametrize("grid", [ball(32, 0.35), blobs()], ids=["ball", "blobs"])
def test_rays_that_skip_what_is_empty_equal_plain_rendering(grid, camera, device):
    grid, camera = grid.to(device), camera.to(device)
    assert 0.01 < Occupancy.of(grid[0], 1e-3, 2).nodes.float().mean() < 0.9
    skipped = skipping(grid, camera, 24, 400, min_opacity=1e-3)
    plain = render(grid[None], camera[None, None], cam.pixel_grid(24, device), 800)
    torch.testing.assert_close(skipped.color, plain.color[0, 0], atol=5e-3, rtol=0)
    torch.testing.assert_close(skipped.opacity, plain.opacity[0, 0], atol=5e-3, rtol=0)
    torch.testing.assert_close(skipped.depth, plain.depth[0, 0], atol=8e-3, rtol=0)


@pytest.mark.parametrize("camera", CAMERAS, ids=["3", "5", "7"])
@pytest.mark.parametrize("size", [32, 30])
def test_an_image_equals_plain_rendering(size, camera, device):
    grid, camera = ball(32, 0.35, centre=(0.1, -0.1, 0.05)).to(device), camera.to(device)
    space = Occupancy.of(grid[0], min_opacity=1e-2, margin=0)
    image, plain = (
        render_image(dense.Grids(grid[None]), camera, size, space, 64, 32).on(1.0),
        render_images(grid, camera[None], size, 512),
    )
    # Both sample a hard surface at their own places, so that single pixels of the outline differ.
    assert (image.color - plain.color.view(-1, 3)).abs().mean() < 2e-3
    opacity = plain.opacity.flatten()
    assert (image.opacity - opacity).abs().mean() < 2e-3
    assert (image.depth - plain.depth.flatten()).abs()[opacity > 0.99].max() < 0.02


def test_nothing_is_seen_of_an_empty_field(device):
    grid = torch.zeros(4, 8, 8, 8, device=device)
    grid[0] = -20
    space = Occupancy.of(grid[0], min_opacity=1e-2, margin=2)
    assert not space.nodes.any()
    image = render_image(dense.Grids(grid[None]), CAMERA.to(device), 16, space, 64, 8).on(1.0)
    assert (image.color == 1).all() and (image.opacity == 0).all()


def test_gradients_equal_plain_rendering(device):
    grid = ball(32, 0.25, centre=(0.1, -0.1, 0.05), sharpness=60).to(device).requires_grad_()
    camera = CAMERA.to(device).requires_grad_()

    def gradients(rendering):
        return torch.autograd.grad(rendering.color.square().sum() + rendering.opacity.sum(), [grid, camera])

    values, pose = gradients(skipping(grid, camera, 24, 100, min_opacity=1e-4))
    expected_values, expected_pose = gradients(render(grid[None], camera[None, None], cam.pixel_grid(24, device), 200))
    # Gradients of what is skipped are left out.
    assert torch.cosine_similarity(values.flatten(), expected_values.flatten(), 0) > 0.999
    torch.testing.assert_close(pose, expected_pose, atol=0.5, rtol=0.02)


def test_jitter_is_alike_for_all_fields_of_a_batch(device):
    grids, cameras = blobs().to(device).expand(2, -1, -1, -1, -1), CAMERA.to(device).expand(2, 3, -1)
    pixels = cam.pixel_grid(8, device)
    generator = torch.Generator(device)
    jittered = render(grids, cameras, pixels, 12, generator.manual_seed(0))
    assert torch.equal(jittered.color[0], jittered.color[1])
    assert not torch.equal(jittered.color[0, 0], jittered.color[0, 1]), "but its own for each view"
    again = render(grids, cameras, pixels, 12, generator.manual_seed(0))
    assert torch.equal(jittered.color, again.color)
    assert not torch.equal(jittered.color, render(grids, cameras, pixels, 12).color)


def test_distortion_is_the_double_sum(device):
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(5, 7, generator=generator).to(device)
    middles = torch.rand(5, 7, generator=generator).sort(-1).values.to(device)
    expected = (weights[:, :, None] * weights[:, None] * (middles[:, :, None] - middles[:, None]).abs()).sum((1, 2))
    expected += weights.square().sum(-1) * 0.1 / 3
    torch.testing.assert_close(distortion(weights, middles, 0.1), expected)
