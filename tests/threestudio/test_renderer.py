import pytest
import torch

from sap3d.cameras import maths as cam
from sap3d.field import grid as dense
from tests.renders import render_images
from tests.threestudio.fields import ball, renderer
from threestudio.models.renderers.culled import distortion

CAMERA = torch.tensor([0.4, 0.3, 1.7])


def plain(grid, camera, size, samples):
    return render_images(grid, camera[None], size, samples)


def blobs(resolution=24, seed=0):
    """Soft and hard places, and much emptiness."""
    noise = torch.randn(1, 4, 6, 6, 6, generator=torch.Generator().manual_seed(seed))
    grid = dense.resize(noise * 12, resolution)[0]
    grid[0] -= 14
    return grid


@pytest.mark.parametrize("grid", [ball(32, 0.35), blobs()], ids=["ball", "blobs"])
def test_culled_rays_equal_plain_rendering(grid):
    module = renderer(grid, min_opacity=1e-3)
    module.update_occupancy()
    assert 0.01 < module.occupancy.float().mean() < 0.9
    pixels = cam.pixel_grid(24)
    origins, directions = cam.rays(CAMERA, pixels)
    culled = module(origins.expand_as(directions), directions, samples=400)
    reference = dense.render(grid[None], CAMERA[None, None], pixels, 800)
    torch.testing.assert_close(culled.color, reference.color[0, 0], atol=5e-3, rtol=0)
    torch.testing.assert_close(culled.opacity, reference.opacity[0, 0], atol=5e-3, rtol=0)
    torch.testing.assert_close(culled.depth, reference.depth[0, 0], atol=8e-3, rtol=0)


@pytest.mark.parametrize("size", [32, 30])
def test_image_equals_plain_rendering(size):
    grid = ball(32, 0.35, centre=(0.1, -0.1, 0.05))
    module = renderer(grid)
    module.update_occupancy(margin=0)
    image, reference = module.image(CAMERA, size), plain(grid, CAMERA, size, 512)
    # Both sample a hard surface at their own places, so that single pixels of the outline differ.
    assert (image.color - reference.color[0]).abs().mean() < 2e-3
    assert (image.opacity - reference.opacity[0]).abs().mean() < 2e-3
    inside = reference.opacity[0] > 0.99
    assert (image.depth - reference.depth[0]).abs()[inside].max() < 0.02


def test_dropped_floaters_are_in_no_image():
    alone, beside = ball(48, 0.35), ball(48, 0.35)
    beside[0] = beside[0].maximum(ball(48, 0.05, centre=(0.0, 0.55, 0.3))[0])
    images = []
    for grid in (alone, beside, beside):
        module = renderer(grid)
        module.update_occupancy(margin=0)
        if len(images) == 2:
            module.drop_floaters()
        images.append(module.image(CAMERA, 96).opacity)
    assert (images[1] - images[0]).max() > 0.9
    torch.testing.assert_close(images[2], images[0])
    module.config.smallest = 0.001  # of the ball's volume, the other's being about a hundredth
    module.update_occupancy(margin=0)
    module.drop_floaters()
    torch.testing.assert_close(module.image(CAMERA, 96).opacity, images[1])


def test_empty_field_is_background():
    grid = torch.zeros(4, 8, 8, 8)
    grid[0] = -20
    module = renderer(grid)
    module.update_occupancy()
    assert not module.occupancy.any()
    image = module.image(CAMERA, 16)
    assert (image.color == 1).all() and (image.opacity == 0).all()


def test_gradients_equal_plain_rendering():
    grid = ball(32, 0.25, centre=(0.1, -0.1, 0.05), sharpness=60)
    module = renderer(grid, min_opacity=1e-4)
    module.update_occupancy()
    pixels = cam.pixel_grid(24)

    def gradients(render, *inputs):
        color, opacity = render()
        return torch.autograd.grad(color.square().sum() + opacity.sum(), inputs)

    camera = CAMERA.clone().requires_grad_()
    leaf = grid.clone().requires_grad_()

    def reference():
        rendering = dense.render(leaf[None], camera[None, None], pixels, 200)
        return rendering.color, rendering.opacity

    def culled():
        origins, directions = cam.rays(camera, pixels)
        rendering = module(origins.expand_as(directions), directions, samples=100)
        return rendering.color, rendering.opacity

    values, pose = gradients(culled, module.geometry.values, camera)
    expected_values, expected_pose = gradients(reference, leaf, camera)
    # Gradients of what is culled are left out.
    assert torch.cosine_similarity(values.permute(3, 0, 1, 2).flatten(), expected_values.flatten(), 0) > 0.999
    torch.testing.assert_close(pose, expected_pose, atol=0.5, rtol=0.02)


def test_occupancy_is_conservative():
    grid = blobs()
    module = renderer(grid)
    module.update_occupancy(margin=0)
    points = (torch.rand(20000, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1) * dense.SCENE_BOUND
    density, _ = module.geometry(points)
    assert (1 - (-density * module.geometry.spacing).exp())[~module.occupied(points)].max() < module.config.min_opacity


def test_distortion_is_the_double_sum():
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(5, 7, generator=generator)
    middles = torch.rand(5, 7, generator=generator).sort(-1).values
    expected = (weights[:, :, None] * weights[:, None] * (middles[:, :, None] - middles[:, None]).abs()).sum((1, 2))
    expected += weights.square().sum(-1) * 0.1 / 3
    torch.testing.assert_close(distortion(weights, middles, 0.1), expected)
