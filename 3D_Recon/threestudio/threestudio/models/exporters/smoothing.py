"""Mesh denoising that keeps edges: normals are averaged with like ones, then vertices follow their faces' planes."""

from dataclasses import dataclass

import numpy as np
import trimesh
from scipy import sparse
from scipy.sparse.linalg import cg

SMOOTHING_STEPS, SHARPENING_STEPS = 15, 10  # of vertices towards the planes
# A side is flat where normals, averaged over a random walk of such a length, as a share of the diagonal of the mesh's
# box, vary by no more than so many degrees; those so many lengths beyond are beside it. A ball varies by more.
FLAT_WALK, FLAT_SIDE, FLAT_REACH = 0.05, 4.0, 3.5
NEARNESS = 0.03  # weight of a vertex's distance from where it was, beside its distance from the planes


@dataclass
class Pulls:
    """Where some vertices are wanted, each along one direction."""

    vertex: np.ndarray  # index, [K]
    direction: np.ndarray  # unit, [K, 3]
    target: np.ndarray  # the wanted scalar product of the vertex with the direction, [K]


def smooth(mesh: trimesh.Trimesh, steps: int, angle: float) -> trimesh.Trimesh:
    """A copy with the same faces over vertices that have moved, whose normals slivers have no part in.

    Bilateral filtering of face normals (Zheng et al., IEEE TVCG 2011) and the update of vertices of Sun et al. (IEEE
    TVCG 2007).

    Args:
        mesh: closed, with merged vertices.
        steps: of filtering; each lets a face hear of neighbours one ring farther away.
        angle: between normals, degrees: neighbours that differ by much more belong to another face.
    """
    corners = incidence(mesh)
    normals, links = np.array(mesh.face_normals), neighbours(corners)
    for _ in range(steps):
        normals = averaged(normals, normals, mesh.area_faces, links, angle)
    vertices = followed(mesh.vertices, mesh.faces, corners, normals, SMOOTHING_STEPS)
    return with_vertices(mesh, vertices.clip(*mesh.bounds), corners, normals)  # a flat base stays flat


def sharp_normals(mesh: trimesh.Trimesh, steps: int, angle: float, flat: float) -> np.ndarray:
    """Normals of faces [F, 3] as if flat sides met in sharp edges where these are rounded.

    Guided filtering of face normals (Zhang et al., Computer Graphics Forum 34, 2015, without the saliency of edges):
    how much neighbours have to do with each other is decided by the normals of the flattest patches that they are part
    of, and no patch across an edge is flat. What is not beside a flat side keeps its normals, and so do rods.

    Args:
        mesh: closed, with merged vertices, smoothed.
        steps: of filtering and moving vertices.
        angle: as of `smooth`, between the patches' normals.
        flat: by how much the normals of a flat patch vary, degrees.
    """
    corners = incidence(mesh)
    vertices, normals, areas = np.array(mesh.vertices), np.array(mesh.face_normals), mesh.area_faces
    links = neighbours(corners)
    beside = beside_flat_sides(mesh, links)
    for _ in range(steps if beside.any() else 0):
        guide, spread = flattest(normals, areas, links)
        filtered = averaged(normals, guide, areas, links, angle)
        filtered = np.where((beside & (spread < 1 - np.cos(np.radians(flat))))[:, None], filtered, normals)
        vertices = followed(vertices, mesh.faces, corners, filtered, SHARPENING_STEPS)
        moved = trimesh.Trimesh(vertices, mesh.faces, process=False)
        normals, areas = np.array(moved.face_normals), moved.area_faces
    return normals


def incidence(mesh: trimesh.Trimesh) -> sparse.csr_matrix:
    """Which vertices a face has, faces × vertices."""
    corner = np.repeat(np.arange(len(mesh.faces)), 3)
    shape = (len(mesh.faces), len(mesh.vertices))
    return sparse.csr_matrix((np.ones(len(corner)), (corner, mesh.faces.ravel())), shape)


def neighbours(corners: sparse.csr_matrix) -> sparse.coo_matrix:
    """Which faces share a vertex, each with itself, too, row by row, faces × faces."""
    return (corners @ corners.T).tocoo()


def weighted(links: sparse.coo_matrix, weights: np.ndarray) -> sparse.csr_matrix:
    """`neighbours` with a weight for each link."""
    return sparse.coo_matrix((weights, (links.row, links.col)), links.shape).tocsr()


def averaged(
    normals: np.ndarray, guide: np.ndarray, areas: np.ndarray, links: sparse.coo_matrix, angle: float
) -> np.ndarray:
    """Unit normals of faces [F, 3], averaged over neighbours by their areas [F] and by how alike the guides [F, 3] are.

    Args:
        angle: standard deviation between guides, degrees.
    """
    width = 2 * np.sin(np.radians(angle) / 2)
    unlike = np.square(guide[links.row] - guide[links.col]).sum(1)
    weights = areas[links.col] * np.exp(-unlike / (2 * width**2))
    mean = weighted(links, weights) @ normals
    return unit(mean, otherwise=normals)


