"""A texture for a mesh, baked from the photos: each texel takes the colour that the photos which see it show there."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import trimesh
import xatlas
from PIL import Image
from scipy import ndimage
from torch import Tensor
from trimesh.visual.material import PBRMaterial

from sap3d.cameras import maths as cam
from sap3d.images import to_uint8

SHIFT = 8  # binary digits of sub-pixel positions in OpenCV's drawing
LIFT = 2e-3  # from the surface, where rays to the cameras start
INSIDE = (
    0.02  # half width of the window, over the image's, that must be foreground: at silhouettes photos show the back
)


@dataclass
class Atlas:
    """A mesh whose vertices are split along the seams of its charts, with their places in the texture."""

    mesh: trimesh.Trimesh
    uv: np.ndarray  # in [0, 1], v upwards, [V, 2]


@dataclass
class Texels:
    """The pixels of the texture that lie on the surface."""

    row: np.ndarray  # [T]
    column: np.ndarray  # [T]
    face: np.ndarray  # [T]
    barycentric: np.ndarray  # [T, 3]

    def interpolate(self, mesh: trimesh.Trimesh, values: np.ndarray) -> np.ndarray:
        """Values of vertices [V, C] at the texels, [T, C]."""
        return (np.asarray(values)[mesh.faces[self.face]] * self.barycentric[..., None]).sum(1)


def unwrap(mesh: trimesh.Trimesh) -> Atlas:
    """Charts by xatlas; vertex colours and normals go with the vertices."""
    source, faces, uv = xatlas.parametrize(np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.uint32))
    split = trimesh.Trimesh(
        mesh.vertices[source], faces, vertex_normals=mesh.vertex_normals[source], process=False, validate=False
    )
    split.visual.vertex_colors = mesh.visual.vertex_colors[source]
    return Atlas(split, uv)


def rasterise(atlas: Atlas, size: int) -> Texels:
    """Which face each texel's centre lies on or just beside; there its place is extrapolated."""
    corners = atlas.uv[atlas.mesh.faces] * size
    corners[..., 1] = size - corners[..., 1]
    owner = np.full((size, size), -1, np.int32)
    fixed = np.round((corners - 0.5) * (1 << SHIFT)).astype(np.int32)
    for face, triangle in enumerate(fixed):
        cv2.fillConvexPoly(owner, triangle, face, shift=SHIFT)
    row, column = np.nonzero(owner >= 0)
    face = owner[row, column]
    a, b, c = np.moveaxis(corners[face], 1, 0)
    point = np.stack([column, row], -1) + 0.5
    u, v, w = b - a, c - a, point - a
    area = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    area = np.where(np.abs(area) < 1e-9, np.inf, area)
    second = (w[:, 0] * v[:, 1] - w[:, 1] * v[:, 0]) / area
    third = (u[:, 0] * w[:, 1] - u[:, 1] * w[:, 0]) / area
    # On slivers a texel's width is many times the face's: so far is not extrapolated. The sum stays above 0.7.
    barycentric = np.stack([1 - second - third, second, third], -1).clip(-0.3, 1.3)
    return Texels(row, column, face, barycentric / barycentric.sum(-1, keepdims=True))


def photo_colors(
    mesh: trimesh.Trimesh, points: np.ndarray, normals: np.ndarray, photos: Tensor, cameras: Tensor, sharpness: float
) -> tuple[np.ndarray, np.ndarray]:
    """What the photos show at points of the surface.

    Args:
        points, normals: [T, 3].
        photos: colour on white and alpha, [N, 4, S, S].
        cameras: [N, 3].
        sharpness: exponent of the cosine between a line of sight and the normal in a photo's weight.

    Returns:
        Weighted sums of colours, [T, 3], and of weights, [T]; a weight is 1 for a head-on look from a distance of 1.
    """
    window = 2 * round(INSIDE * photos.shape[-1]) + 1
    inside = -F.max_pool2d(-photos[:, 3:], window, 1, window // 2)
    maps = torch.cat([photos[:, :3], inside], 1)
    total, weight = np.zeros((len(points), 3)), np.zeros(len(points))
    for camera, image, eye in zip(cameras, maps, cam.camera_positions(cameras.double()).numpy()):
        sight = eye - points
        distance = np.linalg.norm(sight, axis=-1)
        sight /= distance[:, None]
        facing = (sight * normals).sum(-1)
        seen = np.flatnonzero(facing > 0.1)
        origins = points[seen] + LIFT * normals[seen]
        seen = seen[~mesh.ray.intersects_any(origins, sight[seen])]
        visible = torch.from_numpy(points[seen]).float()
        values = cam.sample_images(image[None], camera[None], visible[None])[0].T.numpy()
        photo_weight = facing[seen] ** sharpness / distance[seen] ** 2 * (values[:, 3] > 0.9)
        total[seen] += photo_weight[:, None] * values[:, :3]
        weight[seen] += photo_weight
    return total, weight


def bake(
    mesh: trimesh.Trimesh,
    photos: Tensor,
    cameras: Tensor,
    size: int = 1024,
    sharpness: float = 4.0,
    field_weight: float = 0.001,
) -> trimesh.Trimesh:
    """The mesh with a texture in the place of its vertex colours.

    Args:
        mesh: watertight, with vertex colours: they fill what no photo sees, and blend in where photos look askance.
        photos: colour on white and alpha in [0, 1], [N, 4, S, S].
        cameras: [N, 3].
        size: of the texture.
        field_weight: of the vertex colours beside the photos'; see `photo_colors`.
    """
    atlas = unwrap(mesh)
    texels = rasterise(atlas, size)
    points = texels.interpolate(atlas.mesh, atlas.mesh.vertices)
    normals = texels.interpolate(atlas.mesh, atlas.mesh.vertex_normals)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True).clip(1e-9)
    total, weight = photo_colors(mesh, points, normals, photos.cpu(), cameras.cpu(), sharpness)
    own = texels.interpolate(atlas.mesh, atlas.mesh.visual.vertex_colors[:, :3] / 255.0)
    image, covered = np.zeros((size, size, 3)), np.zeros((size, size), bool)
    image[texels.row, texels.column] = (total + field_weight * own) / (weight + field_weight)[:, None]
    covered[texels.row, texels.column] = True
    # Charts are continued outwards, so that filtering at their edges meets no background.
    nearest = ndimage.distance_transform_edt(~covered, return_distances=False, return_indices=True)
    picture = Image.fromarray(to_uint8(image[tuple(nearest)]))
    material = PBRMaterial(name="mesh", baseColorTexture=picture, metallicFactor=0.0, roughnessFactor=1.0)
    atlas.mesh.visual = trimesh.visual.TextureVisuals(uv=atlas.uv, material=material)
    return atlas.mesh
