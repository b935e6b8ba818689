"""A texture for a mesh, baked from the photos: each texel takes the colour that the photos which see it show there."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import trimesh
import xatlas
from PIL import Image
from scipy import ndimage, sparse
from torch import Tensor
from trimesh.visual.material import PBRMaterial

from sap3d.cameras import maths as cam
from sap3d.field.synthesis import in_threads
from sap3d.images import to_uint8

FACING = 0.1  # least cosine between a normal and the line of sight from which its point is seen
BLUR = 1 / 24  # standard deviation that parts low frequencies from high ones, over the image's side
ROUNDS = 20  # of averaging normals with neighbours', so that photos are chosen for whole regions
SHIFT = 8  # binary digits of sub-pixel positions in OpenCV's drawing
STRIPE = 256  # rows of the texture that a thread paints at a time; even, for blocks of 2 × 2 texels
LIFT = 2e-3  # from the surface, where rays to the cameras start, over the diagonal of the mesh's box
INSIDE = (
    0.02  # half width of the window, over the image's, that must be foreground: at silhouettes photos show the back
)


@dataclass
class Atlas:
    """A mesh whose vertices are split along the seams of its charts, with their places in the texture."""

    mesh: trimesh.Trimesh
    uv: np.ndarray  # in [0, 1], v upwards, [V, 2]
    source: np.ndarray  # which vertex of the mesh that was unwrapped each was, [V]

    @classmethod
    def empty(cls) -> "Atlas":
        return cls(trimesh.Trimesh(), np.empty((0, 2)), np.empty(0, int))


@dataclass
class Texels:
    """The pixels of the texture that lie on the surface."""

    row: np.ndarray  # [T]
    column: np.ndarray  # [T]
    vertices: np.ndarray  # the face's, [T, 3]
    barycentric: np.ndarray  # float32 [T, 3]

    def interpolate(self, values: np.ndarray) -> np.ndarray:
        """Values of vertices [V, C] at the texels, float32 [T, C]."""
        values = np.asarray(values, np.float32)
        corners = zip(self.vertices.T, self.barycentric.T)
        return sum(values[vertex] * share[:, None] for vertex, share in corners)

    def stripes(self) -> list["Texels"]:
        """Those of STRIPE rows each."""
        cuts = np.searchsorted(self.row, np.arange(STRIPE, self.row[-1] + 1, STRIPE)) if len(self.row) else []
        return [Texels(*parts) for parts in zip(*(np.split(each, cuts) for each in vars(self).values()))]


def unwrap(mesh: trimesh.Trimesh) -> Atlas:
    """Charts by xatlas; vertex colours and normals go with the vertices."""
    source, faces, uv = xatlas.parametrize(np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.uint32))
    split = trimesh.Trimesh(
        mesh.vertices[source], faces, vertex_normals=mesh.vertex_normals[source], process=False, validate=False
    )
    split.visual.vertex_colors = mesh.visual.vertex_colors[source]
    return Atlas(split, uv, source)


def rasterise(atlas: Atlas, size: int) -> Texels:
    """Which face each texel's centre lies on or just beside; there its place is extrapolated."""
    corners = atlas.uv[atlas.mesh.faces] * size
    corners[..., 1] = size - corners[..., 1]
    owner = np.full((size, size), -1, np.int32)
    fixed = np.round((corners - 0.5) * (1 << SHIFT)).astype(np.int32)
    for face, triangle in enumerate(fixed):
        cv2.fillConvexPoly(owner, triangle, face, shift=SHIFT)
    row, column = np.nonzero(owner >= 0)
    face = owner[row, column]
    a, b, c = np.moveaxis(corners[face], 1, 0)
    point = np.stack([column, row], -1) + 0.5
    u, v, w = b - a, c - a, point - a
    area = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    area = np.where(np.abs(area) < 1e-9, np.inf, area)
    second = (w[:, 0] * v[:, 1] - w[:, 1] * v[:, 0]) / area
    third = (u[:, 0] * w[:, 1] - u[:, 1] * w[:, 0]) / area
    # On slivers a texel's width is many times the face's: so far is not extrapolated. The sum stays above 0.7.
    barycentric = np.stack([1 - second - third, second, third], -1).clip(-0.3, 1.3)
    barycentric /= barycentric.sum(-1, keepdims=True)
    return Texels(row, column, np.asarray(atlas.mesh.faces)[face], barycentric.astype(np.float32))


