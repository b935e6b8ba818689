"""The embedded model's volume: geometry in float32, what it does not depend on, and renders against closed forms."""

import math

import pytest
import torch

from camerabooth.backbones.embedded import rendering
from camerabooth.backbones.embedded import volume as vol
from camerabooth.backbones.embedded.network import EmbeddedConfig, Reconstructor
from sap3d.cameras import maths as cam
from sap3d.cameras.maths import SCENE_BOUND

TINY = EmbeddedConfig(
    encoder_widths=(8, 8, 16), source_channels=16, volume_widths=(8, 8, 8), resolution=12, field_features=2
)


def cameras(*degrees: tuple[float, float], roll: float = 0.0, view: float = 49.1) -> torch.Tensor:
    """Cameras of one object at (elevation, azimuth), [1, N, 7]."""
    rows = [(math.radians(e), math.radians(a), 1.8, 0.0, 0.0, roll, math.radians(view)) for e, a in degrees]
    return torch.tensor(rows)[None]


def sources(count: int, seed: int = 0) -> torch.Tensor:
    """Random smooth images, [1, N, 4, 32, 32]."""
    noise = torch.rand(count, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, size=(32, 32), mode="bilinear")[None]


@pytest.fixture(scope="module")
def model() -> Reconstructor:
    torch.manual_seed(0)
    model = Reconstructor(TINY).eval()
    for module in model.modules():  # nothing may be zero only because it begins so
        if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d):
            torch.nn.init.normal_(module.weight, std=0.1)
    return model


def ball(radius: float, colour: tuple[float, float, float], resolution: int = 48) -> vol.Field:
    """A dense ball about the origin."""
    distance = vol.grid_points(resolution, torch.zeros(1)).norm(dim=-1)
    density = ((radius - distance) * 400).clamp(-20, 30)
    values = torch.stack([density, *(torch.full_like(density, c) for c in colour)])
    grid = values.reshape(1, 4, resolution, resolution, resolution)
    return vol.Field(grid, torch.zeros(1), torch.zeros(1, 2, 4, 4, 4))


def test_a_ball_is_rendered_as_its_outline_and_depth():
    radius, size = 0.4, 64
    view = rendering.render(ball(radius, (0.9, 0.5, 0.1)), cameras((20, 50)), cam.pixel_grid(size), 96)
    silhouette = math.tan(math.asin(radius / 1.8)) / cam.TAN_HALF_FOV * size / 2
    # The surface lies within half a cell (0.014 world units) of the radius.
    assert abs(view.image[..., 3].sum().item() / (math.pi * silhouette**2) - 1) < 0.07
    middle = (size // 2) * size + size // 2
    torch.testing.assert_close(view.image[0, 0, middle], torch.tensor([0.9, 0.5, 0.1, 1.0]), atol=1e-3, rtol=0)
    assert abs(view.depth[0, 0, middle].item() * SCENE_BOUND + radius) < 0.03
    assert view.image[0, 0, 0].tolist() == pytest.approx([1, 1, 1, 0], abs=1e-4)


def test_compositing_has_the_derivatives_of_the_plain_formula():
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn(3, 5, 6, dtype=torch.float64, generator=generator) * 3 + 3).requires_grad_()
    spacing = (torch.rand(3, dtype=torch.float64, generator=generator) * 0.3 + 0.01).requires_grad_()
    assert torch.autograd.gradcheck(rendering._Composite.apply, (values, spacing))
    weights, rendered = rendering._Composite.apply(values, spacing)
    expected, _ = rendering.grids.composite(rendering.grids.activate_density(values[..., 0]) * spacing[..., None])
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(rendered, (expected[..., None] * values).sum(-2))


