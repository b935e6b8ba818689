"""What the denoiser is told: renders in their places, sources warped to where they were taken."""

import torch

from camerabooth.backbones.embedded.guide import guide, warp
from camerabooth.backbones.embedded.volume import Field, grid_points, turned
from sap3d.cameras.maths import SCENE_BOUND

SIZE = 32
VIEWS = torch.tensor([[[0.2, 0.3, 1.8], [0.1, 1.0, 1.9]]])


def ball(images: torch.Tensor, wish: torch.Tensor, radius: float = 0.4, resolution: int = 32) -> Field:
    """A dense ball, grey by itself, with one feature; photos of VIEWS, wished for as [N] says everywhere."""
    side = (resolution,) * 3
    density = ((radius - grid_points(resolution, torch.zeros(1)).norm(dim=-1)) * 400).clamp(-20, 30)
    values = torch.full((1, 5, *side), 0.5)
    values[:, 3] = 30.0 if wish.isneginf().all() else -30.0
    wish = wish.clamp(min=-30)[None, :, None, None, None].expand(1, -1, 4, 4, 4)
    azimuth, cameras = VIEWS[:, 0, 1], turned(VIEWS, VIEWS[:, 0, 1])[:, : images.shape[1]]
    return Field(density.reshape(1, 1, *side), values, azimuth, wish, images, cameras)


def photos(count: int) -> torch.Tensor:
    """Smooth random images in [−1, 1], [1, N, 4, S, S]."""
    noise = torch.rand(count, 4, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.interpolate(noise, size=(SIZE, SIZE), mode="bilinear")[None]


def test_a_source_warped_to_its_own_camera_is_itself_whatever_the_depth():
    images = photos(1)
    depth = torch.rand(1, 1, SIZE // 2, SIZE // 2, generator=torch.Generator().manual_seed(1)) - 0.5
    warped = warp(ball(images, torch.zeros(1)), VIEWS[:, :1], depth)
    torch.testing.assert_close(warped[:, :4], images[0], atol=2e-4, rtol=0)
    assert warped[:, 4].abs().max() < 1e-6


def test_wishes_decide_between_sources_and_their_variance_is_told():
    images = torch.tensor([-1.0, 1.0])[None, :, None, None, None].expand(1, 2, 4, SIZE, SIZE)
    told, _ = guide(ball(images, torch.tensor([0.0, 1.0986])), VIEWS[:, :1], samples=32)
    middle = told.warped[0, :, SIZE // 2, SIZE // 2]
    torch.testing.assert_close(middle, torch.tensor([0.5, 0.5, 0.5, 0.5, 0.75]), atol=1e-3, rtol=0)


def test_renders_say_colour_opacity_depth_and_features():
    target = torch.tensor([[[0.2, 0.9, 1.8]]])
    told, view = guide(ball(photos(2), torch.full((2,), -torch.inf)), target, samples=64)
    side = SIZE // 2
    assert told.rendered.shape == (1, 6, side, side) and told.warped.shape == (1, 5, SIZE, SIZE)
    middle = told.rendered[0, :, side // 2, side // 2]
    torch.testing.assert_close(middle[[0, 1, 2, 3, 5]], torch.tensor([0.0, 0, 0, 1, 0.5]), atol=2e-3, rtol=0)
    assert abs(middle[4].item() * SCENE_BOUND + 0.4) < 0.03
    torch.testing.assert_close(told.rendered[0, :, 0, 0], torch.tensor([1.0, 1, 1, -1, 0, 0]), atol=2e-3, rtol=0)
    torch.testing.assert_close(told.rendered[0, :3].flatten(1).T * 0.5 + 0.5, view.image[0, 0, :, :3])


def test_nothing_is_told_of_dropped_targets():
    told, _ = guide(ball(photos(2), torch.zeros(2)), VIEWS, samples=16)
    left = told.dropped(torch.tensor([True, False]))
    assert not left.rendered[0].any() and not left.warped[0].any()
    assert torch.equal(left.rendered[1], told.rendered[1]) and torch.equal(left.warped[1], told.warped[1])


def test_gradients_reach_target_cameras_through_the_warp():
    target = torch.tensor([[[0.2, 0.9, 1.8]]], requires_grad=True)
    told, _ = guide(ball(photos(2), torch.zeros(2)), target, samples=16)
    told.warped.square().sum().backward()
    assert target.grad.abs().min() > 0
