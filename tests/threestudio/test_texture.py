"""Baking: texels lie where they should, photos colour what they see and nothing else."""

import math

import numpy as np
import torch
import trimesh

from sap3d.cameras.maths import full_cameras, pixel_grid, project, rays
from sap3d.cameras.symmetry import turned
from threestudio.models.exporters.texture import Atlas, bake, bands, blocks_of, looks, rasterise, unwrap

GREY = 128
RADIUS = 0.45
CAMERAS = full_cameras(torch.tensor([[0.3, 0.0, 1.8], [0.2, 1.2, 2.0]]))
CAMERAS[1, 5:] = torch.tensor([0.5, 0.7])  # tilted, with another lens


def ball() -> trimesh.Trimesh:
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=RADIUS)
    mesh.visual.vertex_colors = np.full((len(mesh.vertices), 4), GREY, np.uint8)
    return mesh


def painted(normal: np.ndarray) -> np.ndarray:
    """A smooth colour for every direction."""
    return 0.5 + 0.4 * np.stack([normal[..., 0], np.sin(3 * normal[..., 2]), -normal[..., 1]], -1)


def photos_of_ball(size: int = 256) -> torch.Tensor:
    """Photos of the painted ball, ray traced in closed form, [2, 4, S, S]."""
    origins, directions = rays(CAMERAS, pixel_grid(size).expand(2, -1, -1))
    directions = torch.nn.functional.normalize(directions, dim=-1)
    along = -(origins * directions).sum(-1)
    discriminant = along**2 - (origins**2).sum(-1) + RADIUS**2
    hit = discriminant > 0
    points = origins + (along - discriminant.clamp(min=0).sqrt())[..., None] * directions
    color = torch.from_numpy(painted(points.numpy() / RADIUS)).float()
    image = torch.cat([torch.where(hit[..., None], color, torch.ones(())), hit[..., None].float()], -1)
    return image.transpose(1, 2).reshape(2, 4, size, size)


def texture_at(mesh: trimesh.Trimesh, faces: np.ndarray) -> np.ndarray:
    """The texture's colours in the middles of faces [K], in [0, 1], [K, 3]."""
    picture = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB")) / 255
    u, v = (mesh.visual.uv[mesh.faces[faces]].mean(1) * len(picture)).T
    return picture[(len(picture) - v).astype(int), u.astype(int)]


def test_texels_lie_on_their_faces():
    square = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    uv = np.array([[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]])
    texels = rasterise(Atlas(square, uv, np.arange(4)), size=64)
    points = texels.interpolate(square.vertices)
    # The square covers the texture's middle: its coordinates are 2 u − 1/2 and 2 v − 1/2, rows run downwards.
    inside = (np.abs(np.stack([texels.column, texels.row]) - 31.5) < 16).all(0)
    assert inside.sum() == 32 * 32
    np.testing.assert_allclose(points[inside, 0], 2 * (texels.column[inside] + 0.5) / 64 - 0.5, atol=1e-6)
    np.testing.assert_allclose(points[inside, 1], 2 * (1 - (texels.row[inside] + 0.5) / 64) - 0.5, atol=1e-6)


def test_unwrapping_keeps_the_surface():
    mesh = ball()
    atlas = unwrap(mesh)
    assert atlas.uv.min() >= 0 and atlas.uv.max() <= 1
    np.testing.assert_allclose(atlas.mesh.volume, mesh.volume)
    np.testing.assert_array_equal(atlas.mesh.vertices, mesh.vertices[atlas.source])
    np.testing.assert_array_equal(atlas.source[atlas.mesh.faces], mesh.faces)
    np.testing.assert_allclose(atlas.mesh.vertex_normals, atlas.mesh.vertices / RADIUS, atol=0.02)


def test_a_ball_gets_the_colours_of_its_photos_where_they_see_it():
    mesh = bake(ball(), photos_of_ball(), CAMERAS, size=512).mesh
    normals = mesh.triangles_center / np.linalg.norm(mesh.triangles_center, axis=1, keepdims=True)
    elevation, azimuth, *_ = CAMERAS.T.numpy()
    eyes = np.stack([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], -1)
    facing = (normals @ eyes.T).max(1)
    seen, hidden = np.flatnonzero(facing > 0.7), np.flatnonzero(facing < -0.1)
    colors = texture_at(mesh, seen)
    assert np.abs(colors - painted(normals[seen])).mean() < 0.01
    assert np.percentile(np.abs(colors - painted(normals[seen])), 99) < 0.05
    np.testing.assert_allclose(texture_at(mesh, hidden), GREY / 255, atol=0.01)


def test_what_lies_behind_is_not_painted():
    front, behind = (trimesh.creation.box((0.02, 0.5, 0.5)).apply_translation((x, 0, 0)) for x in (0.3, -0.3))
    mesh = trimesh.util.concatenate([front, behind])
    camera = torch.tensor([[0.0, 0.0, 1.8]])
    photo = torch.ones(1, 4, 64, 64)
    points = np.array([[0.31, 0.0, 0.0], [-0.29, 0.0, 0.0], [-0.29, 0.0, 0.24]])
    assert project(camera[0], torch.from_numpy(points).float())[0].abs().max() < 1  # all within the photo
    normals = np.tile([1.0, 0.0, 0.0], (3, 1))
    np.testing.assert_allclose(weights(mesh, points, normals, photo, camera), [1 / 1.49**2, 0, 0], rtol=1e-5)
    # Turned away, or on the photo's background, nothing is taken either.
    assert weights(mesh, points[:1], -normals[:1], photo, camera) == 0
    photo[:, 3] = 0
    assert weights(mesh, points[:1], normals[:1], photo, camera) == 0