def test_pixel_positions_are_exact_under_autocast(model, monkeypatch):
    """To a thousandth of a pixel of 128, where bf16 would lose half a pixel."""
    asked, look_up = [], vol.look_up
    monkeypatch.setattr(vol, "look_up", lambda maps, pixels: asked.append(pixels) or look_up(maps, pixels))
    these = cameras((10, 0), (40, 170), roll=0.2, view=35.0)
    with torch.no_grad():
        model(sources(2), these)
    assert [pixels.shape[2] for pixels in asked] == [12**3, 12**3, 24**3]
    for pixels, resolution in zip(asked, (12, 12, 24), strict=True):
        points = vol.grid_points(resolution, these.double())
        exact, _ = cam.project(these.double(), points.expand(1, 2, -1, -1))
        assert (pixels - exact).abs().max().item() * 64 < 1e-3


def test_cell_centred_sampling_meets_its_nodes():
    """A field that is linear in space is reproduced at any point between the outermost nodes."""
    resolution, slope = 16, torch.tensor([0.3, -0.2, 0.5])
    values = (vol.grid_points(resolution, torch.zeros(1)) @ slope).reshape(1, 1, resolution, resolution, resolution)
    points = (torch.rand(1, 50, 3, generator=torch.Generator().manual_seed(0)) - 0.5) * 1.1
    sampled = rendering.sample_grid(values, points)
    torch.testing.assert_close(sampled[..., 0], points @ slope, atol=1e-5, rtol=0)


def test_shuffle_puts_each_part_at_its_place():
    x = torch.arange(2 * 8 * 27.0).reshape(1, 16, 3, 3, 3)
    fine = vol._shuffle(x)
    assert fine.shape == (1, 2, 6, 6, 6)
    for channel in range(2):
        for z, y, x_ in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)):
            part = x[0, channel * 8 + z * 4 + y * 2 + x_]
            assert torch.equal(fine[0, channel, z::2, y::2, x_::2], part)


def test_renders_do_not_depend_on_the_worlds_azimuth_or_the_other_sources_order(model):
    images, these, target = sources(3), cameras((10, 0), (20, 80), (5, 200)), cameras((30, 45))
    turn = torch.tensor([0.0, 1.1, 0, 0, 0, 0, 0])
    pixels = cam.pixel_grid(16)
    with torch.no_grad():
        plain = rendering.render(model(images, these), target, pixels, 16)
        turned = rendering.render(model(images, these + turn), target + turn, pixels, 16)
        order = torch.tensor([0, 2, 1])
        shuffled = rendering.render(model(images[:, order], these[:, order]), target, pixels, 16)
    # The networks compute in bf16 where that is fast.
    torch.testing.assert_close(turned.image, plain.image, atol=2e-2, rtol=0)
    torch.testing.assert_close(shuffled.image, plain.image, atol=2e-2, rtol=0)
    assert plain.image.std() > 0.01


def test_gradients_reach_the_cameras(model):
    these, target = cameras((10, 0), (20, 80)).requires_grad_(), cameras((30, 45)).requires_grad_()
    rendering.render(model(sources(2), these), target, cam.pixel_grid(8), 16).image.square().sum().backward()
    assert these.grad[..., :3].abs().min() > 0 and target.grad[..., :3].abs().min() > 0


def test_colours_come_from_the_source_that_is_wished_for(model):
    """With all weight on the sources, a red and a blue photo mix to what the weights say."""
    red, blue = torch.tensor([1.0, -1, -1, 1]), torch.tensor([-1.0, -1, 1, 1])
    images = torch.stack([red, blue])[None, :, :, None, None].expand(1, 2, 4, 32, 32)
    wish = torch.zeros(1, 2, 12, 12, 12)
    wish[:, 0] = math.log(3)
    own_logit, own = torch.full((1, 1, 24, 24, 24), -30.0), torch.ones(1, 3, 24, 24, 24)
    colours = model.volume._blend(images, cameras((0, 0), (0, 90)), wish, own_logit, own)
    torch.testing.assert_close(colours[0, :, 12, 12, 12], torch.tensor([0.75, 0, 0.25]), atol=1e-5, rtol=0)
