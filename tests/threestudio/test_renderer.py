import torch

from sap3d.field.rendering import Rendering
from tests.renders import render_images
from tests.threestudio.fields import ball, renderer

CAMERA = torch.tensor([0.4, 0.3, 1.7])


def close(image: Rendering, plain: Rendering) -> bool:
    return (image.color - plain.color[0]).abs().mean() < 2e-3 and (image.opacity - plain.opacity[0]).abs().mean() < 2e-3


def test_an_image_is_of_the_geometry_before_the_background():
    grid = ball(32, 0.35, centre=(0.1, -0.1, 0.05))
    module = renderer(grid)
    module.update_occupancy(margin=0)
    assert close(module.image(CAMERA, 30), render_images(grid, CAMERA[None], 30, 512))


def test_the_floor_stays_when_the_occupancy_is_renewed():
    module = renderer(ball(32, 0.35))
    module.floor = 0.0
    module.update_occupancy(margin=0)
    image = module.image(torch.tensor([0.0, 0.0, 1.7]), 32)
    assert image.opacity[:14].max() > 0.9 and image.opacity[18:].max() == 0


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
