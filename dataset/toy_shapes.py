"""The shapes of procedural toys: parts, the surfaces they are made of, and one textured mesh from many parts.

    part = ellipsoid((0.3, 0.2, 0.2), paint).moved((0, 0, 0.5))
    assemble([part, *box((1, 1, 0.5), paints)])       a trimesh.Trimesh with one atlas

A part is a grid-like surface with its own paint, a small square image (dataset.toy_paint); `assemble` lays the paints
out in one atlas. Paints are given to the functions here, never chosen by them. z is up; the unit of length is free, for
make_toy normalises the whole toy.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual.material import SimpleMaterial

from dataset.toy_paint import TILE

# ---------------------------------------------------------------- parts and the atlas


@dataclass
class Part:
    """A surface with one paint."""

    points: np.ndarray  # [V, 3]
    faces: np.ndarray  # [F, 3]
    uv: np.ndarray  # [V, 2], in [0, 1]; v = 0 is the bottom of the paint
    paint: np.ndarray  # [TILE, TILE, 3] uint8

    def moved(self, offset=(0, 0, 0), rotation=None):
        """Rotated about the origin by a 3x3 matrix, then shifted."""
        points = self.points if rotation is None else self.points @ rotation.T
        return replace(self, points=points + np.asarray(offset, dtype=float))

    def scaled(self, factors):
        """Stretched about the origin by one factor or one per axis [3]."""
        return replace(self, points=self.points * np.asarray(factors, dtype=float))

    def mirrored(self):
        """The part on the other side of the plane y = 0."""
        return replace(self, points=self.points * (1, -1, 1), faces=self.faces[:, ::-1])


def both_sides(part):
    """The part and its mirror image across the plane y = 0."""
    return [part, part.mirrored()]


def joined(parts):
    """Parts that share a paint as one part."""
    starts = np.cumsum([0] + [len(part.points) for part in parts[:-1]])
    faces = np.concatenate([part.faces + start for part, start in zip(parts, starts)])
    return Part(
        np.concatenate([part.points for part in parts]), faces, np.concatenate([p.uv for p in parts]), parts[0].paint
    )


def rotation(axis, degrees):
    """The 3x3 matrix that turns by `degrees` about "x", "y" or "z", counterclockwise."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = cosine
    matrix[first, second], matrix[second, first] = -sine, sine
    return matrix


def assemble(parts):
    """One mesh of all parts, their distinct paints laid out row by row in a square atlas."""
    paints = list({id(part.paint): part.paint for part in parts}.values())
    slots = {id(paint): slot for slot, paint in enumerate(paints)}
    tiles = int(np.ceil(np.sqrt(len(paints))))
    side = tiles * TILE
    atlas = np.full((side, side, 3), 128, dtype=np.uint8)
    for slot, paint in enumerate(paints):
        row, column = divmod(slot, tiles)
        atlas[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] = paint

    faces, uv, start = [], [], 0
    for part in parts:
        row, column = divmod(slots[id(part.paint)], tiles)
        # Two texels short of the border: interpolation and the first mip levels never read the neighbouring tile.
        inside = 2 + part.uv * (TILE - 4)
        uv.append((inside + (column * TILE, (tiles - 1 - row) * TILE)) / side)
        faces.append(part.faces + start)
        start += len(part.points)
    material = SimpleMaterial(image=Image.fromarray(atlas))
    visual = trimesh.visual.TextureVisuals(uv=np.concatenate(uv), material=material)
    points = np.concatenate([part.points for part in parts])
    return trimesh.Trimesh(points, np.concatenate(faces), visual=visual, process=False)


# ---------------------------------------------------------------- deformations of a whole toy


def deformed(rng, points):
    """Stretched along the axes, now and then tapered or twisted along z: few objects are ideal. points: [V, 3]."""
    points = points - (points.min(axis=0) + points.max(axis=0)) / 2
    if rng.random() < 0.5:
        points = points * np.exp(rng.uniform(-0.2, 0.2, 3))
    height = points[:, 2:] / np.abs(points).max()
    if rng.random() < 0.15:
        points = points * np.where([True, True, False], 1 + rng.uniform(-0.3, 0.3) * height, 1)
    if rng.random() < 0.1:
        angle = np.radians(rng.uniform(-45, 45)) * height[:, 0]
        x, y, z = points.T
        points = np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle), z], axis=1)
    return points


