"""The renderer against closed forms."""

import math

import numpy as np
import torch
import trimesh
from PIL import Image
from trimesh.visual.material import SimpleMaterial

from dataset.render import Lighting, Renderer, merge, random_lighting
from sap3d.cameras import maths as cam

FLAT = Lighting(ambient=1.0, directions=np.array([[0.0, 0, 1]]), intensities=np.array([0.0]))
FRONT = torch.tensor([[0.0, 0.0, 2.0]])  # on +x, looking along −x: image right is +y, image up is +z


def quad(image: np.ndarray | None, half: float = 0.5, uv_scale: float = 1.0) -> trimesh.Trimesh:
    """A square in the plane x = 0, its texture upright for the camera FRONT."""
    vertices = half * np.array([[0, -1, -1], [0, 1, -1], [0, 1, 1], [0, -1, 1]])
    uv = uv_scale * np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    material = SimpleMaterial(image=None if image is None else Image.fromarray(image), diffuse=[10, 20, 30, 255])
    visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    return trimesh.Trimesh(vertices, [[0, 1, 2], [0, 2, 3]], visual=visual, process=False)


def full_frame() -> float:
    """Half side of the square at the origin that fills FRONT's image exactly."""
    return 2.0 * cam.TAN_HALF_FOV


def test_texture_is_upright_and_exact():
    texture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    # One texel a pixel: every pixel's centre falls on a texel's centre.
    image = Renderer(quad(texture, full_frame())).render(FRONT, 8, 1, FLAT)[0]
    assert (image[..., 3] == 255).all()
    assert np.abs(image[..., :3].astype(int) - texture).max() <= 1


def test_texture_seen_from_behind_is_mirrored():
    texture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    behind = torch.tensor([[0.0, math.pi, 2.0]])
    image = Renderer(quad(texture, full_frame())).render(behind, 8, 1, FLAT)[0]
    assert np.abs(image[..., :3].astype(int) - texture[:, ::-1]).max() <= 1


def test_texture_repeats():
    texture = np.zeros((4, 4, 3), np.uint8)
    texture[:2, :2] = (255, 0, 0)
    image = Renderer(quad(texture, full_frame(), uv_scale=2)).render(FRONT, 8, 1, FLAT)[0]
    assert np.abs(image[..., :3].astype(int) - np.tile(texture, (2, 2, 1))).max() <= 1


def test_fine_texture_does_not_alias():
    checkers = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    image = Renderer(quad(np.dstack([checkers] * 3), full_frame())).render(FRONT, 16, 1, FLAT)[0]
    assert np.abs(image[..., :3].astype(int) - 127).max() <= 2


def test_coverage_is_antialiased():
    half = full_frame() * 0.375  # in an 8-pixel image the edges lie at 2.5 and 5.5 pixels
    alpha = Renderer(quad(None, half)).render(FRONT, 8, 4, FLAT)[0, ..., 3] / 255
    edge = np.array([0, 0, 0.5, 1, 1, 0.5, 0, 0])
    np.testing.assert_allclose(alpha, np.outer(edge, edge), atol=1 / 255)


def test_colour_is_not_premultiplied():
    image = Renderer(quad(None, full_frame() * 0.375)).render(FRONT, 8, 4, FLAT)[0]
    assert (image[image[..., 3] > 0][:, :3] == (10, 20, 30)).all()


def test_sphere_silhouette_and_depth():
    radius, distance, size = 0.5, 2.0, 128
    renderer = Renderer(trimesh.creation.icosphere(subdivisions=5, radius=radius))
    camera = torch.tensor([[0.4, 1.0, distance]])
    # The silhouette cone's half-angle is asin(r / d); it meets the image plane at tan of it.
    pixel_radius = math.tan(math.asin(radius / distance)) / cam.TAN_HALF_FOV * size / 2
    area = renderer.render(camera, size, 2)[0, ..., 3].sum() / 255
    assert abs(area / (math.pi * pixel_radius**2) - 1) < 0.005
    x, y = cam.pixel_grid(size).numpy().T * cam.TAN_HALF_FOV
    slope = 1 + x**2 + y**2
    discriminant = distance**2 - slope * (distance**2 - radius**2)
    depth = renderer.depth(camera, size).reshape(-1)
    inside, outside = discriminant > 0.01, discriminant < 0
    expected = (distance - np.sqrt(discriminant[inside])) / slope[inside]
    np.testing.assert_allclose(depth[inside], expected, atol=1e-3)
    assert np.isinf(depth[outside]).all()


