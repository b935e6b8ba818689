"""The rasteriser against the ray caster, and against closed forms."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from trimesh.visual.material import SimpleMaterial

from dataset import rasterise
from dataset.hard_toys import make_hard_toy
from dataset.render import Lighting, Renderer, merge, random_lighting
from dataset.toys import make_toy
from dataset.training_views import random_cameras
from sap3d.cameras import maths as cam

FLAT = Lighting(ambient=1.0, directions=np.array([[0.0, 0, 1]]), intensities=np.array([0.0]))
FRONT = torch.tensor([[0.0, 0.0, 2.0, 0, 0, 0, cam.FIELD_OF_VIEW]])  # on +x: image right is +y, image up is +z


def rasteriser_of(renderer: Renderer) -> rasterise.Rasteriser:
    arrays = rasterise.arrays(renderer.surface)
    return rasterise.Rasteriser({name: torch.from_numpy(np.array(part)) for name, part in arrays.items()})


def square(texture: np.ndarray, half: float) -> trimesh.Trimesh:
    """In the plane x = 0, its texture upright for the camera FRONT."""
    vertices = half * np.array([[0, -1, -1], [0, 1, -1], [0, 1, 1], [0, -1, 1]])
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    visual = trimesh.visual.TextureVisuals(uv=uv, material=SimpleMaterial(image=Image.fromarray(texture)))
    return trimesh.Trimesh(vertices, [[0, 1, 2], [0, 2, 3]], visual=visual, process=False)


def test_texture_is_upright_and_exact():
    texture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    # One texel a pixel: every pixel's centre falls on a texel's centre. The image's corners lie just inside.
    drawn = rasteriser_of(Renderer(square(texture, 2.0 * cam.TAN_HALF_FOV))).render(FRONT, 8, 1, FLAT)[0]
    assert (drawn[..., 3] == 255).all()
    assert np.abs(drawn[..., :3].numpy().astype(int) - texture).max() <= 1


@pytest.mark.parametrize("seed", [5000, 5003])
def test_toys_look_as_ray_casting_shows_them(seed):
    rng = np.random.default_rng(seed)
    cameras, lighting = torch.from_numpy(random_cameras(rng)[::5]), random_lighting(rng)
    renderer = Renderer(make_toy(seed))
    wanted = renderer.render(cameras, 64, 2, lighting).astype(int)
    difference = np.abs(rasteriser_of(renderer).render(cameras, 64, 2, lighting).numpy() - wanted)
    assert difference[..., 3].mean() < 0.02  # of 255: a pixel of an edge at most
    assert difference[wanted[..., 3] > 0].mean() < 0.1


def test_shadows_are_nearly_those_of_ray_casting():
    lighting = Lighting(0.4, np.array([[0.3, 0.5, 0.8], [-1, 0, 0.2]]), np.array([0.5, 0.1]), 0.3, 20.0, 1.5, 0.9)
    cameras = torch.from_numpy(random_cameras(np.random.default_rng(1))[::5])
    renderer = Renderer(make_hard_toy("legs", 3))
    wanted = renderer.render(cameras, 64, 2, lighting).astype(int)
    drawn = rasteriser_of(renderer).render(cameras, 64, 2, lighting).numpy()
    unshaded = rasteriser_of(renderer).render(cameras, 64, 2, replace(lighting, shadow=0.0)).numpy()
    shown = wanted[..., 3] > 0
    error, effect = (np.abs(each - wanted)[shown].mean() for each in (drawn, unshaded))
    assert effect > 1 and error < 0.1 * effect, (error, effect)


def test_depth_and_materials_are_those_of_ray_casting():
    red = square(np.full((4, 4, 3), (200, 0, 0), np.uint8), 0.2)
    red.apply_translation([0.1, -0.2, 0])
    plain = trimesh.creation.icosphere(subdivisions=3, radius=0.3)
    plain.visual.face_colors = [0, 0, 200, 255]
    renderer = Renderer(merge(trimesh.Scene([red, plain])))
    cameras = torch.from_numpy(random_cameras(np.random.default_rng(2))[:4])
    wanted, drawn = renderer.depth(cameras, 64), rasteriser_of(renderer).depth(cameras, 64).numpy()
    hit = np.isfinite(wanted)
    assert (np.isfinite(drawn) == hit).mean() > 0.9995
    np.testing.assert_allclose(drawn[hit & np.isfinite(drawn)], wanted[hit & np.isfinite(drawn)], atol=1e-4)
    colours = rasteriser_of(renderer).render(FRONT, 32, 1, FLAT)[0].numpy()
    assert (colours == renderer.render(FRONT, 32, 1, FLAT)[0]).all()


def test_work_in_parts_changes_nothing(monkeypatch):
    cameras = torch.from_numpy(random_cameras(np.random.default_rng(3))[:3])
    rasteriser = rasteriser_of(Renderer(make_toy(5001)))
    together = rasteriser.render(cameras, 32, 1, FLAT)
    monkeypatch.setattr(rasterise, "CANDIDATES", 500)
    assert torch.equal(rasteriser.render(cameras, 32, 1, FLAT), together)


def test_nothing_in_view_is_an_empty_picture():
    away = torch.tensor([[0.0, 0.0, 2.0, 5.0, 0, 0, cam.FIELD_OF_VIEW]])  # the principal point lies far outside
    rasteriser = rasteriser_of(Renderer(make_toy(5002)))
    assert not rasteriser.render(away, 16, 2, FLAT).any() and rasteriser.depth(away, 16).isinf().all()
