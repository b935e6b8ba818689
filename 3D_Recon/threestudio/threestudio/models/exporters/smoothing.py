"""Mesh denoising that keeps edges: normals are averaged with like ones, then vertices follow their faces' planes."""

import numpy as np
import trimesh
from scipy import sparse

VERTEX_STEPS = 15


def smooth(mesh: trimesh.Trimesh, steps: int, angle: float) -> trimesh.Trimesh:
    """A copy with the same faces over vertices that have moved, whose normals slivers have no part in.

    Bilateral filtering of face normals (Zheng et al., IEEE TVCG 2011) and the update of vertices of Sun et al. (IEEE
    TVCG 2007).

    Args:
        mesh: closed, with merged vertices.
        steps: of filtering; each lets a face hear of neighbours one ring farther away.
        angle: between normals, degrees: neighbours that differ by much more belong to another face.
    """
    corner = np.repeat(np.arange(len(mesh.faces)), 3)
    shape = (len(mesh.faces), len(mesh.vertices))
    incidence = sparse.csr_matrix((np.ones(len(corner)), (corner, mesh.faces.ravel())), shape)
    normals = filtered_normals(mesh, incidence, steps, 2 * np.sin(np.radians(angle) / 2))
    vertices, shared = np.array(mesh.vertices), np.asarray(incidence.sum(0)).ravel()[:, None].clip(1)
    for _ in range(VERTEX_STEPS):
        centres = vertices[mesh.faces].mean(1)
        # Mean over a vertex's faces of n (n · (c − v)).
        ahead = incidence.T @ (normals * (normals * centres).sum(1, keepdims=True))
        outer = incidence.T @ (normals[:, :, None] * normals[:, None]).reshape(-1, 9)
        vertices += (ahead - np.einsum("vij,vj->vi", outer.reshape(-1, 3, 3), vertices)) / shared
    moved = trimesh.Trimesh(vertices.clip(*mesh.bounds), mesh.faces, process=False)  # a flat base stays flat
    outward = incidence.T @ (normals * moved.area_faces[:, None])
    length = np.linalg.norm(outward, axis=1, keepdims=True)
    moved.vertex_normals = np.where(length > 0, outward / length.clip(1e-30), (0.0, 0.0, 1.0))
    return moved


def filtered_normals(mesh: trimesh.Trimesh, incidence: sparse.csr_matrix, steps: int, width: float) -> np.ndarray:
    """Unit normals of faces [F, 3], averaged with those of faces that share a vertex.

    Args:
        incidence: faces × vertices.
        width: standard deviation of distances between unit normals.
    """
    neighbours = (incidence @ incidence.T).tocoo()
    row, column = neighbours.row, neighbours.col
    normals, areas = np.array(mesh.face_normals), mesh.area_faces
    for _ in range(steps):
        unlike = np.square(normals[row] - normals[column]).sum(1)
        weights = areas[column] * np.exp(-unlike / (2 * width**2))
        mean = sparse.coo_matrix((weights, (row, column)), neighbours.shape).tocsr() @ normals
        length = np.linalg.norm(mean, axis=1, keepdims=True)
        normals = np.where(length > 0, mean / length.clip(1e-30), normals)
    return normals