def oriented(rng, points):
    """Turned about z; one toy in seven lies on its side, one in ten leans. points: [V, 3]."""
    chance = rng.random()
    if chance < 0.14:
        points = points @ rotation(rng.choice(["x", "y"]), rng.choice([-90, 90])).T
    elif chance < 0.24:
        points = points @ rotation(rng.choice(["x", "y"]), rng.uniform(-40, 40)).T
    return points @ rotation("z", rng.uniform(0, 360)).T


# ---------------------------------------------------------------- surfaces


@cache
def grid_topology(rows, columns):
    """Faces [F, 3] and uv [rows * columns, 2] of a grid of vertices, row 0 at v = 0; outward where u × v is outward."""
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (part.ravel() for part in (index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]))
    faces = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    v, u = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    return faces, np.stack([u, v], axis=-1).reshape(-1, 2)


def sheet(points, paint, v=None):
    """The surface through a grid of points [R, C, 3]; repeated rows or columns make creases. v: [R], default even."""
    faces, uv = grid_topology(*points.shape[:2])
    if v is not None:
        uv = np.stack([uv[:, 0], np.repeat(v, points.shape[1])], axis=1)
    points = points.reshape(-1, 3)
    a, b, c = (points[faces[:, corner]] for corner in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    return Part(points, faces[area > 1e-7], uv, paint)


def spline(knots, samples):
    """Catmull-Rom curve [samples, D] through the knots [K, D]."""
    knots = np.asarray(knots, dtype=float)
    slopes = np.gradient(knots, axis=0)
    position = np.linspace(0, len(knots) - 1, samples)
    left = np.minimum(position.astype(int), len(knots) - 2)
    t = (position - left)[:, None]
    return (
        (2 * t**3 - 3 * t**2 + 1) * knots[left]
        + (t**3 - 2 * t**2 + t) * slopes[left]
        + (3 * t**2 - 2 * t**3) * knots[left + 1]
        + (t**3 - t**2) * slopes[left + 1]
    )


def creased(points):
    """Every point twice, so that the surface has an edge there: [P, D] -> [2 P, D]."""
    return np.repeat(np.asarray(points, dtype=float), 2, axis=0)


def lathe(profile, paint, segments=28, squareness=2.0, facets=0, arc=(0.0, 360.0)):
    """A surface of revolution about z.

    profile: [P, 2] (distance from the axis, z), bottom to top on the outside. squareness: exponent of the superellipse
    that replaces the circle. facets: that many flat sides instead. arc: degrees covered.
    """
    profile = np.asarray(profile, dtype=float)
    if facets:
        angle = creased(np.linspace(*arc, facets + 1))[1:-1] * np.pi / 180
        section = np.ones_like(angle)
    else:
        angle = np.radians(np.linspace(*arc, segments + 1))
        section = (np.abs(np.cos(angle)) ** squareness + np.abs(np.sin(angle)) ** squareness) ** (-1 / squareness)
    ring = np.stack([np.cos(angle) * section, np.sin(angle) * section, np.zeros_like(angle)], axis=1)
    points = profile[:, :1, None] * ring + profile[:, 1:, None] * np.array([0, 0, 1.0])
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(profile, axis=0), axis=1))])
    return sheet(points, paint, v=length / length[-1])


def shell(outside, thickness):
    """The profile of a vessel: up the outside profile [P, 2], over the rim, down the inside to the axis."""
    outside = np.asarray(outside)
    inside = np.maximum(outside - (thickness, 0), (0, outside[0, 1] + thickness))[::-1]
    return np.concatenate([[(0, outside[0, 1])], outside, outside[-1:], inside[:1], inside, [(0, inside[-1, 1])]])


def cylinder(radius, low, high, paint, top_radius=None, **options):
    """A closed cylinder, or with `top_radius` a cone, between two heights; options: those of `lathe`."""
    top_radius = radius if top_radius is None else top_radius
    rim = creased([(radius, low), (top_radius, high)])
    return lathe(np.concatenate([[(0, low)], rim, [(0, high)]]), paint, **options)


