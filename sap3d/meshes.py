"""Meshes as every stage expects them: centred, and small enough for every camera."""

import numpy as np
import trimesh

BOUNDING_SPHERE_RADIUS = 0.6
LONGEST_SIDE = 1.0


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
    mesh.vertices = vertices * _allowed_scale(vertices, high - low)
    return mesh


def normal_scale(vertices: np.ndarray) -> float:
    """The factor that gives a z-up object the size of a normalised one.

    Args:
        vertices: [V, 3]; which way the object faces is not known, so its box is turned about z to where it is smallest.
    """
    to_box, sides = trimesh.bounds.oriented_bounds_2D(vertices[:, :2])
    height = np.ptp(vertices[:, 2])
    middle = vertices[:, 2].min() + height / 2
    centred = np.column_stack([trimesh.transform_points(vertices[:, :2], to_box), vertices[:, 2] - middle])
    return _allowed_scale(centred, np.append(sides, height))


def _allowed_scale(centred: np.ndarray, sides: np.ndarray) -> float:
    """The largest factor for vertices [V, 3] about their box's centre, of its sides [3], that cube and sphere allow."""
    reach = np.linalg.norm(centred, axis=1).max()
    return min(LONGEST_SIDE / sides.max(), BOUNDING_SPHERE_RADIUS / reach)