def weights(mesh, points, normals, photos, cameras, sharpness: float = 4.0) -> np.ndarray:
    """Of points [P, 3], summed over photos."""
    alone = np.arange(len(points))
    points, normals = points.astype(np.float32), normals.astype(np.float32)
    total = np.zeros(len(points))
    for look in looks(mesh, points, normals, normals, (alone, alone), bands(photos), cameras, sharpness):
        total[look.seen] += look.weight
    return total


def test_oblique_looks_weigh_less():
    plate = trimesh.creation.box((0.02, 1, 1))
    cameras = torch.tensor([[0.0, math.radians(60), 2.0]])
    point, normal = np.array([[0.01, 0.0, 0.0]]), np.array([[1.0, 0.0, 0.0]])
    weight = weights(plate, point, normal, torch.ones(1, 4, 64, 64), cameras, sharpness=2.0)
    eye = 2 * np.array([0.5, math.sin(math.radians(60))]) - [0.01, 0]
    distance = np.linalg.norm(eye)
    np.testing.assert_allclose(weight, (eye[0] / distance) ** 2 / distance**2, rtol=1e-5)


def test_bands_add_up_to_the_photo():
    photo = torch.rand(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    photo[:, 3] = 1
    low, high, _ = bands(photo).split((3, 3, 1), 1)
    torch.testing.assert_close(low + high, photo[:, :3])
    assert low.std() < 0.5 * photo[:, :3].std()


def test_what_is_low_is_of_the_foreground_alone():
    photo = torch.ones(1, 4, 64, 64)
    photo[..., 32:], photo[:, :3, :, :32] = 0, 0.25
    low = bands(photo)[:, :3]
    torch.testing.assert_close(low[..., :32], torch.full((1, 3, 64, 32), 0.25))


def test_photos_unlike_in_exposure_meet_without_a_seam():
    """Two photos of a grey plate, one of them brighter."""
    plate = trimesh.creation.box((0.02, 1, 1))
    for _ in range(4):
        plate = plate.subdivide()
    plate.visual.vertex_colors = np.full((len(plate.vertices), 4), GREY, np.uint8)
    cameras = torch.tensor([[0.0, -0.6, 1.8], [0.0, 0.6, 1.8]])
    photos = torch.ones(2, 4, 128, 128)
    photos[0, :3], photos[1, :3] = 0.4, 0.6
    mesh = bake(plate, photos, cameras, size=256).mesh
    front = np.flatnonzero((mesh.triangles_center[:, 0] > 0.0099) & (np.abs(mesh.triangles_center[:, 2]) < 0.2))
    order = front[np.argsort(mesh.triangles_center[front, 1])]
    colors = texture_at(mesh, order)[:, 0]
    assert colors[0] < 0.5 < colors[-1], "each side is the photo's that looks at it"
    assert np.abs(np.diff(colors)).max() < 0.04


def test_fine_print_is_that_of_the_best_photo():
    """A photo that looks head on, and one that looks askance, a little beside: stripes do not blur each other."""
    plate = trimesh.creation.box((0.02, 1, 1))
    plate.visual.vertex_colors = np.full((len(plate.vertices), 4), GREY, np.uint8)
    cameras = torch.tensor([[0.0, 0.0, 1.8], [0.0, 0.5, 1.8]])
    photos = torch.ones(2, 4, 128, 128)
    photos[0, :3] = 0.5 + 0.3 * torch.sign(torch.sin(torch.arange(128) * 0.8))[:, None]
    photos[1, :3] = 1 - photos[0, :3]
    mesh = bake(plate, photos, cameras, size=512).mesh
    picture = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB"))[..., 0] / 255
    assert np.percentile(picture, 95) > 0.72 and np.percentile(picture, 5) < 0.28


def test_the_far_side_is_that_of_the_photo_where_both_look_alike():
    cameras = turned(CAMERAS, 2)
    mesh = bake(ball(), photos_of_ball(), cameras, size=256).mesh
    normals = mesh.triangles_center / np.linalg.norm(mesh.triangles_center, axis=1, keepdims=True)
    back = np.flatnonzero((-normals[:, 0] > 0.9) & (normals[:, 2] > 0))
    colors = texture_at(mesh, back)
    expected = painted(normals[back] * [-1, -1, 1])
    assert np.abs(colors - expected).mean() < 0.3 * np.abs(GREY / 255 - expected).mean()


def test_texels_of_a_block_share_its_first():
    square = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    uv = np.array([[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]])
    texels = rasterise(Atlas(square, uv, np.arange(4)), size=64)
    first, which = blocks_of(texels, 64)
    for place in (texels.row, texels.column):
        np.testing.assert_array_equal(place[first][which] // 2, place // 2)
