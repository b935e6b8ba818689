"""A mesh whose outlines are the photos'.

Where a mesh's outline lies beside a photo's, the vertices of the outline are wanted on it; the faces about them follow
as far as their normals allow (`smoothing.fitted`). So flat sides come to lie where the photos' foregrounds end.
"""

import numpy as np
import torch
import trimesh
from scipy import ndimage
from torch import Tensor

from sap3d.cameras import maths as cam
from threestudio.models.exporters.smoothing import Pulls, fitted

ROUNDS = 2  # of looking where outlines are and moving them
REACH = 0.05  # farthest that a vertex is wanted from where it is; what is farther is no outline of the same part
BESIDE = 2e-3  # from an outline, over the diagonal of the mesh's box, where a ray passes the object


def follow_outlines(mesh: trimesh.Trimesh, normals: np.ndarray, distances: Tensor, cameras: Tensor) -> trimesh.Trimesh:
    """A copy with the same faces, of normals [F, 3] as far as may be, whose outlines are those of the photos.

    Args:
        mesh: closed, with merged vertices and outward vertex normals.
        distances: `outline_distances` of the photos, [N, S, S].
        cameras: of the photos, [N, ≥ 3], in the mesh's world.
    """
    moved = mesh
    for _ in range(ROUNDS):
        parts = [pulls(moved, *each) for each in zip(distances, cameras.double())]
        vertex, direction, target = (np.concatenate(each) for each in zip(*parts))
        moved = fitted(mesh, normals, Pulls(vertex, direction, target))
    return moved


def outline_distances(alphas: Tensor) -> Tensor:
    """How far outside of the foreground pixels are, negative inside, in normalised image coordinates, [N, S, S].

    Args:
        alphas: of photos, [N, S, S].
    """
    inside = alphas.cpu().numpy() > 0.5
    edt = ndimage.distance_transform_edt
    distances = [np.where(each, 0.5 - edt(each), edt(~each) - 0.5) for each in inside]
    # Of a photo that is empty or full there is no outline, and the transform means nothing.
    shown = inside.any((1, 2)) & ~inside.all((1, 2))
    return torch.from_numpy(np.where(shown[:, None, None], distances, np.inf) * (2 / alphas.shape[-1])).float()


def pulls(mesh: trimesh.Trimesh, distances: Tensor, camera: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the vertices on the mesh's outline that one photo [S, S] wants elsewhere: index, direction and target."""
    eye = cam.camera_positions(camera).numpy()
    vertex, outward = outline(mesh, eye)
    points = torch.from_numpy(np.asarray(mesh.vertices)[vertex])[None]
    pixels, depths = cam.project(camera[None], points)
    beside = cam.sample_images(distances[None, None], camera[None].float(), points.float())[0, 0]
    wanted = (-beside * depths[0] * torch.as_tensor(cam.half_fov_tangents(camera))).numpy()
    known = (pixels[0].abs() < 1).all(-1).numpy() & (np.abs(wanted) < REACH)
    vertex, outward, wanted = vertex[known], outward[known], wanted[known]
    return vertex, outward, (outward * np.asarray(mesh.vertices)[vertex]).sum(1) + wanted


def outline(mesh: trimesh.Trimesh, eye: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [K] beside which a look from `eye` [3] passes the mesh, and unit directions there, across it, [K, 3]."""
    vertices, pairs = np.asarray(mesh.vertices), mesh.face_adjacency
    facing = ((eye - mesh.triangles_center) * mesh.face_normals).sum(1) > 0
    vertex = np.unique(mesh.face_adjacency_edges[facing[pairs[:, 0]] != facing[pairs[:, 1]]])
    sight = vertices[vertex] - eye
    sight /= np.linalg.norm(sight, axis=1, keepdims=True)
    outward = mesh.vertex_normals[vertex]
    outward = outward - (outward * sight).sum(1, keepdims=True) * sight
    outward /= np.linalg.norm(outward, axis=1, keepdims=True).clip(1e-9)
    past = vertices[vertex] + BESIDE * mesh.scale * outward - eye
    past /= np.linalg.norm(past, axis=1, keepdims=True)
    free = ~mesh.ray.intersects_any(np.broadcast_to(eye, past.shape), past)
    return vertex[free], outward[free]