def disc(radius, paint, **section):
    """A flat plate at z = 0, of the same sections as `lathe`, with the paint seen from above, not wrapped around."""
    face = lathe([(radius, 0), (0, 0)], paint, **section)
    return replace(face, uv=face.points[:, :2] / radius / 2 + 0.5)


def ellipsoid(radii, paint, squareness=2.0, rings=12, segments=18):
    """A superellipsoid with radii [3]; squareness 2 is the ellipsoid, 5 nearly a rounded box."""
    polar = np.linspace(-90, 90, rings + 1) * np.pi / 180
    across, along = np.abs(np.cos(polar)), np.abs(np.sin(polar))
    bulge = (across**squareness + along**squareness) ** (-1 / squareness)
    across[[0, -1]] = 0
    profile = np.stack([bulge * across, bulge * np.sin(polar)], axis=1)
    return lathe(profile, paint, segments, squareness).scaled(radii)


def tube(path, radius, paint, sides=10, flatness=1.0, capped=True):
    """A tube around a path [P, 3] in parallel-transported frames; radius: number or [P]; flatness < 1: a strap."""
    path = np.asarray(path, dtype=float)
    radius = np.broadcast_to(np.asarray(radius, dtype=float), len(path))
    tangents = np.gradient(path, axis=0)
    if not capped:  # a ring: its ends meet and share their direction
        tangents[[0, -1]] = path[1] - path[-2]
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True) + 1e-12
    normal = np.cross(tangents[0], np.eye(3)[np.abs(tangents[0]).argmin()])
    normals = []
    for tangent in tangents:
        normal = normal - (normal @ tangent) * tangent
        normal = normal / np.sqrt(normal @ normal)
        normals.append(normal)
    normals = np.array(normals)
    binormals = np.cross(tangents, normals)
    angle = np.linspace(0, 2 * np.pi, sides + 1)[:, None]
    ring = np.cos(angle) * normals[:, None] + flatness * np.sin(angle) * binormals[:, None]
    points = path[:, None] + radius[:, None, None] * ring
    if capped:
        ends = [np.broadcast_to(path[end], points[:1].shape) for end in (0, -1)]
        points = np.concatenate([ends[0], points[:1], points, points[-1:], ends[1]])
    return sheet(points, paint)


def torus(radius, thickness, paint, segments=24):
    """A ring about z; radius: of its middle line; thickness: radius of its section."""
    angle = np.linspace(0, 2 * np.pi, segments + 1)
    path = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1) * radius
    return tube(path, thickness, paint, sides=8, capped=False)


BOX_AXES = np.array(  # right and up of each side as seen from outside: front, right, back, left, top, bottom
    [
        [(1, 0, 0), (0, 0, 1)],
        [(0, 1, 0), (0, 0, 1)],
        [(-1, 0, 0), (0, 0, 1)],
        [(0, -1, 0), (0, 0, 1)],
        [(1, 0, 0), (0, 1, 0)],
        [(1, 0, 0), (0, -1, 0)],
    ],
    dtype=float,
)


def box(size, paints, taper=1.0, cuts=3):
    """A box of size [3] about the origin: six parts for six paints in BOX_AXES' order. taper: top width over bottom."""
    steps = np.linspace(-1, 1, cuts + 1)
    across, along = steps[None, :, None], steps[:, None, None]
    parts = []
    for (right, up), paint in zip(BOX_AXES, paints):
        points = np.cross(right, up) + across * right + along * up
        points[..., :2] *= 1 + (taper - 1) * (points[..., 2:] + 1) / 2
        parts.append(sheet(points * np.asarray(size) / 2, paint))
    return parts


def block(size, paint, taper=1.0, cuts=2):
    """A box of size [3] about the origin as one part."""
    return joined(box(size, [paint] * 6, taper, cuts))


