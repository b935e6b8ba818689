"""How flat the flat and how round the round is: the mesh's normals against the true mesh's.

    python benchmarks/surfaces.py --list dataset/benchmarks/scans8.txt --views 5 [mesh.key=value ...]

Objects must have gone through stage 3; their surfaces are extracted again from their fields. Normals at points of each
surface are compared with those at the nearest points of the other: the mean of |cos|, the mean angle (either side of a
wall may be the nearest, so at most 90°), and the share of angles below 10°. Beside them Chamfer distance and IoU.
--figure FOLDER draws the normals of both, as colours, where the photos were taken.
"""

from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import trimesh
from scipy.spatial import cKDTree

from benchmarks.mesh import restored, run_over_list, surface_and_photos, views_of
from sap3d.cameras.poses import read_best_poses
from sap3d.errors import UserError, one_line_errors
from sap3d.images import sheet, to_uint8
from sap3d.meshes import read_mesh
from sap3d.scene import Scene
from sap3d.scores.evaluate import true_mesh
from sap3d.scores.metrics import mesh_metrics
from sap3d.views import read_poses

SAMPLES = 30_000
COLUMNS = ("|cos|", "angle°", "< 10°", "CD", "IoU")


def normal_angles(mesh: trimesh.Trimesh, truth: trimesh.Trimesh) -> np.ndarray:
    """Degrees between normals [2 · SAMPLES]: at points of each surface and at the nearest ones of the other."""
    surfaces = [trimesh.sample.sample_surface(each, SAMPLES, seed=seed) for seed, each in enumerate((mesh, truth))]
    (points, faces), (true_points, true_faces) = surfaces
    normals, true_normals = mesh.face_normals[faces], truth.face_normals[true_faces]
    nearest, true_nearest = cKDTree(true_points).query(points)[1], cKDTree(points).query(true_points)[1]
    cosines = [(normals * true_normals[nearest]).sum(1), (true_normals * normals[true_nearest]).sum(1)]
    return np.degrees(np.arccos(np.abs(np.concatenate(cosines)).clip(0, 1)))


def in_normals(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """The same faces in the colours of their normals."""
    shown = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    shown.visual.face_colors = to_uint8(mesh.face_normals / 2 + 0.5)
    return shown


def true_surface(scene: Scene) -> trimesh.Trimesh:
    """The true mesh in the results' world.

    Raises:
        UserError: there is none.
    """
    path = true_mesh(scene)
    if path is None:
        raise UserError(f"{scene.mesh_folder}: no true mesh")
    azimuth = read_poses(scene.train, 1)[0, 1].item()
    return read_mesh(path).apply_transform(trimesh.transformations.rotation_matrix(-azimuth, [0, 0, 1]))


def evaluate(scene: Scene, overrides: list[str], figure: Path | None) -> list[float]:
    """COLUMNS of an object."""
    *parts, placement = restored(scene, overrides)
    mesh, truth = placement.mesh(surface_and_photos(*parts)[0]), true_surface(scene)
    if figure:
        cameras = read_best_poses(scene.reconstruction / "poses.json", scene.views)
        rows = np.concatenate([views_of(in_normals(each), cameras) for each in (truth, mesh)])
        imageio.imwrite(figure / f"{scene.object}.png", sheet(to_uint8(rows), len(cameras)))
    angles, measured = normal_angles(mesh, truth), mesh_metrics(mesh, truth)
    cosine = float(np.cos(np.radians(angles)).mean())
    return [cosine, float(angles.mean()), float((angles < 10).mean()), measured["CD"], measured["IOU"]]


if __name__ == "__main__":
    with one_line_errors():
        run_over_list(__doc__, COLUMNS, evaluate, ("--figure", {"type": Path, "help": "folder"}))
