"""Photos, cameras and points as other tools read them: nerfstudio's transforms.json and a COLMAP text model."""

from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch
import trimesh
from scipy.spatial.transform import Rotation
from torch import Tensor

from sap3d.cameras import maths as cam
from sap3d.files import atomic_folder, write_json
from sap3d.images import straight_alpha

TO_OPENCV = np.diag([1.0, -1.0, -1.0])  # OpenGL's camera axes → OpenCV's (x right, y down, z forwards)


class InterchangeExporter:
    """Writes interchange/: images/, transforms.json, points.ply and sparse/0/{cameras,images,points3D}.txt."""

    @dataclass
    class Config:
        size: int = 512  # of the images
        points: int = 20_000

    def __init__(self, config: Config):
        self.config = config

    def write(self, folder: Path, photos: Tensor, cameras: Tensor, mesh: trimesh.Trimesh) -> None:
        """Write the folder as a whole.

        Args:
            photos: colour on white and alpha, [N, 4, size, size].
            cameras: [N, ≥ 3].
            mesh: textured; points are drawn from its surface. An empty one has none.
        """
        names = [f"{index:03d}.png" for index in range(len(photos))]
        points, colors = self.sample(mesh)
        with atomic_folder(folder / "interchange") as partial:
            (partial / "images").mkdir()
            for name, photo in zip(names, photos):
                imageio.imwrite(partial / "images" / name, straight_alpha(photo.permute(1, 2, 0).numpy()))
            trimesh.PointCloud(points, colors).export(partial / "points.ply")
            write_json(partial / "transforms.json", self.transforms(names, cameras))
            (partial / "sparse/0").mkdir(parents=True)
            for name, lines in self.colmap(names, cameras, points, colors).items():
                (partial / "sparse/0" / name).write_text("".join(line + "\n" for line in lines))

    def focal_lengths(self, cameras: Tensor) -> list[float]:
        """In pixels, of each camera."""
        return (self.config.size / 2 / cam.half_fov_tangents(cam.full_cameras(cameras.double())))[:, 0].tolist()

    def sample(self, mesh: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
        """Points on the surface [P, 3] and their colours, uint8 [P, 3]."""
        if not len(mesh.faces):
            return np.empty((0, 3)), np.empty((0, 3), np.uint8)
        points, faces = trimesh.sample.sample_surface(mesh, self.config.points, seed=0)
        barycentric = trimesh.triangles.points_to_barycentric(mesh.triangles[faces], points)
        uv = (mesh.visual.uv[mesh.faces[faces]] * barycentric[..., None]).sum(1)
        return np.asarray(points), mesh.visual.material.to_color(uv)[:, :3]

    def transforms(self, names: list[str], cameras: Tensor) -> dict:
        """nerfstudio's description: camera-to-world matrices with OpenGL's axes."""
        size, focal = self.config.size, self.focal_lengths(cameras)
        matrices = torch.eye(4, dtype=torch.float64).repeat(len(cameras), 1, 1)
        matrices[:, :3, :3] = cam.camera_axes(cameras.double())
        matrices[:, :3, 3] = cam.camera_positions(cameras.double())
        return {
            "camera_model": "PINHOLE",
            "fl_x": focal[0],
            "fl_y": focal[0],
            "cx": size / 2,
            "cy": size / 2,
            "w": size,
            "h": size,
            "ply_file_path": "points.ply",
            "frames": [
                {"file_path": f"images/{name}", "fl_x": length, "fl_y": length, "transform_matrix": matrix.tolist()}
                for name, length, matrix in zip(names, focal, matrices)
            ],
        }

    def colmap(self, names: list[str], cameras: Tensor, points: np.ndarray, colors: np.ndarray) -> dict[str, list[str]]:
        """COLMAP's three text files, line by line: world-to-camera poses with OpenCV's axes, no feature tracks."""
        size, images = self.config.size, []
        poses = cam.spherical_to_w2c(cameras.double()).numpy()
        for index, (name, pose) in enumerate(zip(names, poses), start=1):
            x, y, z, w = Rotation.from_matrix(TO_OPENCV @ pose[:, :3]).as_quat()
            numbers = " ".join(f"{value:.9g}" for value in (w, x, y, z, *(TO_OPENCV @ pose[:, 3])))
            images += [f"{index} {numbers} {index} {name}", ""]  # the second line would list the image's features
        return {
            "cameras.txt": [
                f"{index} PINHOLE {size} {size} {focal:.9g} {focal:.9g} {size / 2} {size / 2}"
                for index, focal in enumerate(self.focal_lengths(cameras), start=1)
            ],
            "images.txt": images,
            "points3D.txt": [
                f"{index} {x:.6g} {y:.6g} {z:.6g} {r} {g} {b} 0"
                for index, ((x, y, z), (r, g, b)) in enumerate(zip(points, colors), start=1)
            ],
        }
