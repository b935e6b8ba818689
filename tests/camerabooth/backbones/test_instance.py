"""What is fitted to one object: a field that does not see its own photo, features that explain photos, cameras."""

import math

import pytest
import torch

from camerabooth.backbones.embedded import instance
from camerabooth.backbones.embedded.model import EMBEDDED_WEIGHTS, EmbeddedDiffusion
from camerabooth.backbones.embedded.rendering import render
from camerabooth.backbones.embedded.volume import Field
from camerabooth.evaluate import psnr
from dataset.render import Renderer
from dataset.toys import make_toy
from dataset.training_views import white_composite
from sap3d.cameras import maths as cam

SIZE = 128


@pytest.fixture(scope="module")
def photos():
    """Six views of a toy [6, 4, S, S] at cameras [6, 3], the first at azimuth 0."""
    azimuth = torch.arange(6) * (math.pi / 3)
    cameras = torch.stack([torch.tensor([0.2, 0.5, 0.2, 0.6, 0.3, 0.4]), azimuth, torch.full((6,), 1.8)], -1)
    return white_composite(torch.from_numpy(Renderer(make_toy(3)).render(cameras, SIZE))), cameras


@pytest.fixture(scope="module")
def network():
    """The trained one: what it knows of shapes carries over to views that are not given."""
    return EmbeddedDiffusion.from_pretrained(EMBEDDED_WEIGHTS).network.requires_grad_(False)


def views(network, images, cameras, features, targets):
    """Renders of the fitted field at targets, [M, 4, S, S]."""
    latents = images[None] * 2 - 1
    field = network.volume(latents, cameras[None], network.encode(latents), False, features)
    view = render(field, targets[None], cam.pixel_grid(SIZE), 48)
    return view.image[0].transpose(1, 2).unflatten(-1, (SIZE, SIZE))


def test_features_explain_the_photos_and_spoil_nothing_else(network, photos):
    images, cameras = photos
    given = torch.tensor([0, 1, 2, 4, 5])
    options = instance.InstanceFit(steps=30, rays=400, pose_rate=0.0)
    features, way = instance.fit_instance(network, images[given], cameras[given], 1, options, seed=0)
    torch.testing.assert_close(cam.wrap_angle(way - cameras[given]), torch.zeros(31, 5, 3), atol=1e-6, rtol=0)
    with torch.no_grad():
        before = views(network, images[given], cameras[given], None, cameras)
        after = views(network, images[given], cameras[given], features, cameras)
    assert psnr(after, images)[given].mean() > psnr(before, images)[given].mean() + 0.3
    assert psnr(after, images)[3] > psnr(before, images)[3] - 0.3, "what was not given stays as likely"


def test_a_camera_that_was_off_comes_back(network, photos):
    images, cameras = photos
    off = cameras.clone()
    off[2, 1] += 0.15
    options = instance.InstanceFit(steps=40, rays=400, pose_rate=5e-3)
    _, way = instance.fit_instance(network, images, off, 1, options, seed=0)
    assert len(way) == 41 and not torch.equal(way[-2], way[-1])
    torch.testing.assert_close(cam.wrap_angle(way[0] - off), torch.zeros(6, 3), atol=1e-6, rtol=0)
    assert cam.wrap_angle(way[-1] - cameras)[2, 1].abs() < 0.11
    assert way[-1][0, 1] == 0, "the first camera's azimuth is the gauge"


def test_no_source_sees_its_own_photo():
    wish, rows = torch.randn(1, 3, 2, 2, 2), torch.randn(1, 3, 4, 8, 8)
    grid = torch.randn(1, 4, 4, 4, 4)
    field = instance.others_fields(Field(grid[:, :1], grid, torch.zeros(1), wish, rows, torch.zeros(1, 3, 3)))
    own = torch.eye(3, dtype=torch.bool)
    assert (field.wish[own] == instance.LEFT_OUT).all()
    assert torch.equal(field.wish[~own].view(3, 2, 2, 2, 2), wish.expand(3, -1, -1, -1, -1)[~own].view(3, 2, 2, 2, 2))
    assert field.images.shape == (3, 3, 4, 8, 8) and field.density.shape == (3, 1, 4, 4, 4)
