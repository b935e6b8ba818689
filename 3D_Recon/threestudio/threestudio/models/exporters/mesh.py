"""A textured surface of the field, as OBJ and GLB."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import trimesh
from scipy import ndimage
from skimage import measure
from torch import Tensor
from trimesh.exchange.obj import export_obj

from sap3d.cameras.maths import SCENE_BOUND, Y_UP
from sap3d.cameras.placement import Placement
from sap3d.field import grid as dense
from sap3d.field.occupancy import floaters
from sap3d.files import atomic_file
from sap3d.meshes import normal_scale
from threestudio.models.exporters.texture import bake
from threestudio.models.renderers.culled import CulledRenderer


class MeshExporter:
    """Marching cubes on the density; writes mesh.obj with mesh.mtl and mesh.png (the world of the cameras, z up), and
    mesh.glb (y up).
    """

    @dataclass
    class Config:
        resolution: int = 128  # of marching cubes
        density: float = 5.0  # level, per unit of length: low, for what no photo shows is dim
        scale_density: float = 20.0  # level at which the object's size is measured
        most_shrinking: float = 0.08  # two standard deviations of stage 1's radii; more is a fault of the shape
        closing: int = 2  # nodes; shells with holes up to twice this are filled as if they were closed
        faces: int = 20_000  # what it is simplified to
        texture_size: int = 1024

    def __init__(self, config: Config, renderer: CulledRenderer):
        self.config, self.renderer = config, renderer

    def scale(self) -> float:
        """What field and cameras are to be multiplied by: at most 1, where they are larger than normalised objects are.

        Photos do not tell a scene from a larger one farther away, so radii are stage 1's guess; an object that stands
        out of the unit cube or of the bounding sphere (`sap3d.meshes.normalise`) was put too far.
        """
        surface = self.level_set(self.config.scale_density)
        if not len(surface.faces):
            return 1.0
        return float(np.clip(normal_scale(surface.vertices), 1 - self.config.most_shrinking, 1.0))

    def write(self, folder: Path, photos: Tensor, cameras: Tensor, placement: Placement) -> trimesh.Trimesh:
        """Write the files.

        Args:
            photos: colour on white and alpha, [N, 4, S, S].
            cameras: of the field's world, [N, 3].
            placement: from that world to the mesh's.

        Returns:
            The mesh.
        """
        mesh = self.extract()
        if len(mesh.faces):
            mesh = placement.mesh(bake(mesh, photos, cameras, self.config.texture_size))
        text, files = export_obj(mesh, return_texture=True, mtl_name="mesh.mtl", include_normals=True)
        # The file that names the others comes last.
        for name, content in [*files.items(), ("mesh.obj", text.encode())]:
            with atomic_file(folder / name) as partial:
                partial.write_bytes(content)
        with atomic_file(folder / "mesh.glb") as partial:
            mesh.copy().apply_transform(np.array(Y_UP)).export(partial)
        return mesh

    def extract(self) -> trimesh.Trimesh:
        """The mesh in the field's world, triangles counter-clockwise from outside; empty where nothing is dense."""
        mesh = self.level_set(self.config.density)
        if not len(mesh.faces):
            return mesh
        if len(mesh.faces) > self.config.faces:
            mesh = mesh.simplify_quadric_decimation(face_count=self.config.faces)
        mesh.visual.vertex_colors = self.colors(torch.tensor(mesh.vertices), torch.tensor(mesh.vertex_normals))
        return mesh

    def level_set(self, density: float) -> trimesh.Trimesh:
        """The surface of a density, at the full resolution and without colours."""
        raw = dense.resize(self.renderer.geometry.grid.detach(), self.config.resolution)[0, 0].cpu().numpy()
        level = math.log(math.expm1(density / dense.DENSITY_SCALE)) - dense.DENSITY_SHIFT
        excess = raw - level
        heights = np.linspace(-SCENE_BOUND, SCENE_BOUND, self.config.resolution, dtype=np.float32)
        above_floor = (heights - self.renderer.floor) / self.renderer.geometry.spacing
        excess = solidify(np.minimum(excess, above_floor[:, None, None]), self.config.closing)
        excess = np.where(floaters(excess > 0, self.renderer.config.smallest), -np.abs(excess), excess)
        if excess.max() <= 0:
            return trimesh.Trimesh()
        # Marching cubes leaves open what touches the volume's sides, so a layer of emptiness goes round it.
        vertices, faces, _, _ = measure.marching_cubes(np.pad(excess, 1, constant_values=-1.0), 0.0)
        vertices = (vertices - 1)[:, ::-1] * (2 * SCENE_BOUND / (self.config.resolution - 1)) - SCENE_BOUND
        mesh = trimesh.Trimesh(vertices, faces[:, ::-1], process=False)
        if mesh.volume < 0:
            mesh.invert()
        return mesh

    @torch.no_grad()
    def colors(self, vertices: Tensor, normals: Tensor) -> np.ndarray:
        """What a short ray along the normal sees of the field at each vertex, uint8 [V, 3].

        At the surface itself, half in the air, the colour is hardly constrained; a render takes it from further in.
        """
        samples, geometry = 12, self.renderer.geometry
        reach = torch.linspace(2, -3, samples, dtype=vertices.dtype)[:, None] * geometry.spacing
        points = (vertices[:, None] + reach * normals[:, None]).float().to(geometry.device)
        density, color = geometry(points.view(-1, 3))
        density = density.view(-1, samples) * self.renderer.occupancy.above_floor(points)
        weights, opacity = dense.composite(density * (5 * geometry.spacing / samples))
        mean = (weights[..., None] * color.view(-1, samples, 3)).sum(1) / opacity[:, None].clamp(min=1e-6)
        return (mean.cpu().numpy().clip(0, 1) * 255 + 0.5).astype(np.uint8)


def solidify(excess: np.ndarray, closing: int) -> np.ndarray:
    """Fill what the surface encloses.

    Photos say nothing of an opaque object's inside, so the field may be hollow there.

    Args:
        excess: positive inside, [R, R, R].
        closing: nodes; see the config.
    """
    inside = excess > 0
    padded = np.pad(inside, 2 * closing)
    closed = ndimage.binary_closing(padded, iterations=closing) | padded
    keep = slice(2 * closing, -2 * closing or None)
    cavity = (ndimage.binary_fill_holes(closed) & ~padded)[keep, keep, keep]
    # Only what lies a layer below the skin: closing must not round off the visible surface.
    cavity &= ~ndimage.binary_dilation(_outside(inside | cavity), iterations=closing)
    return np.where(cavity, np.abs(excess).max(), excess)


def _outside(solid: np.ndarray) -> np.ndarray:
    """Empty space connected to the volume's sides."""
    return ~ndimage.binary_fill_holes(solid)
