"""Photos, cameras and points as other tools read them: nerfstudio's transforms.json and a COLMAP model."""

from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pycolmap
import torch
import trimesh
from torch import Tensor

from sap3d.cameras import maths as cam
from sap3d.files import atomic_folder, write_json
from sap3d.images import straight_alpha
from threestudio.models.exporters.texture import sample, seen

TO_OPENCV = np.diag([1.0, -1.0, -1.0])  # OpenGL's camera axes → OpenCV's (x right, y down, z forwards)
README = """# Photos and cameras for other programs

images/ are the photos, cut out; masks/ are their foregrounds, white. All cameras look at the origin of a world whose z
is up, in metres where the object's size is known (../size.json).

nerfstudio: transforms.json, with points.ply to start from. The object stands upright in the middle, and there are too
few photos to set some aside:

    ns-train splatfacto --data . nerfstudio-data --orientation-method none --center-method none \\
        --auto-scale-poses False --eval-mode all

COLMAP, gsplat: sparse/0, binary (.bin) and text (.txt). Points are drawn from the mesh; their tracks say which
photos see them. gsplat's examples read this folder:

    python examples/simple_trainer.py default --data_dir . --data_factor 1 --test_every 1000 --result_dir results
"""


class InterchangeExporter:
    """Writes interchange/: README.md, images/, masks/, transforms.json, points.ply and sparse/0/."""

    @dataclass
    class Config:
        size: int | None = None  # of the images; None: the photos' own
        points: int = 20_000

    def __init__(self, config: Config):
        self.config = config

    def write(self, folder: Path, photos: Tensor, cameras: Tensor, mesh: trimesh.Trimesh) -> None:
        """Write the folder as a whole.

        Args:
            photos: colour on white and alpha, [N, 4, S, S].
            cameras: [N, ≥ 3].
            mesh: textured; points are drawn from its surface. An empty one has none.
        """
        names, size = [f"{index:03d}.png" for index in range(len(photos))], photos.shape[-1]
        points, normals, colors = sample(mesh, self.config.points)
        with atomic_folder(folder / "interchange") as partial:
            for part in ("images", "masks", "sparse/0"):
                (partial / part).mkdir(parents=True)
            for name, photo in zip(names, photos):
                rgba = straight_alpha(photo.permute(1, 2, 0).numpy())
                imageio.imwrite(partial / "images" / name, rgba)
                imageio.imwrite(partial / "masks" / name, rgba[..., 3])
            trimesh.PointCloud(points, colors).export(partial / "points.ply")
            write_json(partial / "transforms.json", self.transforms(names, cameras, size))
            eyes = cam.camera_positions(cameras.double()).numpy()
            visible = np.stack([seen(mesh, points, normals, eye) for eye in eyes])
            model = self.colmap(names, cameras, size, points, colors, visible)
            model.write_text(partial / "sparse/0")
            model.write_binary(partial / "sparse/0")
            (partial / "README.md").write_text(README)

    def focal_lengths(self, cameras: Tensor, size: int) -> list[float]:
        """In pixels, of each camera with images of `size` pixels."""
        return (size / 2 / cam.half_fov_tangents(cam.full_cameras(cameras.double())))[:, 0].tolist()

    def transforms(self, names: list[str], cameras: Tensor, size: int) -> dict:
        """nerfstudio's description: camera-to-world matrices with OpenGL's axes."""
        focal = self.focal_lengths(cameras, size)
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

    def colmap(
        self,
        names: list[str],
        cameras: Tensor,
        size: int,
        points: np.ndarray,
        colors: np.ndarray,
        visible: np.ndarray,
    ) -> pycolmap.Reconstruction:
        """COLMAP's model: a camera an image, world-to-camera poses with OpenCV's axes, and points with their tracks.

        Args:
            points, colors: [P, 3].
            visible: which points each image shows, bool [N, P].
        """
        model = pycolmap.Reconstruction()
        poses = cam.spherical_to_w2c(cameras.double()).numpy()
        pixels, _ = cam.project(cameras.double(), torch.from_numpy(points).double().expand(len(cameras), -1, -1))
        pixels = ((pixels * torch.tensor([1, -1]) + 1) / 2 * size).numpy()
        for index, (name, pose, focal) in enumerate(zip(names, poses, self.focal_lengths(cameras, size))):
            lens = [focal, focal, size / 2, size / 2]
            model.add_camera_with_trivial_rig(pycolmap.Camera(
                camera_id=index + 1, model="PINHOLE", width=size, height=size, params=lens))  # fmt: skip
            # gsplat's reader of the text takes an image without features, an empty line, for the end.
            features = pixels[index, visible[index]] if visible[index].any() else np.full((1, 2), size / 2)
            image = pycolmap.Image(name=name, camera_id=index + 1, image_id=index + 1,
                                   points2D=[pycolmap.Point2D(feature) for feature in features])  # fmt: skip
            rotation = pycolmap.Rotation3d(TO_OPENCV @ pose[:, :3])
            model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(rotation, TO_OPENCV @ pose[:, 3]))
        places = visible.cumsum(1) - 1  # of points among an image's features
        for point, color, views, place in zip(points, colors, visible.T, places.T):
            track = pycolmap.Track([pycolmap.TrackElement(view + 1, place[view]) for view in np.flatnonzero(views)])
            model.add_point3D(point, track, color)
        return model