def beside_flat_sides(mesh: trimesh.Trimesh, links: sparse.coo_matrix) -> np.ndarray:
    """Which faces belong to flat sides or lie a little beyond their edges, bool [F]."""
    length = FLAT_WALK * mesh.scale / mesh.edges_unique_length.mean()  # in edges; a walk's grows as √steps
    weights = weighted(links, mesh.area_faces[links.col])
    weights = sparse.diags(1 / np.asarray(weights.sum(1)).ravel().clip(1e-30)) @ weights
    mean = np.array(mesh.face_normals)
    for _ in range(max(1, round(length**2))):
        mean = weights @ mean
    beside = (np.linalg.norm(mean, axis=1) > np.cos(np.radians(FLAT_SIDE))).astype(float)
    for _ in range(round(FLAT_REACH * length)):
        beside = np.maximum.reduceat(beside[weights.indices], weights.indptr[:-1])
    return beside > 0


def flattest(normals: np.ndarray, areas: np.ndarray, links: sparse.coo_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Of the flattest patch that each face is part of the mean normal, [F, 3], and one less its length, [F].

    A patch is a face with its neighbours.
    """
    weights = weighted(links, areas[links.col])
    mean = weights @ normals
    spread = 1 - np.linalg.norm(mean, axis=1) / np.asarray(weights.sum(1)).ravel().clip(1e-30)
    order = np.lexsort((spread[links.col], links.row))
    best = links.col[order][np.searchsorted(links.row[order], np.arange(len(normals)))]
    return unit(mean, otherwise=normals)[best], spread[best]


def followed(
    vertices: np.ndarray, faces: np.ndarray, corners: sparse.csr_matrix, normals: np.ndarray, steps: int
) -> np.ndarray:
    """Vertices [V, 3] moved, so many times, towards the planes that their faces' centres and normals [F, 3] make."""
    vertices, shared = np.array(vertices), np.asarray(corners.sum(0)).ravel()[:, None].clip(1)
    outer = corners.T @ (normals[:, :, None] * normals[:, None]).reshape(-1, 9)
    for _ in range(steps):
        centres = vertices[faces].mean(1)
        # Mean over a vertex's faces of n (n · (c − v)).
        ahead = corners.T @ (normals * (normals * centres).sum(1, keepdims=True))
        vertices += (ahead - np.einsum("vij,vj->vi", outer.reshape(-1, 3, 3), vertices)) / shared
    return vertices


def fitted(mesh: trimesh.Trimesh, normals: np.ndarray, pulls: Pulls) -> trimesh.Trimesh:
    """A copy with vertices in the planes of normals [F, 3], where they are pulled to, and near the mesh's own.

    In least squares over the surface: a flat side moves as a whole, and edges do not shrink, as they do step by step.
    """
    corners = incidence(mesh)
    areas, own = mesh.area_faces, np.asarray(mesh.vertices)
    share = (corners.T @ areas / 3).clip(1e-30)  # of the surface, of a vertex
    across = np.sqrt(areas)[:, None, None, None] * (np.eye(3) - 1 / 3)[None, :, :, None] * normals[:, None, None]
    place = np.broadcast_to(3 * np.asarray(mesh.faces)[:, None, :, None] + np.arange(3), across.shape)
    row = np.repeat(np.arange(3 * len(normals)), 9)  # n (v − c) of each corner, c the mean of the three
    planes = sparse.csr_matrix((across.ravel(), (row, place.ravel())), (3 * len(normals), own.size))
    weight = share[pulls.vertex]
    columns = 3 * pulls.vertex[:, None] + np.arange(3)
    row = np.repeat(np.arange(len(weight)), 3)
    pulled = sparse.csr_matrix((pulls.direction.ravel(), (row, columns.ravel())), (len(weight), own.size))
    stay = NEARNESS * np.repeat(share, 3)
    matrix = planes.T @ planes + sparse.diags(stay) + pulled.T @ sparse.diags(weight) @ pulled
    goal = stay * own.ravel() + pulled.T @ (weight * pulls.target)
    vertices = cg(matrix, goal, x0=own.ravel(), rtol=1e-6, maxiter=500)[0].reshape(-1, 3)
    vertices[:, 2] = vertices[:, 2].clip(mesh.bounds[0, 2])  # a flat base stays flat
    return with_vertices(mesh, vertices, corners, normals)


def with_vertices(
    mesh: trimesh.Trimesh, vertices: np.ndarray, corners: sparse.csr_matrix, normals: np.ndarray
) -> trimesh.Trimesh:
    """The mesh with other vertices, whose normals are means of its faces' filtered ones, in the same colours."""
    moved = trimesh.Trimesh(vertices, mesh.faces, process=False)
    outward = corners.T @ (normals * moved.area_faces[:, None])
    moved.vertex_normals = unit(outward, otherwise=np.array([0.0, 0.0, 1.0]))
    moved.visual = mesh.visual.copy()
    return moved


def unit(vectors: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Vectors [K, 3] of length 1, and others in the place of those that have none."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(length > 0, vectors / length.clip(1e-30), otherwise)