def test_projected_vertex_lands_on_its_pixel():
    centre = np.array([0.2, -0.3, 0.25])
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.02)
    ball.apply_translation(centre)
    cameras = torch.tensor([[0.3, 0.7, 1.8], [-0.4, 2.5, 1.6], [1.2, -2.0, 2.1]])
    images = Renderer(ball).render(cameras, 128, 8)
    pixels, _ = cam.project(cameras, torch.tensor(centre).float()[None])
    for image, (x, y) in zip(images, pixels[:, 0].tolist(), strict=True):
        weight = image[..., 3] / 255
        rows, columns = np.indices(weight.shape) + 0.5
        assert abs((weight * columns).sum() / weight.sum() - (x + 1) * 64) < 0.1
        assert abs((weight * rows).sum() / weight.sum() - (1 - y) * 64) < 0.1


def test_shading_is_fixed_in_the_world():
    # Light from above only: the top of a grey sphere is brighter than its bottom, whatever the azimuth.
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    light = Lighting(ambient=0.2, directions=np.array([[0.0, 0, 1]]), intensities=np.array([0.8]))
    images = Renderer(sphere).render(torch.tensor([[0.0, 0.0, 2.0], [0.0, 2.0, 2.0]]), 64, 2, light).astype(int)
    assert np.abs(images[0, ..., :3] - images[1, ..., :3])[images[0, ..., 3] == 255].max() <= 3
    column = images[0, :, 32]
    rows = np.flatnonzero(column[:, 3] == 255)
    assert (np.diff(column[rows, 0]) <= 0).all() and column[rows[0], 0] > 3 * column[rows[-1], 0]


def test_smooth_and_sharp_normals():
    one_light = Lighting(ambient=0.0, directions=np.array([[0.0, 0, 1]]), intensities=np.array([1.0]))
    top = torch.tensor([[math.pi / 2, 0.0, 2.0]])
    box = Renderer(trimesh.creation.box((0.6, 0.6, 0.6))).render(top, 32, 1, one_light)[0]
    assert (box[box[..., 3] == 255][:, 0] == 180).all()  # a box's faces stay flat though they share vertices
    sphere = Renderer(trimesh.creation.icosphere(subdivisions=2, radius=0.5)).render(top, 64, 1, one_light)[0]
    shades = np.unique(sphere[sphere[..., 3] == 255][:, 0])
    assert len(shades) > 80  # smooth: many more shades than the facets' rings of a coarse sphere


def test_merge_keeps_each_texture():
    red, blue = np.full((4, 4, 3), (200, 0, 0), np.uint8), np.full((8, 2, 3), (0, 0, 200), np.uint8)
    left, right = quad(red, 0.2), quad(blue, 0.2)
    left.apply_translation([0, -0.25, 0])
    right.apply_translation([0, 0.25, 0])
    image = Renderer(merge(trimesh.Scene([left, right]))).render(FRONT, 32, 1, FLAT)[0]
    assert (image[16, 10] == (200, 0, 0, 255)).all() and (image[16, 21] == (0, 0, 200, 255)).all()


def test_vertex_colours_interpolate():
    mesh = quad(None, full_frame())
    mesh.visual = trimesh.visual.ColorVisuals(
        mesh, vertex_colors=[[0, 0, 0, 255], [200, 0, 0, 255], [200, 0, 0, 255], [0, 0, 0, 255]]
    )
    image = Renderer(mesh).render(FRONT, 8, 1, FLAT)[0]
    np.testing.assert_allclose(image[3, :, 0], (np.arange(8) + 0.5) / 8 * 200, atol=1)


def test_batches_do_not_change_the_images(monkeypatch):
    cameras = torch.tensor([[0.3, 0.7, 1.8], [-0.4, 2.5, 1.6], [1.2, -2.0, 2.1]])
    lighting = random_lighting(np.random.default_rng(3))
    renderer = Renderer(trimesh.creation.torus(0.35, 0.12))
    together = renderer.render(cameras, 32, 2, lighting)
    monkeypatch.setattr("dataset.render.RAYS_PER_BATCH", 1)
    assert (renderer.render(cameras, 32, 2, lighting) == together).all()
