"""Meshes as every stage expects them: centred, and small enough for every camera."""

import numpy as np
import trimesh

BOUNDING_SPHERE_RADIUS = 0.6


def normalise(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """A copy with its bounding-box centre at the origin, inside the unit cube and a sphere of radius 0.6.

    The cube alone lets a corner lie 0.87 from the origin, where a camera cuts it off. A camera at distance r with
    vertical field of view 49.1° sees the sphere of radius r sin(24.55°) whole: 0.62 at r = 1.5, so at r >= 1.5 no
    view of a normalised object is cut. The texture is kept.
    """
    mesh = mesh.copy()
    vertices = np.asarray(mesh.vertices, dtype=np.float64)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    vertices = vertices - (low + high) / 2
    longest_side = (high - low).max()
    reach = np.linalg.norm(vertices, axis=1).max()
    mesh.vertices = vertices * min(1.0 / longest_side, BOUNDING_SPHERE_RADIUS / reach)
    return mesh