def blocks_of(texels: Texels, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of 2 × 2 texels, which share one ray to each camera.

    Returns:
        The first texel of each block, [B], and each texel's block, [T].
    """
    block = texels.row // 2 * size + texels.column // 2
    _, first, which = np.unique(block, return_index=True, return_inverse=True)
    return first, which


@dataclass
class Look:
    """What a photo shows of texels."""

    seen: np.ndarray  # which texels, [K]
    weight: np.ndarray  # 1 for a head-on look from a distance of 1, [K]
    low: np.ndarray  # colours, blurred, [K, 3]
    high: np.ndarray  # what of the colours blurring takes away, [K, 3]


def looks(
    mesh: trimesh.Trimesh,
    points: np.ndarray,
    normals: np.ndarray,
    broad: np.ndarray,
    blocks: tuple[np.ndarray, np.ndarray],
    maps: Tensor,
    cameras: Tensor,
    sharpness: float,
) -> Iterator[Look]:
    """What the photos show at points of the surface, each at each of its cameras.

    Args:
        points, normals: float32 [T, 3].
        broad: normals of the regions about the points, float32 [T, 3].
        blocks: of points that are seen or hidden together: the first of each block, and each point's block.
        maps: the photos' `bands`, [N, 7, S, S].
        cameras: [M · N, ≥ 3]; the photos' in turn.
        sharpness: exponent of the cosine between a line of sight and the region's normal in a photo's weight.
    """
    first, which = blocks
    for index, camera in enumerate(cameras):
        eye = cam.camera_positions(camera.double()).float().numpy()
        sight = eye - points
        distance = np.linalg.norm(sight, axis=-1)
        sight /= distance[:, None]
        facing = (sight * broad).sum(-1).clip(FACING)
        shown = np.flatnonzero(seen(mesh, points[first], normals[first], eye)[which])
        values = cam.sample_images(maps[index % len(maps)][None], camera[None], torch.from_numpy(points[shown])[None])
        low, high, inside = np.split(values[0].T.numpy(), (3, 6), axis=1)
        yield Look(shown, facing[shown] ** sharpness / distance[shown] ** 2 * (inside[:, 0] > 0.9), low, high)


def seen(mesh: trimesh.Trimesh, points: np.ndarray, normals: np.ndarray, eye: np.ndarray) -> np.ndarray:
    """Which points of a surface [P, 3], with normals [P, 3], are seen from a place [3], bool [P]."""
    sight = eye - points
    sight /= np.linalg.norm(sight, axis=-1, keepdims=True)
    visible = (sight * normals).sum(-1) > FACING
    asked = np.flatnonzero(visible)
    if len(asked):
        visible[asked] = ~mesh.ray.intersects_any(points[asked] + LIFT * mesh.scale * normals[asked], sight[asked])
    return visible


def broad_normals(mesh: trimesh.Trimesh) -> np.ndarray:
    """Vertex normals averaged over neighbourhoods, [V, 3]."""
    start, end = mesh.edges_unique.T
    ones, count = np.ones(len(start)), len(mesh.vertices)
    links = sparse.coo_matrix((ones, (start, end)), (count, count)).tocsr()
    links = links + links.T + sparse.identity(count, format="csr")
    normals = np.array(mesh.vertex_normals)
    for _ in range(ROUNDS):
        normals = links @ normals
        normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-9)
    return normals


def bands(photos: Tensor) -> Tensor:
    """Photos [N, 4, S, S] in two bands of frequencies, and where they are foreground: [N, 7, S, S].

    The lower one is blurred within the foreground alone; both add up to the photo there.
    """
    width = photos.shape[-1] * BLUR
    alpha = photos[:, 3:]
    own = photos[:, :3] * alpha
    blurred = torch.from_numpy(ndimage.gaussian_filter(torch.cat([own, alpha], 1).numpy(), (0, 0, width, width)))
    low = blurred[:, :3] / blurred[:, 3:].clamp(min=1e-3)
    window = 2 * round(INSIDE * photos.shape[-1]) + 1
    inside = -F.max_pool2d(-alpha, window, 1, window // 2)
    return torch.cat([low, photos[:, :3] - low, inside], 1)


def bake(
    mesh: trimesh.Trimesh,
    photos: Tensor,
    cameras: Tensor,
    size: int = 2048,
    sharpness: float = 4.0,
    choice: float = 32.0,
    far_weight: float = 0.01,
    field_weight: float = 0.001,
) -> Atlas:
    """The mesh, unwrapped, with a texture in the place of its vertex colours.

    Of low frequencies a texel takes the photos' weighted mean, so that nothing is seen of where one photo follows
    another, though they differ in exposure; of high ones what the photo that sees it best shows there, for photos a
    little beside their places would blur each other (two bands of Burt and Adelson's multiresolution spline, 1983).

    Args:
        mesh: watertight, with vertex colours: they fill what no photo sees, and blend in where photos look askance.
        photos: colour on white and alpha in [0, 1], [N, 4, S, S].
        cameras: of the photos, [N, ≥ 3], and of those again from other sides that look alike, [M · N, ≥ 3].
        size: of the texture.
        sharpness: see `looks`.
        choice: exponent of the weights that high frequencies have.
        far_weight: of photos from other sides.
        field_weight: of the vertex colours beside the photos'.
    """
    atlas = unwrap(mesh)
    texels = rasterise(atlas, size)
    given = (atlas.mesh.vertices, atlas.mesh.vertex_normals, broad_normals(mesh)[atlas.source])
    faded, maps = atlas.mesh.visual.vertex_colors[:, :3] / np.float32(255), bands(photos)

    def painted(part: Texels) -> np.ndarray:
        points, *normals = (part.interpolate(values) for values in given)
        for each in normals:
            each /= np.linalg.norm(each, axis=-1, keepdims=True).clip(1e-9)
        low = field_weight * part.interpolate(faded).astype(float)
        weight, high, best = np.full(len(points), field_weight), np.zeros((len(points), 3)), np.zeros(len(points))
        for index, look in enumerate(looks(mesh, points, *normals, blocks_of(part, size), maps, cameras, sharpness)):
            own = look.weight.astype(float) * (1.0 if index < len(photos) else far_weight)
            chosen = own**choice
            low[look.seen] += own[:, None] * look.low
            weight[look.seen] += own
            high[look.seen] += chosen[:, None] * look.high
            best[look.seen] += chosen
        shown = (1 - field_weight / weight) / best.clip(1e-300)
        return low / weight[:, None] + shown[:, None] * high

    image, covered = np.zeros((size, size, 3), np.float32), np.zeros((size, size), bool)
    seen(mesh, *(np.asarray(each[:1]) for each in given[:2]), np.ones(3))  # builds what threads then share
    image[texels.row, texels.column] = np.concatenate(in_threads(painted, texels.stripes()))
    covered[texels.row, texels.column] = True
    # Charts are continued outwards, so that filtering at their edges meets no background.
    nearest = ndimage.distance_transform_edt(~covered, return_distances=False, return_indices=True)
    picture = Image.fromarray(to_uint8(image[tuple(nearest)]))
    material = PBRMaterial(name="mesh", baseColorTexture=picture, metallicFactor=0.0, roughnessFactor=1.0)
    atlas.mesh.visual = trimesh.visual.TextureVisuals(uv=atlas.uv, material=material)
    return atlas


def sample(mesh: trimesh.Trimesh, count: int, even: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At most `count` points on a textured surface [P, 3], its normals there [P, 3] and its colours, uint8 [P, 3].

    Args:
        even: leave out what is much nearer to another than they are in the mean; then there are somewhat fewer.
    """
    if not len(mesh.faces):
        return np.empty((0, 3)), np.empty((0, 3)), np.empty((0, 3), np.uint8)
    draw = trimesh.sample.sample_surface_even if even else trimesh.sample.sample_surface
    points, faces = draw(mesh, count, seed=0)
    barycentric = trimesh.triangles.points_to_barycentric(mesh.triangles[faces], points)
    uv = (mesh.visual.uv[mesh.faces[faces]] * barycentric[..., None]).sum(1)
    return np.asarray(points), mesh.face_normals[faces], mesh.visual.material.to_color(uv)[:, :3]