def prism(outline, height, side_paint, face_paint):
    """A plate of the given outline [P, 2], star-shaped about the origin, counterclockwise; height: along z, about 0."""
    outline = np.concatenate([outline, outline[:1]])
    levels = np.array([-height / 2, height / 2])
    edge = creased(outline)[1:-1]
    wall = np.concatenate([np.broadcast_to(edge, (2, *edge.shape)), np.repeat(levels, len(edge)).reshape(2, -1, 1)], 2)
    parts = [sheet(wall, side_paint)]
    reach = np.abs(outline).max()
    for level, fan in zip(levels, (outline[::-1], outline)):
        rows = np.stack([fan, 0 * fan])
        face = sheet(np.concatenate([rows, np.full((*rows.shape[:2], 1), level)], axis=2), face_paint)
        parts.append(replace(face, uv=face.points[:, :2] / reach / 2 + 0.5))
    return parts


# ---------------------------------------------------------------- larger pieces and random ones


def roof(size, eaves, fin, front_paint, end_paint):
    """A gable over a box of this size [3]: two slopes that meet in a fin along x, and its two ends, above z = 0."""
    half_width, half_depth, height = size[0] / 2, size[1] / 2, size[2]
    profile = creased([(half_depth + eaves, 0), (0.01, height), (0.01, height + fin), (0, height + fin)])[1:]
    ends = np.array([-half_width - eaves, half_width + eaves])
    points = np.stack(
        [np.stack([np.full(len(profile), x), -profile[:, 0], profile[:, 1]], axis=1) for x in ends], axis=1
    )
    slope = sheet(points, front_paint)
    triangle = np.array([[(half_width, -half_depth, 0), (half_width, half_depth, 0)], [(half_width, 0, height)] * 2])
    gable = sheet(triangle, end_paint)
    return [slope, slope.moved(rotation=rotation("z", 180)), gable, gable.moved(rotation=rotation("z", 180))]


def loop_handle(rng, radius, low, high, paint):
    """A handle in the xz plane at x = radius between two heights: round, eared or angular."""
    out = radius + (high - low) * rng.uniform(0.3, 0.8)
    knots = [(radius * 0.95, 0, high), (out, 0, high - 0.1 * (high - low)), (out, 0, low + 0.3 * (high - low))]
    path = spline([*knots, (radius * 0.95, 0, low)], 16)
    return tube(path, (high - low) * rng.uniform(0.06, 0.13), paint, flatness=rng.uniform(0.5, 1.8))


def slats(rng, length, height, thick, paint):
    """A fence centred at the origin in the xz plane: upright or level bars between two rails."""
    rails = [
        block((length, thick, thick * 2), paint).moved((0, 0, z)) for z in (-height / 2 + thick, height / 2 - thick)
    ]
    if rng.random() < 0.5:
        bar = block((thick * 1.5, thick, height), paint, cuts=1)
        return rails + [bar.moved((x, 0, 0)) for x in np.linspace(-0.5, 0.5, rng.integers(5, 11)) * (length - thick)]
    bar = block((length, thick, height * 0.12), paint, cuts=1)
    posts = [block((thick * 2, thick, height), paint, cuts=1).moved((x, 0, 0)) for x in (-length / 2, length / 2)]
    return rails + posts + [bar.moved((0, 0, z * height)) for z in np.linspace(-0.3, 0.3, rng.integers(1, 4))]


def solid(rng, paint):
    """A random primitive about one unit large."""
    kind = rng.integers(6)
    if kind == 0:
        return block(rng.uniform(0.4, 1.1, 3), paint, taper=rng.uniform(0.4, 1.2))
    if kind == 1:
        return ellipsoid(rng.uniform(0.25, 0.6, 3), paint, rng.choice([2, 2, 1.3, 4]))
    if kind == 2:
        return cylinder(0.5, -0.5, 0.5, paint, rng.choice([0.5, 0.5, 0, rng.uniform(0.1, 0.8)])).scaled(
            rng.uniform(0.4, 1.2, 3)
        )
    if kind == 3:
        return torus(rng.uniform(0.3, 0.4), rng.uniform(0.06, 0.16), paint)
    if kind == 4:
        return cylinder(0.5, -0.4, 0.4, paint, facets=int(rng.integers(3, 8))).scaled(rng.uniform(0.5, 1.2, 3))
    profile = spline(np.stack([rng.uniform(0.1, 0.5, 5), np.linspace(-0.5, 0.5, 5)], axis=1), 14)
    return lathe(np.concatenate([[(0, -0.5)], np.maximum(profile, (0.05, -1)), [(0, 0.5)]]), paint)
