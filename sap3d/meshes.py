"""Meshes as every stage expects them: centred, and small enough for every camera; and the size that files give them."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import trimesh

from sap3d.cameras.maths import Y_UP
from sap3d.cameras.placement import Placement
from sap3d.errors import UserError
from sap3d.files import write_json

BOUNDING_SPHERE_RADIUS = 0.6
LONGEST_SIDE = 1.0
SIZE = "size.json"  # beside stage 3's mesh


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
    return _allowed_scale(*_upright_box(vertices))


def _upright_box(vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3] in their smallest box that stands upright, about its centre, and its sides [3]."""
    to_box, sides = trimesh.bounds.oriented_bounds_2D(vertices[:, :2])
    height = np.ptp(vertices[:, 2])
    middle = vertices[:, 2].min() + height / 2
    centred = np.column_stack([trimesh.transform_points(vertices[:, :2], to_box), vertices[:, 2] - middle])
    return centred, np.append(sides, height)


def _allowed_scale(centred: np.ndarray, sides: np.ndarray) -> float:
    """The largest factor for vertices [V, 3] about their box's centre, of its sides [3], that cube and sphere allow."""
    reach = np.linalg.norm(centred, axis=1).max()
    return min(LONGEST_SIDE / sides.max(), BOUNDING_SPHERE_RADIUS / reach)


@dataclass(frozen=True)
class Size:
    """Of what stage 3 writes for other programs, in its world or, where the object's size is known, in metres."""

    metres: float  # a unit of the world is in the files; 1 where the size is not known
    size_mm: float | None  # of the longest side, as the user gives it
    sides: tuple[float, ...]  # of the smallest upright box: width, depth and height in the files' units; () of nothing

    @classmethod
    def of(cls, vertices: np.ndarray, size_mm: float | None) -> "Size":
        """Args: vertices: of the world, z up, [V, 3]."""
        if not len(vertices):
            return cls(1.0, size_mm, ())
        _, sides = _upright_box(vertices)
        metres = 1.0 if size_mm is None else size_mm / 1000 / sides.max()
        return cls(float(metres), size_mm, tuple((sides * metres).tolist()))

    @classmethod
    def read(cls, folder: Path) -> "Size":
        """
        Raises:
            UserError: there is none, as in results of before there were sizes.
        """
        try:
            return cls(**json.loads((folder / SIZE).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{folder / SIZE}: no size; run 3D_Recon/threestudio/launch.py --export") from error

    @property
    def stl_unit(self) -> float:
        """A unit of the other files in the STL, which printers take to be in millimetres."""
        return 1.0 if self.size_mm is None else 1000.0

    def placed(self, placement: Placement) -> Placement:
        """From the field's world to the files', given the one to the results' world."""
        return replace(placement, scale=placement.scale * self.metres)

    def write(self, folder: Path) -> None:
        write_json(folder / SIZE, asdict(self))

    def sentence(self) -> str:
        """What a reader of the results is told."""
        if not self.sides:
            return "The mesh is empty."
        if self.size_mm is None:
            sides = " × ".join(f"{side:.2f}" for side in self.sides)
            return f"Size: {sides} of the unit cube. --size-mm makes all files as large as the object is."
        sides = " × ".join(f"{1000 * side:.0f}" for side in self.sides)
        return f"Size: {sides} mm. mesh.stl is in millimetres, all other files are in metres."


def read_result(folder: Path) -> trimesh.Trimesh:
    """The mesh of stage 3's results in the world of their cameras: z up, with its texture.

    Raises:
        UserError: not a readable mesh with faces, or no size beside it.
    """
    mesh, size = read_mesh(folder / "mesh.obj"), Size.read(folder)
    return mesh.apply_transform(np.array(Y_UP).T).apply_scale(1 / size.metres)


def read_mesh(path: Path) -> trimesh.Trimesh:
    """
    Raises:
        UserError: not a readable mesh with faces.
    """
    try:
        mesh = trimesh.load_mesh(path)
    except Exception as error:  # trimesh's readers raise whatever their parsing meets
        raise UserError(f"{path}: not a readable mesh ({error})") from error
    if not len(mesh.faces):
        raise UserError(f"{path}: a mesh without faces")
    return mesh
