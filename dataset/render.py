"""Renders of textured meshes: Embree finds the hits (`embreex`), numpy shades them.

Every ray of every view of one mesh goes through one batch, so that a whole view set costs a few numpy calls. Textures
are kept as mip pyramids in one flat array, hence any number of textures is looked up in one gather.
"""

from dataclasses import dataclass, field

import numpy as np
import trimesh
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from PIL import Image
from torch import Tensor
from trimesh.visual.material import MultiMaterial

from sap3d.cameras import maths as cam

RAYS_PER_BATCH = 1 << 20
CREASE_COS = np.float32(np.cos(np.radians(40)))  # faces that meet at a sharper angle are not smoothed together
MAX_VERTEX_FACES = 256  # vertices of more faces than this (poles, fans) keep their faces' own normals
DEFAULT_COLOUR = (180, 180, 180)
SHADOW_OFFSET = np.float32(4e-3)  # world units off the surface, so that a point does not hide itself


@dataclass(frozen=True)
class Lighting:
    """Lights fixed in the world, so that a surface point looks alike in all views.

    Colour = albedo · (ambient + Σ intensity · half-Lambert) + specular · Σ intensity · Phong, clipped to [0, 1].
    """

    ambient: float = 0.65
    directions: np.ndarray = field(default_factory=lambda: np.array([[0.35, 0.25, 0.9]]))  # towards the lights, [L, 3]
    intensities: np.ndarray = field(default_factory=lambda: np.array([0.35]))  # [L]
    specular: float = 0.0
    shininess: float = 20.0
    distance: float = np.inf  # of the lights from the origin, in world units
    shadow: float = 0.0  # share of the first light that is missing where the object shades itself


def random_lighting(rng: np.random.Generator) -> Lighting:
    """Lighting for training data: one to three soft lights, mostly from above, often gloss, shadows, a near lamp."""
    count = int(rng.integers(1, 4))
    directions = rng.normal(size=(count, 3))
    directions[:, 2] = np.abs(directions[:, 2]) + 0.2
    ambient = rng.uniform(0.45, 0.8)
    intensities = rng.dirichlet(np.ones(count)) * (rng.uniform(0.95, 1.1) - ambient)
    specular = rng.uniform(0, 0.4) if rng.random() < 0.4 else 0.0
    distance = rng.uniform(1.2, 4) if rng.random() < 0.5 else np.inf
    shadow = rng.uniform(0.3, 1) if rng.random() < 0.5 else 0.0
    return Lighting(ambient, directions, intensities, specular, rng.uniform(8, 40), distance, shadow)


class Surface:
    """What of a mesh is drawn: its triangles, and normals and colours at their corners.

    Args:
        mesh: in the world frame, about the origin. Its visual may be a `TextureVisuals` with one material, or with a
            `MultiMaterial` and `face_materials` (see `merge`), or a `ColorVisuals`.
    """

    def __init__(self, mesh: trimesh.Trimesh):
        self.vertices = np.ascontiguousarray(mesh.vertices, dtype=np.float32)
        self.faces = np.ascontiguousarray(mesh.faces, dtype=np.int32)
        self.normals = _by_corner(_corner_normals(self.vertices, self.faces))  # [3, F, 3]
        self.corner_colours = self.textures = None
        self._read_colours(mesh)

    def _read_colours(self, mesh: trimesh.Trimesh) -> None:
        visual = mesh.visual
        if visual.kind != "texture":
            if visual.kind == "face":
                colours = np.repeat(visual.face_colors[:, None, :3], 3, 1)
            elif visual.kind == "vertex":
                colours = visual.vertex_colors[self.faces][..., :3]
            else:
                colours = np.broadcast_to(np.array(DEFAULT_COLOUR, np.uint8), (len(self.faces), 3, 3))
            self.corner_colours = _by_corner(colours.astype(np.float32) / 255)
            return
        multiple = isinstance(visual.material, MultiMaterial)
        materials = visual.material.materials if multiple else [visual.material]
        self.textures = Textures([_texture(material) for material in materials])
        face_texture = visual.face_materials if multiple else np.zeros(len(self.faces))
        self.face_texture = np.asarray(face_texture, dtype=np.int32)
        uv = np.zeros((len(self.vertices), 2)) if visual.uv is None else np.nan_to_num(visual.uv)
        uv = uv.astype(np.float32)[self.faces]
        self.uv = _by_corner(uv)  # [3, F, 2]
        self.texel_density = self._texels_per_unit(uv)

    def _texels_per_unit(self, uv: np.ndarray) -> np.ndarray:
        """Texels of the finest level along one world unit, per face: √(area in the texture / area in the world)."""
        corners = self.vertices[self.faces]
        world = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1)
        a, b = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
        texture = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) * self.textures.texels[self.face_texture]
        return np.sqrt(texture / np.maximum(world, 1e-12)).astype(np.float32)


