"""A textured surface of the field, in the files of `formats`."""

import math
from dataclasses import dataclass
from pathlib import Path

import manifold3d
import numpy as np
import torch
import trimesh
from scipy import ndimage
from skimage import measure
from torch import Tensor

from sap3d.cameras.maths import SCENE_BOUND
from sap3d.cameras.placement import Placement
from sap3d.cameras.symmetry import turned
from sap3d.field import grid as dense
from sap3d.field.occupancy import floaters
from sap3d.meshes import Size, normal_scale
from threestudio.models.exporters.formats import mesh_of, solid_of, write_glb, write_obj, write_splats, write_stl
from threestudio.models.exporters.outlines import follow_outlines, outline_distances
from threestudio.models.exporters.smoothing import sharp_normals, smooth
from threestudio.models.exporters.texture import Atlas, bake
from threestudio.models.renderers.culled import CulledRenderer

FINEST = 5e-4  # first tolerance of a simplification, as a share of the mesh's diagonal


class MeshExporter:
    """Marching cubes on the density; writes mesh.obj with mesh.mtl and mesh.png, mesh.glb, mesh.stl and splat.ply."""

    @dataclass
    class Config:
        resolution: int = 128  # of marching cubes
        density: float = 5.0  # level, per unit of length: low, for what no photo shows is dim
        scale_density: float = 20.0  # level at which the object's size is measured
        most_shrinking: float = 0.08  # two standard deviations of stage 1's radii; more is a fault of the shape
        closing: int = 2  # nodes; shells with holes up to twice this are filled as if they were closed
        faces: int = 10_000  # that it is simplified to, or to half of what it had
        smoothing: int = 8  # steps of `smoothing.smooth`; 0: none
        smoothing_angle: float = 20.0  # degrees; see there
        sharpening: int = 80  # steps of `smoothing.sharp_normals`; 0: none
        sharpening_angle: float = 20.0  # degrees; see there, likewise …
        flat: float = 10.0  # … this
        outlines: bool = True  # whether the photos' are followed; without, nothing is sharpened
        texture_size: int = 2048

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

    def texture(self, surface: trimesh.Trimesh, photos: Tensor, cameras: Tensor, order: int) -> Atlas:
        """The surface with a texture from the photos.

        Args:
            surface: what `refine` gives.
            photos: colour on white and alpha, [N, 4, S, S].
            cameras: of the field's world, [N, ≥ 3].
            order: of the object's rotational symmetry: what no photo shows may be on the other sides.
        """
        if not len(surface.faces):
            return Atlas.empty()
        return bake(surface, photos.cpu(), turned(cameras.cpu(), order), self.config.texture_size)

    def write(
        self, folder: Path, surface: trimesh.Trimesh, atlas: Atlas, placement: Placement, size: Size
    ) -> trimesh.Trimesh:
        """Write the files.

        Args:
            surface: what `refine` gives.
            atlas: what `texture` makes of it, which is moved.
            placement: from the field's world to the results'.
            size: of the object in the files.

        Returns:
            The textured mesh in the files' world, z up.
        """
        placement = size.placed(placement)
        placement.mesh(atlas.mesh)
        write_obj(folder, atlas)
        write_glb(folder / "mesh.glb", atlas.mesh)
        write_splats(folder / "splat.ply", atlas.mesh)
        write_stl(folder / "mesh.stl", placement.mesh(surface.copy()).apply_scale(size.stl_unit))
        return atlas.mesh

    def extract(self) -> trimesh.Trimesh:
        """The mesh in the field's world, triangles counter-clockwise from outside; empty where nothing is dense."""
        mesh = self.level_set(self.config.density)
        if not len(mesh.faces):
            return mesh
        # Many of marching cubes' triangles are slivers, whose normals are noise; half of them say as much. Among larger
        # ones the filter then hears of neighbours farther away.
        half = len(mesh.faces) // 2
        for faces in (min(2 * self.config.faces, half), min(self.config.faces, half)):
            mesh = simplified(mesh, faces)
            if self.config.smoothing:
                mesh = smooth(mesh, self.config.smoothing, self.config.smoothing_angle)
        mesh.visual.vertex_colors = self.colors(torch.tensor(mesh.vertices), torch.tensor(mesh.vertex_normals))
        return mesh

    def refine(self, surface: trimesh.Trimesh, photos: Tensor, cameras: Tensor) -> trimesh.Trimesh:
        """The surface with the photos' outlines and sharp edges between what is flat.

        Args:
            surface: what `extract` gives.
            photos, cameras: as of `texture`.
        """
        config = self.config
        if not config.outlines or not len(surface.faces):
            return surface
        distances, cameras = outline_distances(photos[:, 3]), cameras.cpu()
        mesh = follow_outlines(surface, np.array(surface.face_normals), distances, cameras)
        normals = sharp_normals(mesh, config.sharpening, config.sharpening_angle, config.flat)
        return follow_outlines(mesh, normals, distances, cameras)

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


def simplified(mesh: trimesh.Trimesh, faces: int) -> trimesh.Trimesh:
    """A closed surface with at most so many faces.

    Quadric decimation (Garland and Heckbert, 1997) keeps shapes best but may open a surface. Where it does, edges are
    collapsed within a tolerance that grows until the faces are few enough (Manifold); that never opens one.
    """
    if len(mesh.faces) <= faces:
        return mesh
    simple = mesh.simplify_quadric_decimation(face_count=faces)
    if simple.is_watertight:
        return simple
    solid = solid_of(mesh)
    if solid.status() != manifold3d.Error.NoError:
        return mesh
    tolerance = mesh.scale * FINEST
    while solid.num_tri() > faces:
        solid, tolerance = solid.simplify(tolerance), 1.5 * tolerance
    return mesh_of(solid)


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
