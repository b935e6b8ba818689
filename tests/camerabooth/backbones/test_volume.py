"""The embedded model's volume: geometry in float32, what it does not depend on, and renders against closed forms."""

import math

import pytest
import torch

from camerabooth.backbones.embedded import rendering
from camerabooth.backbones.embedded import volume as vol
from camerabooth.backbones.embedded.network import EmbeddedConfig, Reconstructor
from sap3d.cameras import maths as cam
from sap3d.cameras.maths import SCENE_BOUND
from tests.renders import render_images

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
    """A dense ball about the origin, of a colour of its own, beside two black photos that nothing wishes for."""
    side = (resolution,) * 3
    density = ((radius - vol.grid_points(resolution, torch.zeros(1)).norm(dim=-1)) * 400).clamp(-20, 30)
    values = torch.tensor([*colour, 30.0])[None, :, None, None, None].expand(1, -1, *side)
    black, wish = torch.full((1, 2, 4, 8, 8), -1.0), torch.zeros(1, 2, 4, 4, 4)
    return vol.Field(density.reshape(1, 1, *side), values, torch.zeros(1), wish, black, cameras((0, 0), (0, 90)))


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


def test_a_thin_sheet_has_the_colours_of_where_it_is():
    """Whatever sample of a group is dense: colours are looked up there, not at the group's middle."""
    resolution = 64
    field = ball(0.4, (0.0, 0.0, 0.0), resolution)
    planes = torch.linspace(0, 1, resolution)  # red grows along x, the axis that the camera looks along
    field.values = field.values.clone()
    field.values[:, 0] = planes
    for plane in (20, 30, 41):
        field.density = torch.full_like(field.density, -20.0)
        field.density[..., plane] = 30.0
        view = rendering.render(field, cameras((0, 0)), torch.zeros(1, 2), 64)
        assert view.image[0, 0, 0, 0].item() == pytest.approx(planes[plane].item(), abs=0.6 / resolution)


def test_pixel_positions_are_exact_under_autocast(model, monkeypatch):
    """To a thousandth of a pixel of 128, where bf16 would lose half a pixel."""
    asked, look_up = [], vol.look_up
    monkeypatch.setattr(vol, "look_up", lambda maps, pixels: asked.append(pixels) or look_up(maps, pixels))
    these = cameras((10, 0), (40, 170), roll=0.2, view=35.0)
    with torch.no_grad():
        model(sources(2), these)
    assert [pixels.shape[2] for pixels in asked] == [12**3, 12**3]
    exact, _ = cam.project(these.double(), vol.grid_points(12, these.double()).expand(1, 2, -1, -1))
    for pixels in asked:
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


def test_colours_come_from_the_source_that_is_wished_for():
    """With all weight on the sources, a red and a blue photo mix to what the weights say."""
    red, blue = torch.tensor([1.0, -1, -1, 1]), torch.tensor([-1.0, -1, 1, 1])
    field = ball(0.4, (1.0, 1.0, 1.0))
    field.images = torch.stack([red, blue])[None, :, :, None, None].expand(1, 2, 4, 32, 32)
    field.wish = torch.tensor([math.log(3), 0.0])[None, :, None, None, None].expand(1, 2, 4, 4, 4)
    points = torch.rand(1, 5, 3, generator=torch.Generator().manual_seed(0)) * 0.4 - 0.2
    none, all_own = torch.full((1, 5, 1), -30.0), torch.full((1, 5, 1), 30.0)
    own = torch.full((1, 5, 3), 0.4)
    expected = torch.tensor([0.75, 0, 0.25]).expand(1, 5, 3)
    torch.testing.assert_close(vol.blended(field, points, own, none), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(vol.blended(field, points, own, all_own), own, atol=1e-5, rtol=0)


def test_a_large_image_is_rendered_only_where_there_is_something(monkeypatch):
    field, camera, size = ball(0.3, (0.9, 0.5, 0.1)), cameras((20, 50))[0, 0], 96
    whole = rendering.render(field, camera[None, None], cam.pixel_grid(size), 32).image[0, 0].T.view(4, size, size)
    rays, render = [], rendering.render
    monkeypatch.setattr(rendering, "render", lambda *args: rays.append(args[2].shape[-2]) or render(*args))
    image = rendering.render_image(field, camera, size, 32)
    torch.testing.assert_close(image, whole, atol=1e-2, rtol=0)
    assert rays[0] == rendering.COARSE**2 and 0.1 < rays[1] / size**2 < 0.5


def test_without_gradients_colours_are_looked_up_only_where_there_is_something(monkeypatch):
    field, target, pixels = ball(0.3, (0.9, 0.5, 0.1)), cameras((20, 50)), cam.pixel_grid(24)
    whole, asked, blended = rendering.render(field, target, pixels, 32), [], rendering.blended
    monkeypatch.setattr(rendering, "blended", lambda *args: asked.append(args[1].shape[1]) or blended(*args))
    with torch.no_grad():
        view = rendering.render(field, target, pixels, 32)
        torch.testing.assert_close(view.image, whole.image, atol=8 * rendering.NEGLIGIBLE, rtol=0)
        nothing = rendering._values(field, torch.zeros(1, 0, 3))
    assert 0 < asked[0] < 24**2 and nothing.shape == (1, 0, 3)


def test_a_raw_grid_is_the_same_field_in_the_worlds_frame():
    """A ball beside the axis, seen by a first source at 50° of azimuth: its dense grid renders as the field does."""
    field = ball(0.25, (0.9, 0.5, 0.1))
    where = vol.grid_points(48, torch.zeros(1)) - torch.tensor([0.15, 0.05, -0.1])
    field.density = ((0.25 - where.norm(dim=-1)) * 400).clamp(-20, 30).reshape(1, 1, 48, 48, 48)
    field.azimuth = torch.tensor([math.radians(50)])
    field.cameras = vol.turned(cameras((0, 50), (0, 140)), field.azimuth)
    camera = cameras((20, -30))[0, 0]
    known = rendering.render_image(field, camera, 48, 96)
    dense = render_images(vol.raw_grid(field, 64), camera[None], 48, 96)
    found = torch.cat([dense.color, dense.opacity[..., None]], -1)[0].permute(2, 0, 1)
    assert known[3].mean() > 0.05 and (found - known).abs().mean() < 5e-3