class Renderer:
    """Ray caster of one mesh, with its texture(s), vertex colours, face colours or plain material colours.

    Args:
        mesh: as `Surface` takes it.
    """

    def __init__(self, mesh: trimesh.Trimesh):
        self.surface = Surface(mesh)
        vertices = self.surface.vertices
        self._scene = EmbreeScene()
        TriangleMesh(self._scene, vertices, self.surface.faces)
        self._low, self._high = vertices.min(0) - 1e-4, vertices.max(0) + 1e-4

    def render(self, cameras: Tensor, size: int, supersample: int = 2, lighting: Lighting | None = None) -> np.ndarray:
        """Anti-aliased views, averaged over supersample² rays a pixel in premultiplied alpha.

        Args:
            cameras: [V, 3], [V, 5] or [V, 7].
            size: image side in pixels.
            lighting: default is mostly ambient with one oblique light from above.

        Returns:
            uint8 RGBA with straight alpha, [V, size, size, 4].
        """
        lighting = lighting or Lighting()
        side = size * supersample
        images = []
        for batch in cameras.detach().cpu().float().split(max(1, RAYS_PER_BATCH // side**2)):
            origins, directions, hit_ray, hits = self._cast(batch, side)
            samples = np.zeros((len(batch) * side**2, 4), np.float32)
            tangents = cam.half_fov_tangents(cam.full_cameras(batch)).numpy()[hit_ray // side**2, 0]
            footprint = hits["tfar"] * tangents * np.float32(2 / size)
            samples[hit_ray, :3] = self._shade(hits, origins, directions, footprint, lighting)
            samples[hit_ray, 3] = 1
            blocks = samples.reshape(len(batch), size, supersample, size, supersample, 4)
            # Plain additions: numpy's sum over two short axes is several times slower.
            total = sum(blocks[:, :, i, :, j] for i in range(supersample) for j in range(supersample))
            images.append(_straight_uint8(total / np.float32(supersample**2)))
        return np.concatenate(images)

    def depth(self, cameras: Tensor, size: int) -> np.ndarray:
        """Depth along the viewing axis at every pixel's centre, infinite where nothing is hit, [V, size, size]."""
        _, _, hit_ray, hits = self._cast(cameras.detach().cpu().float(), size)
        depth = np.full(len(cameras) * size**2, np.inf, np.float32)
        depth[hit_ray] = hits["tfar"]
        return depth.reshape(len(cameras), size, size)

    def _cast(self, cameras: Tensor, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict]:
        """Cast side² rays a camera: origins and directions of the rays that hit, their indices, and Embree's hits."""
        origins, directions = cam.rays(cameras, cam.pixel_grid(side))
        directions = directions.numpy().reshape(-1, 3)
        origins = origins.expand(-1, side**2, -1).numpy().reshape(-1, 3)
        candidates = np.flatnonzero(_meets_box(origins, directions, self._low, self._high))
        origins, directions = np.take(origins, candidates, 0), np.take(directions, candidates, 0)
        if not len(candidates):
            empty = np.zeros(0, np.float32)
            return origins, directions, candidates, {"primID": empty.astype(int), "u": empty, "v": empty, "tfar": empty}
        result = self._scene.run(origins, directions, output=1)
        hit = np.flatnonzero(result["primID"] >= 0)
        return origins[hit], directions[hit], candidates[hit], {k: result[k][hit] for k in ("primID", "u", "v", "tfar")}

    def _shade(
        self, hits: dict, origins: np.ndarray, directions: np.ndarray, footprint: np.ndarray, lighting: Lighting
    ) -> np.ndarray:
        """Colours in [0, 1] of H hits, [H, 3]."""
        surface, face, u, v = self.surface, hits["primID"], hits["u"][:, None], hits["v"][:, None]
        weights = (1 - u - v, u, v)

        def interpolate(corners: np.ndarray) -> np.ndarray:
            return sum(weight * np.take(corners[i], face, axis=0) for i, weight in enumerate(weights))

        if surface.textures is None:
            albedo = interpolate(surface.corner_colours)
        else:
            level = np.log2(np.maximum(surface.texel_density[face] * footprint, 1))
            albedo = surface.textures.sample(surface.face_texture[face], interpolate(surface.uv), level)
        normals = _normalise(interpolate(surface.normals))
        # Two-sided: scans have flipped and single-sheet faces, so the normal is turned towards the camera.
        facing = (normals * directions).sum(-1, keepdims=True)
        normals = np.where(facing > 0, -normals, normals)
        points = origins + hits["tfar"][:, None] * directions
        lights = self._towards_lights(points, lighting)
        intensities = np.broadcast_to(np.asarray(lighting.intensities, np.float32), lights.shape[:2])
        if lighting.shadow > 0:
            intensities = intensities.copy()
            intensities[:, 0] *= 1 - np.float32(lighting.shadow) * self._shaded(points, normals, lights[:, 0])
        half_lambert = ((np.einsum("hc,hlc->hl", normals, lights) + 1) / 2) ** 2
        colour = albedo * (np.float32(lighting.ambient) + (half_lambert * intensities).sum(1))[:, None]
        if lighting.specular > 0:
            view = _normalise(directions)
            mirrored = view - 2 * (view * normals).sum(-1, keepdims=True) * normals
            cosines = np.maximum(np.einsum("hc,hlc->hl", mirrored, lights), 0)
            highlight = (cosines ** np.float32(lighting.shininess) * intensities).sum(1)
            colour += np.float32(lighting.specular) * highlight[:, None]
        return colour.clip(0, 1)

    def _towards_lights(self, points: np.ndarray, lighting: Lighting) -> np.ndarray:
        """Unit vectors from points [H, 3] to each light, [H, L, 3]."""
        lights = _normalise(np.asarray(lighting.directions, np.float32).reshape(-1, 3))
        if np.isinf(lighting.distance):
            return np.broadcast_to(lights, (len(points), *lights.shape))
        return _normalise(lights * np.float32(lighting.distance) - points[:, None])

    def _shaded(self, points: np.ndarray, normals: np.ndarray, lights: np.ndarray) -> np.ndarray:
        """Which points [H, 3] the object itself hides from a light in directions [H, 3], bool [H]."""
        if not len(points):
            return np.zeros(0, bool)
        origins = np.ascontiguousarray(points + SHADOW_OFFSET * normals, np.float32)
        return self._scene.run(origins, np.ascontiguousarray(lights, np.float32), query="OCCLUDED") >= 0


class Textures:
    """Mip pyramids of several RGB textures in one flat array; wrap mode repeat, bilinear on the nearest level."""

    def __init__(self, images: list[Image.Image]):
        levels, sizes, first, offset = [], [], [], 0
        for image in images:
            first.append(len(sizes))
            while True:
                levels.append(np.asarray(image, dtype=np.uint8).reshape(-1, 3))
                sizes.append((offset, image.width, image.height))
                offset += image.width * image.height
                if max(image.size) == 1:
                    break
                image = image.resize((max(1, image.width // 2), max(1, image.height // 2)), Image.Resampling.BOX)
        self.texels = np.array([image.width * image.height for image in images], np.float32)
        self.flat = np.concatenate(levels)
        self.sizes = np.array(sizes, np.int32)
        self.first = np.array(first, np.int32)
        self.last = np.array([*first[1:], len(sizes)], np.int32) - 1

    def sample(self, texture: np.ndarray, uv: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Colours in [0, 1], [H, 3], of textures [H] at uv [H, 2] (v up, as in OBJ) on mip levels [H]."""
        rounded = np.rint(level).astype(np.int32)
        entry = self.sizes[np.minimum(self.first[texture] + rounded, self.last[texture])]
        offset, width, height = entry[:, 0], entry[:, 1], entry[:, 2]
        x = (uv[:, 0] - np.floor(uv[:, 0])) * width - np.float32(0.5)
        y = (1 - (uv[:, 1] - np.floor(uv[:, 1]))) * height - np.float32(0.5)
        left, top = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
        fx, fy = (x - left).astype(np.float32)[:, None], (y - top).astype(np.float32)[:, None]
        columns = (left % width, (left + 1) % width)
        rows = (offset + top % height * width, offset + (top + 1) % height * width)

        def texels(row: int, column: int) -> np.ndarray:
            return np.take(self.flat, rows[row] + columns[column], axis=0)

        upper = texels(0, 0) * (1 - fx) + texels(0, 1) * fx
        lower = texels(1, 0) * (1 - fx) + texels(1, 1) * fx
        return (upper * (1 - fy) + lower * fy) * np.float32(1 / 255)


def _texture(material) -> Image.Image:
    """A material's RGB image; a material without one becomes a single texel of its colour."""
    image = getattr(material, "image", None)
    if image is None:
        image = getattr(material, "baseColorTexture", None)
    if image is not None:
        return image.convert("RGB")
    return Image.new("RGB", (1, 1), tuple(int(c) for c in material.main_color[:3]))


def _corner_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals at every face's corners, smooth over the faces that meet below the crease angle, [F, 3, 3].

    Vertices at the same place count as one: exporters split them at texture seams.
    """
    corners = vertices[faces]
    area_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    units = _normalise(area_normals)
    step = np.maximum(np.ptp(vertices, axis=0).max(), 1e-9) / (1 << 20)
    grid = np.rint((vertices - vertices.min(0)) / step).astype(np.int64)
    place = np.unique((grid[:, 0] << 42) + (grid[:, 1] << 21) + grid[:, 2], return_inverse=True)[1]
    corner_place = place[faces].reshape(-1)
    order = np.argsort(corner_place, kind="stable")
    counts = np.bincount(corner_place)
    start = np.cumsum(counts) - counts
    # Every corner (a face at a vertex) is paired with every face at that vertex.
    partners = np.where(counts <= MAX_VERTEX_FACES, counts, 0)[corner_place]
    mine = np.repeat(np.arange(faces.size), partners)
    rank = np.arange(len(mine)) - np.repeat(np.cumsum(partners) - partners, partners)
    theirs = order[start[corner_place[mine]] + rank] // 3
    smooth = (units[mine // 3] * units[theirs]).sum(-1) > CREASE_COS
    mine, theirs = mine[smooth], theirs[smooth]
    sums = [np.bincount(mine, area_normals[theirs, axis], faces.size) for axis in range(3)]
    normals = np.stack(sums, -1).reshape(-1, 3, 3)
    lonely = np.linalg.norm(normals, axis=-1, keepdims=True) < 1e-20
    return _normalise(np.where(lonely, units[:, None], normals).astype(np.float32))


def _by_corner(values: np.ndarray) -> np.ndarray:
    """[F, 3, C] → [3, F, C], contiguous: what is gathered per hit lies together."""
    return np.ascontiguousarray(values.transpose(1, 0, 2))


def _normalise(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.sqrt((vectors * vectors).sum(-1, keepdims=True)), np.float32(1e-20))


def _meets_box(origins: np.ndarray, directions: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Which rays meet an axis-aligned box (slab test); most of a view is empty, and Embree is the dearer test."""
    near, far = np.float32(0), np.float32(np.inf)
    for axis in range(3):
        inverse = 1 / np.where(np.abs(directions[:, axis]) < 1e-9, np.float32(1e-9), directions[:, axis])
        a = (low[axis] - origins[:, axis]) * inverse
        b = (high[axis] - origins[:, axis]) * inverse
        near, far = np.maximum(near, np.minimum(a, b)), np.minimum(far, np.maximum(a, b))
    return near <= far


def _straight_uint8(premultiplied: np.ndarray) -> np.ndarray:
    """Premultiplied float RGBA → straight uint8 RGBA."""
    alpha = premultiplied[..., 3:]
    colour = premultiplied[..., :3] / np.maximum(alpha, np.float32(1e-6))
    return (np.concatenate([colour, alpha], -1) * 255 + np.float32(0.5)).clip(0, 255).astype(np.uint8)


def merge(scene: trimesh.Scene) -> trimesh.Trimesh:
    """One mesh of all of a scene's meshes, with a `MultiMaterial` that keeps each one's texture or colour."""
    vertices, faces, uv, materials, face_materials, offset = [], [], [], [], [], 0
    for mesh in scene.dump(concatenate=False):
        if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces):
            continue
        textured = mesh.visual.kind == "texture" and mesh.visual.uv is not None
        if mesh.visual.kind == "texture":
            materials.append(mesh.visual.material)
        else:
            colour = mesh.visual.main_color if mesh.visual.defined else (*DEFAULT_COLOUR, 255)
            materials.append(trimesh.visual.material.SimpleMaterial(diffuse=colour))
        vertices.append(mesh.vertices)
        uv.append(mesh.visual.uv if textured else np.zeros((len(mesh.vertices), 2)))
        faces.append(mesh.faces + offset)
        face_materials.append(np.full(len(mesh.faces), len(materials) - 1))
        offset += len(mesh.vertices)
    if not vertices:
        raise ValueError("no triangles")
    visual = trimesh.visual.TextureVisuals(
        uv=np.concatenate(uv),
        material=MultiMaterial(materials=materials),
        face_materials=np.concatenate(face_materials),
    )
    return trimesh.Trimesh(np.concatenate(vertices), np.concatenate(faces), visual=visual, process=False)
