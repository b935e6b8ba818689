"""Procedural textured objects: what the small networks learn from, the `toy_demo` objects, and regularisation objects.

    make_toy(7)                        a trimesh.Trimesh, z up, normalised, one atlas texture; the same on every run
    make_toy(toy_seed("toy_007"))      the demo object of that name

A toy is a list of parts. A part is a grid-like surface with its own paint, a small square image; `assemble` lays the
paints out in one atlas. A family is a function rng -> parts; FAMILIES lists them with their weights. Learning 3D from
procedural shapes alone follows LRM-Zero (arXiv 2406.09371).
"""

import re
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import trimesh
from PIL import Image, ImageDraw, ImageFont
from trimesh.visual.material import SimpleMaterial

from sap3d.errors import UserError
from sap3d.meshes import normalise

TILE = 128  # side of one part's paint in the atlas, pixels
CANVAS = 176  # labels are drawn at about this size, then reduced to a tile: antialiasing
DEMO_SEED_START = 1_000_000  # training draws its seeds below this one
LETTERS = tuple("EEETTAAOOINSHRDLUCMFWYPVBGKJQXZ0258")


def toy_seed(name: str) -> int:
    """The seed of the demo object called `name`: "toy_007" -> 1_000_007, outside the training seeds 0..999_999."""
    match = re.fullmatch(r"toy_([0-9]{3,6})", name)
    if match is None:
        raise UserError(f"no toy object is called {name!r}: the names are toy_000, toy_001, ...")
    return DEMO_SEED_START + int(match[1])


def make_toy(seed: int) -> trimesh.Trimesh:
    """The object of this seed: normalised, z up, with per-vertex uv (v = 0 is the image's bottom row) and one atlas."""
    rng = np.random.default_rng(seed)
    families, weights = zip(*FAMILIES)
    family = families[rng.choice(len(families), p=np.array(weights) / sum(weights))]
    mesh = assemble(family(rng))
    mesh.vertices = oriented(rng, deformed(rng, mesh.vertices))
    return normalise(mesh)


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
        return replace(self, points=self.points * np.asarray(factors, dtype=float))

    def mirrored(self):
        """The part on the other side of the plane y = 0."""
        return replace(self, points=self.points * (1, -1, 1), faces=self.faces[:, ::-1])


def both_sides(part):
    return [part, part.mirrored()]


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


def deformed(rng, points):
    """Stretched along the axes, now and then tapered or twisted along z, so that few objects are ideal shapes."""
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
    """Turned about z; one toy in seven lies on its side, one in ten leans."""
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
    """Every point twice, so that the surface has an edge there instead of a smooth bend."""
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


def cylinder(radius, low, high, paint, top_radius=None, **options):
    """A closed cylinder, or with `top_radius` a cone, between two heights."""
    top_radius = radius if top_radius is None else top_radius
    rim = creased([(radius, low), (top_radius, high)])
    return lathe(np.concatenate([[(0, low)], rim, [(0, high)]]), paint, **options)


def ellipsoid(radii, paint, squareness=2.0, rings=12, segments=18):
    """A superellipsoid; squareness 2 is the ellipsoid, 5 nearly a rounded box."""
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
    """A box about the origin: six parts for six paints in BOX_AXES' order. taper: width at the top over bottom."""
    steps = np.linspace(-1, 1, cuts + 1)
    across, along = steps[None, :, None], steps[:, None, None]
    parts = []
    for (right, up), paint in zip(BOX_AXES, paints):
        points = np.cross(right, up) + across * right + along * up
        points[..., :2] *= 1 + (taper - 1) * (points[..., 2:] + 1) / 2
        parts.append(sheet(points * np.asarray(size) / 2, paint))
    return parts


def block(size, paint, taper=1.0, cuts=2):
    """A box as one part."""
    return joined(box(size, [paint] * 6, taper, cuts))


def joined(parts):
    """Parts that share a paint as one part."""
    starts = np.cumsum([0] + [len(part.points) for part in parts[:-1]])
    faces = np.concatenate([part.faces + start for part, start in zip(parts, starts)])
    return Part(
        np.concatenate([part.points for part in parts]), faces, np.concatenate([p.uv for p in parts]), parts[0].paint
    )


def prism(outline, height, side_paint, face_paint):
    """A plate of the given outline [P, 2], star-shaped about the origin, counterclockwise, lying in the xy plane."""
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


# ---------------------------------------------------------------- colours and paints

COLOUR_KINDS = (  # weight, then the ranges of hue, saturation and value
    (0.42, (0, 1), (0.6, 1), (0.45, 1)),  # vivid
    (0.12, (0, 1), (0.2, 0.5), (0.65, 0.95)),  # pastel
    (0.14, (0, 1), (0.3, 0.9), (0.08, 0.4)),  # dark
    (0.11, (0, 1), (0, 0.08), (0.05, 0.75)),  # grey
    (0.12, (0.04, 0.11), (0.4, 0.75), (0.25, 0.75)),  # brown
    (0.09, (0, 1), (0, 0.06), (0.88, 1)),  # white
)


def colour(rng):
    """A random colour, [3] in 0..255."""
    kind = COLOUR_KINDS[rng.choice(len(COLOUR_KINDS), p=[kind[0] for kind in COLOUR_KINDS])]
    hue, saturation, value = (rng.uniform(*limits) for limits in kind[1:])
    shift = (np.array([5, 3, 1]) + hue * 6) % 6
    return 255 * (value - value * saturation * np.clip(np.minimum(shift, 4 - shift), 0, 1))


def palette(rng):
    """The five colours [5, 3] of one object; the second stands out against the first."""
    colours = np.array([colour(rng) for _ in range(5)])
    order = np.linalg.norm(colours - colours[0], axis=1).argsort()
    return colours[order[[0, 4, 3, 2, 1]]]


def pick(rng, colours):
    return colours[rng.integers(len(colours))]


def ink(colour):
    """A colour as PIL wants it."""
    return tuple(int(channel) for channel in colour)


@cache
def interpolation(cells):
    """[TILE, cells + 1]: bilinear interpolation from cells + 1 samples to a tile's side."""
    position = np.linspace(0, cells, TILE)[:, None]
    return np.clip(1 - np.abs(position - np.arange(cells + 1)), 0, 1).astype(np.float32)


def noise(rng, columns, rows=None):
    """A smooth random field [TILE, TILE] in 0..1."""
    rows = rows or columns
    samples = rng.random((rows + 1, columns + 1), dtype=np.float32)
    return interpolation(rows) @ samples @ interpolation(columns).T


RAMP = np.linspace(0, 1, TILE, dtype=np.float32)


def blended(first, second, mask):
    """The paint with `first` where the mask [TILE, TILE] is 0 and `second` where it is 1."""
    paint = np.asarray(first, np.float32) + mask[..., None] * (np.asarray(second) - first).astype(np.float32)
    return np.clip(paint, 0, 255).astype(np.uint8)


def plain(rng, colour):
    """One colour, faintly uneven as real surfaces are."""
    return blended(np.asarray(colour) * 0.9, np.minimum(np.asarray(colour) * 1.06, 255), noise(rng, 5))


def gradient_mask(rng):
    angle = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)])
    return np.clip(0.5 + np.cos(angle) * (RAMP - 0.5) + np.sin(angle) * (RAMP[:, None] - 0.5), 0, 1)


def cloud_mask(rng):
    field = 0.6 * noise(rng, int(rng.integers(3, 9))) + 0.4 * noise(rng, 20)
    return np.clip((field - 0.5) * rng.uniform(1.5, 8) + 0.5, 0, 1)


def wood(rng):
    """Wavy lines along v."""
    across = RAMP * rng.uniform(3, 9) + 1.2 * noise(rng, 3, 2)
    tone = np.array([150, 100, 55]) * rng.uniform(0.6, 1.25, 3)
    return blended(tone, tone * 0.6, 0.5 + 0.35 * np.sin(2 * np.pi * across) + 0.3 * (noise(rng, 50, 4) - 0.5))


def metal(rng):
    """Fine brush streaks and a broad highlight."""
    streaks = 0.4 * noise(rng, 2, 60) + 0.6 * np.sin(np.pi * (RAMP * 2 + rng.random())) ** 2
    return blended(rng.uniform(60, 130) * np.ones(3), rng.uniform(150, 225) * np.ones(3), streaks)


def stripe_mask(rng):
    slope = rng.choice([(1, 0), (0, 1), (1, 1), (2, -1)])
    phase = slope[0] * RAMP + slope[1] * RAMP[:, None] + 0 * RAMP[:, None]
    return ((phase * rng.integers(2, 9)) % 1 < rng.uniform(0.2, 0.8)).astype(np.float32)


def check_mask(rng):
    squares = (RAMP * rng.integers(2, 9)).astype(int) + (RAMP[:, None] * rng.integers(2, 9)).astype(int)
    return (squares % 2).astype(np.float32)


def dot_mask(rng):
    count, radius = rng.integers(2, 8), rng.uniform(0.15, 0.45)
    x, y = (RAMP * count) % 1 - 0.5, (RAMP[:, None] * count) % 1 - 0.5
    return (x**2 + y**2 < radius**2).astype(np.float32)


def material(rng, colours):
    """What toys, tools and furniture are made of: plain, wood, metal, mottled or patterned."""
    chance = rng.random()
    if chance < 0.36:
        return plain(rng, pick(rng, colours))
    if chance < 0.45:
        return wood(rng)
    if chance < 0.5:
        return metal(rng)
    if chance < 0.76:
        return blended(colours[0], pick(rng, colours), pick(rng, (gradient_mask, cloud_mask))(rng))
    return blended(colours[0], colours[1], pick(rng, (stripe_mask, stripe_mask, check_mask, dot_mask))(rng))


# ---------------------------------------------------------------- labels: what is printed on products


@cache
def font(size):
    return ImageFont.load_default(size)


def word(rng, shortest=2, longest=9):
    return "".join(LETTERS[i] for i in rng.integers(len(LETTERS), size=rng.integers(shortest, longest + 1)))


def readable(colours, background):
    """The colour that stands out most against the background, black and white included."""
    candidates = np.concatenate([colours, [(0, 0, 0), (255, 255, 255)]])
    return ink(candidates[np.abs(candidates - background).sum(axis=1).argmax()])


def field(rng, image, colours):
    """A band or a corner of another colour, sometimes with a slanted edge."""
    width, height = image.size
    draw = ImageDraw.Draw(image)
    low, high = np.sort(rng.uniform(-0.2, 1.2, 2))
    slant = rng.choice([0, 0, rng.uniform(-0.4, 0.4)])
    corners = [(0, low), (1, low + slant), (1, high + slant), (0, high)]
    if rng.random() < 0.3:
        corners = [(y, x) for x, y in corners]
    draw.polygon([(x * width, y * height) for x, y in corners], fill=ink(pick(rng, colours)))


def shape(rng, draw, bounds, fill):
    """A random ellipse, rectangle, star or triangle within bounds (left, top, right, bottom)."""
    left, top, right, bottom = bounds
    kind = rng.integers(4)
    if kind == 0:
        draw.ellipse(bounds, fill=fill)
    elif kind == 1:
        draw.rounded_rectangle(bounds, radius=min(right - left, bottom - top) * rng.uniform(0, 0.5), fill=fill)
    else:
        corners = rng.integers(3, 9)
        angle = np.linspace(0, 2 * np.pi, 2 * corners, endpoint=False) + rng.uniform(0, 6)
        reach = np.where(np.arange(2 * corners) % 2, rng.uniform(0.4, 1), 1) / 2
        x = (left + right) / 2 + (right - left) * reach * np.cos(angle)
        y = (top + bottom) / 2 + (bottom - top) * reach * np.sin(angle)
        draw.polygon(list(zip(x.tolist(), y.tolist())), fill=fill)


def region(rng, image, smallest, largest):
    """A random rectangle (left, top, right, bottom) with sides of these shares of the image."""
    width, height = image.size
    w, h = rng.uniform(smallest, largest, 2) * (width, height)
    left, top = rng.uniform(-0.05, 1.05, 2) * (width - w, height - h)
    return float(left), float(top), float(left + w), float(top + h)


def picture(rng, image, colours):
    """A heap of random shapes: fruit, faces, landscapes to a network that cannot read."""
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = region(rng, image, 0.35, 0.8)
    for _ in range(rng.integers(3, 9)):
        x, y = rng.uniform(left, right), rng.uniform(top, bottom)
        w, h = rng.uniform(0.1, 0.35, 2) * (right - left, bottom - top)
        shape(rng, draw, (x - w, y - h, x + w, y + h), ink(pick(rng, colours) * rng.uniform(0.6, 1)))


def photo(rng, image, colours):
    """A patch of soft mottled colour, as printed food and landscapes look from afar."""
    left, top, right, bottom = region(rng, image, 0.3, 1.0)
    first, second = pick(rng, colours), pick(rng, colours) * rng.uniform(0.3, 1.2)
    patch = Image.fromarray(blended(first, second, cloud_mask(rng))).resize((int(right - left), int(bottom - top)))
    mask = Image.new("L", patch.size, 255 * int(rng.integers(2)))
    ImageDraw.Draw(mask).ellipse((0, 0, *patch.size), fill=255)
    image.paste(patch, (int(left), int(top)), mask)


def logo(rng, image, colours):
    """A big word, often on a blob."""
    draw = ImageDraw.Draw(image)
    text = word(rng)
    left, top, right, bottom = region(rng, image, 0.45, 0.95)
    background = np.array(image.getpixel((int(image.width / 2), int(np.clip((top + bottom) / 2, 0, image.height - 1)))))
    if rng.random() < 0.5:
        background = pick(rng, colours)
        shape(rng, draw, (left, top, right, bottom), ink(background))
    size = int(np.clip(min((bottom - top) * 0.8, 1.5 * (right - left) / len(text)), 8, 90))
    middle = ((left + right) / 2, (top + bottom) / 2)
    draw.text(middle, text, font=font(size), fill=readable(colours, background), anchor="mm", stroke_width=size // 20)


def paragraph(rng, image, colours):
    """Lines of small print, sometimes on a panel."""
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = region(rng, image, 0.25, 0.7)
    background = np.array(image.getpixel(tuple(np.clip((left, top), 0, np.array(image.size) - 1).astype(int).tolist())))
    if rng.random() < 0.4:
        background = pick(rng, colours)
        draw.rectangle((left - 3, top - 3, right + 3, bottom + 3), fill=ink(background))
    size = int(rng.integers(7, 16))
    fill = readable(colours, background)
    for y in np.arange(top, bottom - size, size * 1.25)[:9]:
        count = max(int((right - left) / size * rng.uniform(0.8, 1.7)), 1)
        draw.text((left, y), word(rng, count, count), font=font(size), fill=fill)


def barcode(rng, image, colours):
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = region(rng, image, 0.2, 0.4)
    draw.rectangle((left, top, right, bottom), fill=(250, 250, 250))
    for x in np.arange(left + 3, right - 3, 4):
        draw.line((x, top + 3, x, bottom - 3), fill=(10, 10, 10), width=int(rng.integers(1, 4)))


def label(rng, colours, aspect=1.0):
    """A printed face; aspect: width over height of the surface it goes on, so that letters keep their shape."""
    stretch = np.sqrt(np.clip(aspect, 0.25, 4))
    image = Image.new("RGB", (int(CANVAS * stretch), int(CANVAS / stretch)), ink(colours[0]))
    for _ in range(rng.integers(0, 4)):
        field(rng, image, colours)
    elements = (picture, photo, logo, paragraph, barcode)
    for choice in rng.choice(5, size=rng.integers(2, 7), p=(0.24, 0.16, 0.3, 0.22, 0.08)):
        elements[choice](rng, image, colours)
    return np.asarray(image.resize((TILE, TILE), Image.Resampling.BOX))


def wrapper(rng, colours, aspect):
    """What goes around a bottle or can: mostly a label, now and then the same label on two sides, or no print."""
    chance = rng.random()
    if chance < 0.2:
        return material(rng, colours)
    if chance < 0.35:
        half = label(rng, colours, aspect / 2)[:, ::2]
        return np.concatenate([half, half], axis=1)
    return label(rng, colours, aspect)


# ---------------------------------------------------------------- families: packages


def face_labels(rng, colours, size):
    """Six paints for a box of this size: each side its own, or opposite sides alike, some without print."""
    width, depth, height = size
    aspects = (width / height, depth / height, width / height, depth / height, width / depth, width / depth)
    printed = rng.random(6) < (0.97, 0.85, 0.9, 0.85, 0.75, 0.4)
    paints = [label(rng, colours, a) if p else plain(rng, colours[0]) for a, p in zip(aspects, printed)]
    for side in (0, 1):
        if rng.random() < 0.25:
            paints[side + 2] = paints[side]
    return paints


def carton(rng):
    """A box with print on it; sometimes flat as a book, sometimes with a screw cap on top."""
    size = rng.uniform(0.25, 1, 3)
    if rng.random() < 0.2:
        size[rng.integers(3)] *= 0.3
    colours = palette(rng)
    parts = box(size, face_labels(rng, colours, size), taper=rng.choice([1, 1, 1, rng.uniform(0.75, 1.3)]))
    if rng.random() < 0.12:
        radius = size[:2].min() * rng.uniform(0.12, 0.3)
        cap = cylinder(radius, 0, rng.uniform(0.5, 1.5) * radius, plain(rng, colours[1]), segments=16)
        parts.append(cap.moved((rng.uniform(-0.2, 0.2) * size[0], rng.uniform(-0.2, 0.2) * size[1], size[2] / 2)))
    return parts


def roof(size, eaves, fin, front_paint, end_paint):
    """A gable over a box of this size: two slopes that meet in a fin along x, and its two ends, above z = 0."""
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


def gable_carton(rng):
    """A milk carton; with eaves and a chimney, a house."""
    size = rng.uniform((0.35, 0.35, 0.5), (0.6, 0.6, 1))
    colours = palette(rng)
    house = rng.random() < 0.25
    parts = box(size, face_labels(rng, colours, size))
    front, end = (
        (material(rng, colours[2:]), parts[1].paint) if house else (label(rng, colours, 2), material(rng, colours))
    )
    gable_size = (size[0], size[1], size[1] * rng.uniform(0.25, 0.6))
    fin = 0 if house else rng.uniform(0.05, 0.12)
    gable = [part.moved((0, 0, size[2] / 2)) for part in roof(gable_size, 0.06 * house, fin, front, end)]
    if rng.random() < 0.5:
        cap = cylinder(0.2 * size[1], 0, 0.25 * size[1], plain(rng, pick(rng, colours)), segments=16)
        tilt = rotation("x", 0 if house else np.degrees(np.arctan2(gable_size[2], size[1] / 2)))
        gable.append(cap.moved((rng.uniform(-0.1, 0.1), -size[1] / 4, size[2] / 2 + gable_size[2] / 2 - 0.01), tilt))
    return parts + gable


def bottle(rng):
    """Bottles and flasks, round, oval, squarish or faceted: body with print all round, shoulder, neck, cap."""
    colours = palette(rng)
    height, radius = 1.0, rng.uniform(0.13, 0.32)
    shoulder = rng.uniform(0.5, 0.8) * height
    neck = radius * rng.uniform(0.25, 0.6)
    section = {"squareness": rng.choice([2, 2, 2, 3, 5])}
    if rng.random() < 0.12:
        section = {"facets": int(rng.integers(4, 9))}
    squash = rng.choice([1, 1, rng.uniform(0.4, 0.85)])
    waist = rng.choice([0, rng.uniform(-0.3, 0.15)])
    body = spline([(radius, 0.03), (radius * (1 + waist), shoulder * rng.uniform(0.3, 0.7)), (radius, shoulder)], 8)
    top = spline([(radius, shoulder), (radius * 0.85, shoulder + 0.06), (neck * 1.1, 0.86), (neck, 0.93)], 8)
    base = np.array([(0, 0), (radius * 0.9, 0), (radius * 0.9, 0)])
    aspect = 2 * np.pi * radius / shoulder
    glass = material(rng, colours[[0, 0, 0, 1]])
    print_first = rng.random() < 0.6
    parts = [
        lathe(np.concatenate([base, body]), wrapper(rng, colours, aspect) if print_first else glass, **section),
        lathe(top, glass, **section),
    ]
    if not print_first:  # a sticker that covers part of the way round
        start, share = rng.uniform(0, 360), rng.uniform(0.3, 0.9)
        sticker = body[1 : rng.integers(4, 8)] * (1.015, 1)
        paint = label(rng, colours[[1, 0, 2, 3, 4]], share * aspect)
        parts.append(lathe(sticker, paint, arc=(start, start + 360 * share), squareness=section.get("squareness", 2)))
    parts = [part.scaled((1, squash, 1)) for part in parts]
    cap_paint = material(rng, colours[[1, 1, 2, 3, 4]])
    cap_radius = neck * rng.uniform(1.0, 1.3)
    parts.append(cylinder(cap_radius, 0.9, rng.uniform(0.98, 1.12), cap_paint, cap_radius * rng.uniform(0.3, 1.05)))
    if rng.random() < 0.15:  # a jug's or a detergent bottle's grip
        out = radius * rng.uniform(1.3, 1.7)
        path = spline([(radius * 0.8, 0, 0.3), (out, 0, 0.4), (out, 0, 0.7), (neck * 0.8, 0, 0.85)], 14)
        parts.append(tube(path, 0.045, glass))
    return parts


def can(rng):
    """Cans, tins, drums and jars: a creased cylinder with print around it and a lid."""
    colours = palette(rng)
    radius, height = rng.uniform(0.2, 0.5), rng.uniform(0.25, 1)
    taper = rng.choice([1, 1, rng.uniform(0.75, 1.3)])
    section = {"squareness": rng.choice([2, 2, 2, 4])} if rng.random() < 0.8 else {"facets": int(rng.integers(3, 9))}
    lid = material(rng, colours[::-1]) if rng.random() < 0.5 else label(rng, colours[::-1])
    parts = [
        lathe([(radius, 0), (radius * taper, height)], wrapper(rng, colours, 2 * np.pi * radius / height), **section)
    ]
    rim = radius * taper
    overhang, lid_height = rng.uniform(0.97, 1.08), rng.uniform(0.01, 0.2) * height
    parts.append(
        lathe(
            [(rim * overhang, height - 0.02), (rim * overhang, height + lid_height)], plain(rng, colours[3]), **section
        )
    )
    parts.append(disc(rim * overhang, lid, **section).moved((0, 0, height + lid_height)))
    parts.append(disc(radius, plain(rng, colours[0]), **section))
    if rng.random() < 0.25:
        parts.append(ellipsoid(np.full(3, 0.15 * radius), plain(rng, colours[1])).moved((0, 0, height + lid_height)))
    return parts


def disc(radius, paint, **section):
    """A flat plate at z = 0, of the same sections as `lathe`, with the paint seen from above, not wrapped around."""
    face = lathe([(radius, 0), (0, 0)], paint, **section)
    return replace(face, uv=face.points[:, :2] / radius / 2 + 0.5)


def squeezed_tube(rng):
    """Toothpaste and the like: a round shoulder that narrows to a flat crimp; crimped at both ends, a bag of crisps."""
    colours = palette(rng)
    width, rows = rng.uniform(0.16, 0.35), np.linspace(0, 1, 10)
    bag = rng.random() < 0.4
    fullness = np.sin(np.pi * rows) ** rng.uniform(0.3, 0.8) if bag else 1 - rows ** rng.uniform(1, 3)
    depth = width * rng.uniform(0.5, 1) * fullness + 0.012
    angle = np.linspace(0, 2 * np.pi, 29)
    outline = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    sides = np.stack([np.full(10, width) * (1 + 0.15 * rows), depth], axis=1)
    xy = sides[:, None] * outline
    body = np.concatenate([xy, np.broadcast_to(rows[:, None, None], (10, 29, 1))], axis=2)
    front = label(rng, colours, 2 * np.pi * width)
    if bag:
        return [sheet(body, front)]
    on_its_cap = rng.random() < 0.6
    if on_its_cap:
        front = front[::-1, ::-1]
    cap = width * rng.uniform(0.3, 0.9)
    parts = [sheet(body, front), disc(width, plain(rng, colours[0])).scaled((1, depth[0] / width, 1))]
    parts.append(cylinder(cap, -rng.uniform(0.06, 0.2), 0, material(rng, colours[1:]), cap * 1.1).scaled((1, 0.7, 1)))
    return [part.moved(rotation=rotation("x", 180)) for part in parts] if on_its_cap else parts


# ---------------------------------------------------------------- families: the kitchen


def loop_handle(rng, radius, low, high, paint):
    """A handle in the xz plane at x = radius between two heights: round, eared or angular."""
    out = radius + (high - low) * rng.uniform(0.3, 0.8)
    knots = [(radius * 0.95, 0, high), (out, 0, high - 0.1 * (high - low)), (out, 0, low + 0.3 * (high - low))]
    path = spline([*knots, (radius * 0.95, 0, low)], 16)
    return tube(path, (high - low) * rng.uniform(0.06, 0.13), paint, flatness=rng.uniform(0.5, 1.8))


def shell(outside, thickness):
    """The profile of a vessel: up the outside profile [P, 2], over the rim, down the inside to the axis."""
    outside = np.asarray(outside)
    inside = np.maximum(outside - (thickness, 0), (0, outside[0, 1] + thickness))[::-1]
    return np.concatenate([[(0, outside[0, 1])], outside, outside[-1:], inside[:1], inside, [(0, inside[-1, 1])]])


def vessel(rng, outside, colours, thickness=0.03, squareness=2.0):
    """Outside and inside of a vessel as two parts with their own paints."""
    outside = np.asarray(outside)
    aspect = 2 * np.pi * outside[:, 0].mean() / np.ptp(outside[:, 1])
    profile = shell(outside, thickness)
    split = len(outside) + 2
    outer = wrapper(rng, colours, aspect) if rng.random() < 0.6 else material(rng, colours)
    inner = outer if rng.random() < 0.1 else material(rng, colours[[0, 2, 3, 4, 1]])
    paints = (outer, inner)
    halves = (profile[:split], profile[split - 1 :])
    return [lathe(half, paint, squareness=squareness) for half, paint in zip(halves, paints)]


def mug(rng):
    """Mugs, cups, beakers, tankards: hollow, mostly with a handle."""
    colours = palette(rng)
    radius, height = rng.uniform(0.25, 0.45), rng.uniform(0.45, 0.9)
    foot, belly = radius * rng.uniform(0.6, 1.05), radius * rng.uniform(0.85, 1.2)
    outside = spline([(foot, 0), (belly, height * 0.5), (radius, height)], 9)
    parts = vessel(rng, outside, colours)
    if rng.random() < 0.8:
        paint = parts[0].paint if rng.random() < 0.2 else material(rng, colours[[0, 0, 1, 2, 3]])
        handle = loop_handle(rng, radius, height * rng.uniform(0.1, 0.3), height * rng.uniform(0.7, 0.92), paint)
        parts.append(handle)
        if rng.random() < 0.06:
            parts.append(handle.moved(rotation=rotation("z", 180)))
    if rng.random() < 0.15:
        parts.append(disc(radius * 0.93, material(rng, colours)).moved((0, 0, height * rng.uniform(0.6, 0.9))))
    return parts


def bowl(rng):
    """Bowls, plates, dishes, trays, tubs and pots, some with food or two ears."""
    colours = palette(rng)
    depth = rng.uniform(0.06, 0.7)
    foot = rng.uniform(0.2, 0.4)
    outside = spline([(foot, 0), (rng.uniform(foot, 0.5), depth * rng.uniform(0.2, 0.6)), (0.5, depth)], 10)
    parts = vessel(rng, outside, colours, rng.uniform(0.02, 0.05), rng.choice([2, 2, 2, 6]))
    if rng.random() < 0.25:
        ear = torus(0.08, 0.02, plain(rng, colours[1]), 14).moved((0.52, 0, depth * 0.85))
        parts += [ear, ear.moved(rotation=rotation("z", 180))]
    if rng.random() < 0.3:
        parts += lumps(rng, rng.integers(1, 12), (0.25, 0.25, 0.1), rng.uniform(0.06, 0.18), (0, 0, depth * 0.7))
    return parts


def lumps(rng, count, spread, size, middle):
    """Fruit, sweets or popcorn scattered over +-spread about a point."""
    paints = [material(rng, palette(rng)) for _ in range(2)]
    places = rng.uniform(-1, 1, (count, 3)) * spread + middle
    return [
        ellipsoid(size * rng.uniform(0.7, 1.3, 3), pick(rng, paints), rings=7, segments=10).moved(place)
        for place in places
    ]


def pan(rng):
    """Pans, saucepans, ladles and spoons: a vessel with one long handle."""
    colours = palette(rng)
    depth = rng.uniform(0.08, 0.4)
    outside = spline([(rng.uniform(0.2, 0.32), 0), (0.32, depth * 0.5), (rng.uniform(0.33, 0.4), depth)], 8)
    parts = vessel(rng, outside, colours)
    length, rise = rng.uniform(0.3, 0.8), rng.uniform(-0.05, 0.3)
    path = spline(
        [(outside[-1, 0] - 0.03, 0, depth * 0.85), (0.5, 0, depth * 0.85 + rise / 2), (0.4 + length, 0, depth + rise)],
        12,
    )
    grip = spline([(0.02, 0), (0.025, 0), (rng.uniform(0.03, 0.055), 0), (0.035, 0)], 12)[:, 0]
    parts.append(tube(path, grip, material(rng, colours[[1, 1, 2, 3, 4]]), flatness=rng.uniform(0.4, 1.5)))
    if rng.random() < 0.3:
        parts.append(torus(0.035, 0.01, plain(rng, colours[2]), 12).moved(path[-1] + (0.03, 0, 0)))
    if rng.random() < 0.2:
        parts.append(cylinder(0.4, depth, depth + 0.08, material(rng, colours), top_radius=0.08))
    return parts


def teapot(rng):
    """Teapots, kettles, watering cans: a bellied body with spout, handle and lid."""
    colours = palette(rng)
    height, belly, neck = rng.uniform(0.4, 0.9), rng.uniform(0.3, 0.45), rng.uniform(0.12, 0.28)
    profile = spline([(0.2, 0), (belly, height * rng.uniform(0.25, 0.55)), (neck, height)], 12)
    paints = [wrapper(rng, colours, 2), material(rng, colours), material(rng, colours[1:])]
    parts = [lathe(np.concatenate([[(0, 0)], profile, [(0, height)]]), paints[0])]
    reach = belly + rng.uniform(0.12, 0.28)
    path = spline(
        [(belly * 0.8, 0, height * 0.3), (belly * 1.2, 0, height * 0.4), (reach, 0, height * rng.uniform(0.8, 1.1))], 10
    )
    parts.append(tube(path, np.linspace(rng.uniform(0.06, 0.12), 0.035, 10), paints[1]))
    if rng.random() < 0.6:
        handle = loop_handle(rng, belly * 0.85, height * 0.25, height * 0.85, paints[2])
        parts.append(handle.moved(rotation=rotation("z", 180)))
    else:
        knots = [(-belly * 0.7, 0, height * 0.8), (-belly * 0.5, 0, height * 1.4), (belly * 0.5, 0, height * 1.4)]
        parts.append(tube(spline([*knots, (belly * 0.7, 0, height * 0.8)], 16), 0.03, paints[2]))
    parts.append(lathe(spline([(neck * 1.05, height), (neck * 0.7, height * 1.08), (0, height * 1.1)], 6), paints[1]))
    parts.append(ellipsoid(np.full(3, rng.uniform(0.03, 0.07)), paints[2], rings=8).moved((0, 0, height * 1.13)))
    return parts


def basket(rng):
    """Baskets, crates, caddies, open boxes: closed or slatted walls, dividers, a bow handle, things inside."""
    colours = palette(rng)
    width, depth, height = rng.uniform((0.5, 0.4, 0.2), (1, 0.9, 0.9))
    walls, inner = material(rng, colours), material(rng, colours[1:])
    thick = 0.025
    parts = [block((width, depth, thick), inner).moved((0, 0, thick / 2))]
    slatted = rng.random() < 0.3
    flare = 0 if slatted else rng.uniform(0, 15)
    open_side = rng.integers(4) if rng.random() < 0.2 else -1
    for side in range(4):
        length, away = ((width, depth), (depth, width))[side % 2]
        tall = height * (rng.uniform(0.3, 0.7) if side == open_side else 1)
        if slatted:
            panel = slats(rng, length, tall, thick, walls)
        else:
            paint = label(rng, colours, length / tall) if rng.random() < 0.4 else walls
            taper = 1 + 2 * tall * np.sin(np.radians(flare)) / length  # the corners stay closed
            panel = box((length, thick, tall), [paint, walls, inner, walls, walls, walls], taper)
        for part in panel:
            part = part.moved((0, 0, tall / 2)).moved((0, -away / 2, 0), rotation("x", flare))
            parts.append(part.moved(rotation=rotation("z", 90 * side)))
    if rng.random() < 0.3:
        divider = block((thick, depth * 0.97, height * rng.uniform(0.6, 1)), inner)
        parts.append(divider.moved((rng.uniform(-0.3, 0.3) * width, 0, height / 2)))
    if rng.random() < 0.3:
        knots = [
            (-width / 2, 0, height),
            (-width * 0.4, 0, height * 1.7),
            (width * 0.4, 0, height * 1.7),
            (width / 2, 0, height),
        ]
        parts.append(tube(spline(knots, 18), 0.025, inner, flatness=rng.uniform(0.5, 2)))
    if rng.random() < 0.25:
        parts += lumps(rng, rng.integers(3, 20), (0.4 * width, 0.4 * depth, 0.1), 0.12, (0, 0, height * 0.9))
    return parts


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


# ---------------------------------------------------------------- families: tools, furniture, thin things


def tool(rng):
    """Hammers, wrenches, brushes, screwdrivers, shovels, forks, clubs, lamps: a handle along z with a head."""
    colours = palette(rng)
    grip, steel = material(rng, colours), material(rng, colours[[1, 1, 2, 3, 4]])
    radius = rng.uniform(0.03, 0.07)
    swell = radius * spline(rng.uniform(0.7, 1.4, (4, 1)), 14)[:, 0]
    along, bend = np.linspace(-1, 1, 14), rng.uniform(-0.15, 0.15)
    path = np.stack([bend * along**2, 0 * along, 0.45 * along - 0.15], axis=1)
    parts = [tube(path, swell, grip, flatness=rng.uniform(0.5, 1.5))]
    kind = rng.integers(7)
    if kind == 0:
        head = block(rng.uniform((0.25, 0.1, 0.1), (0.6, 0.2, 0.25)), steel).moved((rng.uniform(-0.1, 0.1), 0, 0.3))
    elif kind == 1:
        head = torus(rng.uniform(0.1, 0.2), 0.04, steel).moved((0, 0, 0.4), rotation("x", 90))
    elif kind == 2:
        head = block((rng.uniform(0.1, 0.35), 0.03, rng.uniform(0.25, 0.5)), steel, rng.uniform(0.4, 1.4)).moved(
            (0, 0, 0.5)
        )
    elif kind == 3:
        tine = cylinder(0.02, 0.3, 0.7, steel, segments=8)
        head = joined([tine.moved((x, 0, 0)) for x in np.linspace(-0.12, 0.12, rng.integers(3, 6))])
        parts.append(block((0.3, 0.05, 0.06), steel).moved((0, 0, 0.3)))
    elif kind == 4:
        head = cylinder(radius * 0.5, 0.3, 0.8, steel, top_radius=radius * rng.uniform(0.1, 0.6), segments=10)
    elif kind == 5:
        head = ellipsoid(rng.uniform((0.1, 0.05, 0.12), (0.25, 0.2, 0.3)), steel, rng.choice([2, 4])).moved(
            (0.05, 0, 0.4)
        )
    else:
        head = cylinder(0.05, 0.25, 0.6, steel, top_radius=rng.uniform(0.15, 0.4))
    if rng.random() < 0.3:
        parts.append(cylinder(radius * 1.4, -0.62, -0.5, plain(rng, colours[2]), segments=14))
    return [*parts, head]


def furniture(rng):
    """Tables, stools, chairs, benches and shelves."""
    colours = palette(rng)
    frame, seat = material(rng, colours), material(rng, colours)
    width, depth, height = rng.uniform((0.4, 0.35, 0.2), (1, 0.8, 0.7))
    if rng.random() < 0.25:
        return shelf(rng, colours, (width, depth / 2, height + 0.4))
    thick = rng.uniform(0.03, 0.12)
    round_top = rng.random() < 0.25
    if round_top:
        top = [cylinder(0.5, height - thick, height, seat).scaled((width, depth, 1))]
    else:
        top = [block((width, depth, thick), seat).moved((0, 0, height - thick / 2))]
    leg, inset = rng.uniform(0.015, 0.05), 0.35 if round_top else 0.44
    splay = rng.uniform(1, 1.25)
    for x, y in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        joint = np.array([x * width * inset, y * depth * inset, height - thick])
        foot = joint * (splay, splay, 0)
        top.append(tube(np.linspace(foot, joint, 3), leg, frame, sides=4 if round_top else 8))
    if rng.random() < 0.5:
        back = [block((width, thick / 2, height * 0.8), seat)]
        if rng.random() < 0.5:
            back = slats(rng, width, height, thick / 2, frame)
        lean = rotation("x", -rng.uniform(0, 8))
        top += [part.moved((0, 0, height / 2)).moved((0, depth / 2, height), lean) for part in back]
        if rng.random() < 0.4:
            arm = block((0.06, depth, 0.04), frame).moved((width / 2, 0, height + 0.22))
            top += [arm, arm.moved((-width, 0, 0))]
    return top


def shelf(rng, colours, size):
    """Boards between two sides, some with books or boxes on them."""
    width, depth, height = size
    frame = material(rng, colours)
    side = block((0.03, depth, height), frame)
    parts = [side.moved((x, 0, 0)) for x in (-width / 2, width / 2)]
    levels = np.linspace(-height / 2, height / 2, rng.integers(3, 6))
    for level, gap in zip(levels, np.append(np.diff(levels), 0)):
        parts.append(block((width, depth, 0.03), frame).moved((0, 0, level)))
        if gap and rng.random() < 0.6:
            item = np.array([rng.uniform(0.1, 0.5) * width, depth * 0.8, gap * rng.uniform(0.4, 0.9)])
            x = rng.uniform(-0.5, 0.5) * (width - item[0] - 0.04)
            parts.append(block(item, material(rng, palette(rng))).moved((x, 0, level + item[2] / 2)))
    if rng.random() < 0.5:
        parts.append(block((width, 0.02, height), material(rng, colours[1:])).moved((0, depth / 2, 0)))
    return parts


def wires(rng):
    """Thin things: springs, ring stacks, bent wires, racks of rods."""
    colours = palette(rng)
    paints = [material(rng, colours) for _ in range(3)]
    thin = rng.uniform(0.015, 0.05)
    kind = rng.integers(4)
    if kind == 0:
        turns, t = rng.uniform(2, 5), np.linspace(0, 1, 80)
        angle, radius = 2 * np.pi * turns * t, 0.35 * (1 + rng.uniform(-0.7, 0.3) * t)
        path = np.stack([radius * np.cos(angle), radius * np.sin(angle), rng.uniform(0.5, 1) * t], axis=1)
        return [tube(path, thin, paints[0], sides=8), cylinder(0.4, -0.06, 0, paints[1])]
    if kind == 1:
        radii = np.linspace(0.45, rng.uniform(0.15, 0.45), rng.integers(2, 7))
        rings = [torus(radius, 0.06, paints[i % 3]).moved((0, 0, 0.13 * i)) for i, radius in enumerate(radii)]
        return [*rings, cylinder(0.1, -0.06, 0.13 * len(radii) + 0.1, pick(rng, paints), segments=14)]
    if kind == 2:
        knots = rng.uniform(-0.5, 0.5, (rng.integers(4, 7), 3))
        path = spline(knots, 40)
        knob = ellipsoid(np.full(3, rng.uniform(0.06, 0.15)), paints[1])
        return [
            tube(path, thin * 1.4, paints[0], sides=8),
            knob.moved(path[0]),
            replace(knob, paint=paints[2]).moved(path[-1]),
        ]
    parts = [block((0.9, 0.9, 0.08), material(rng, colours))]
    for _ in range(rng.integers(3, 9)):
        rod = cylinder(thin, 0, rng.uniform(0.4, 1), pick(rng, paints), segments=8)
        parts.append(rod.moved((*rng.uniform(-0.35, 0.35, 2), 0)))
    return parts


def gadget(rng):
    """Cameras, phones, radios, remotes, clocks: a rounded body with screen, lens, knobs and keys on its faces."""
    colours = palette(rng)
    size = rng.uniform((0.4, 0.12, 0.3), (1, 0.5, 1))
    if rng.random() < 0.5:
        parts = [ellipsoid(size / 2, material(rng, colours), squareness=rng.uniform(4, 8))]
    else:
        parts = box(size, [material(rng, colours[:2]) if rng.random() < 0.6 else label(rng, colours) for _ in range(6)])
    front = -size[1] / 2
    bezel = plain(rng, colours[1])
    screen_size = (size[0] * rng.uniform(0.3, 0.8), 0.03, size[2] * rng.uniform(0.2, 0.5))
    screen = box(screen_size, [label(rng, colours[::-1], 1.5)] + [bezel] * 5)
    parts += [part.moved((0, front, size[2] * 0.15)) for part in screen]
    knobs = [plain(rng, pick(rng, colours)) for _ in range(2)]
    for _ in range(rng.integers(2, 8)):
        radius = rng.uniform(0.02, 0.09)
        knob = cylinder(
            radius, 0, rng.uniform(0.02, 0.12), pick(rng, knobs), radius * rng.uniform(0.6, 1.1), segments=14
        )
        place = (rng.uniform(-0.4, 0.4) * size[0], front, rng.uniform(-0.45, -0.2) * size[2])
        parts.append(knob.moved(place, rotation("x", 90)))
    if rng.random() < 0.4:
        lens = cylinder(rng.uniform(0.1, 0.2), 0, rng.uniform(0.05, 0.3), material(rng, colours))
        parts.append(lens.moved((rng.uniform(-0.2, 0.2) * size[0], front, 0), rotation("x", 90)))
    if rng.random() < 0.35:
        antenna = cylinder(0.02, 0, rng.uniform(0.15, 0.5), knobs[0], segments=8)
        parts.append(antenna.moved((rng.uniform(-0.4, 0.4) * size[0], 0, size[2] / 2 - 0.02)))
    return parts


# ---------------------------------------------------------------- families: figures, vehicles, heaps


def animal(rng):
    """Four-legged figures: body, head with snout, ears and eyes, tail; mirror-symmetric about the xz plane."""
    colours = palette(rng)
    coat, second = material(rng, colours), material(rng, colours[1:])
    dark = plain(rng, np.full(3, 25.0))
    length, girth, legs = rng.uniform(0.25, 0.5), rng.uniform(0.13, 0.28), rng.uniform(0.1, 0.45)
    parts = [ellipsoid((length, girth, girth * rng.uniform(0.8, 1.2)), coat, rng.choice([2, 2, 4]))]
    thickness = rng.uniform(0.03, 0.09)
    for x in (-0.6, 0.6):
        leg = cylinder(
            thickness, -girth * 0.5 - legs, -girth * 0.2, second, thickness * rng.uniform(0.8, 1.5), segments=10
        )
        parts += both_sides(leg.moved((x * length, girth * 0.55, 0)))
    skull = rng.uniform(0.1, 0.24)
    face = np.array([length * rng.uniform(0.8, 1.1), 0, girth * rng.uniform(0.6, 2)])
    parts.append(tube(np.linspace((length * 0.6, 0, 0), face, 3), skull * 0.6, coat))
    parts.append(ellipsoid(skull * rng.uniform(0.8, 1.2, 3), coat).moved(face))
    parts.append(
        ellipsoid(skull * rng.uniform((0.4, 0.3, 0.3), (1, 0.5, 0.5)), second).moved(face + (skull, 0, -0.2 * skull))
    )
    ear = ellipsoid(skull * rng.uniform((0.1, 0.15, 0.3), (0.3, 0.4, 1)), second, rings=8, segments=12)
    parts += both_sides(ear.moved(face + skull * np.array([-0.2, 0.6, 0.9]), rotation("x", -rng.uniform(0, 50))))
    eye = ellipsoid(np.full(3, 0.16 * skull), dark, rings=6, segments=10)
    parts += both_sides(eye.moved(face + skull * np.array([0.75, 0.45, 0.35])))
    tail = spline(
        [(-length * 0.9, 0, 0), (-length * 1.3, 0, rng.uniform(-0.2, 0.3)), (-length * 1.5, 0, rng.uniform(-0.3, 0.5))],
        10,
    )
    return [*parts, tube(tail, np.linspace(0.05, 0.015, 10), second)]


def figure(rng):
    """Standing figures: dolls, robots, people, snowmen; symmetric but for what they hold."""
    colours = palette(rng)
    clothes, skin, trousers = label(rng, colours, 2), material(rng, colours[2:]), material(rng, colours[1:])
    boxy = rng.choice([2, 2, 3, 6])
    chest = rng.uniform((0.1, 0.14, 0.18), (0.2, 0.3, 0.32))
    parts = [ellipsoid(chest, clothes, boxy)]
    head = rng.uniform(0.1, 0.22)
    up = chest[2] + head * 0.8
    parts.append(ellipsoid(head * rng.uniform(0.85, 1.15, 3), skin, boxy).moved((0, 0, up)))
    eye = ellipsoid(np.full(3, 0.18 * head), plain(rng, np.full(3, 20.0)), rings=6, segments=10)
    parts += both_sides(eye.moved((head * 0.85, head * 0.35, up + head * 0.2)))
    parts.append(ellipsoid(np.full(3, 0.15 * head), trousers, rings=6, segments=10).moved((head, 0, up - head * 0.1)))
    hand = np.array([rng.uniform(-0.1, 0.3), chest[1] + rng.uniform(0.05, 0.25), rng.uniform(-0.25, 0.3)])
    arm = tube(spline([(0, chest[1] * 0.8, chest[2] * 0.6), (0, chest[1] * 1.2, 0.05), hand], 8), 0.05, clothes)
    sole = np.array([0, chest[1] * 0.6, -chest[2] - rng.uniform(0.1, 0.5)])
    leg = tube(np.linspace((0, chest[1] * 0.5, -chest[2] * 0.7), sole, 3), rng.uniform(0.05, 0.1), trousers)
    foot = ellipsoid((0.13, 0.08, 0.06), skin, boxy, rings=8).moved(sole + (0.05, 0, 0))
    fist = ellipsoid(np.full(3, 0.065), skin, rings=8, segments=12).moved(hand)
    parts += [side for part in (arm, leg, foot, fist) for side in both_sides(part)]
    if rng.random() < 0.5:
        hat = cylinder(head * rng.uniform(0.8, 1.3), 0, rng.uniform(0.08, 0.3), trousers, head * rng.uniform(0, 1))
        parts.append(hat.moved((0, 0, up + head * 0.6)))
    if rng.random() < 0.4:
        parts.append(solid(rng, material(rng, palette(rng))).scaled(rng.uniform(0.1, 0.4, 3)).moved(hand))
    return parts


def vehicle(rng):
    """Cars, trucks, trains, boats on wheels: body, cab, wheels, lights, load."""
    colours = palette(rng)
    body, cab, tyre = label(rng, colours, 3), material(rng, colours), plain(rng, np.full(3, rng.uniform(15, 70)))
    glass, hub = plain(rng, rng.uniform((30, 50, 70), (140, 190, 230))), plain(rng, colours[3])
    length, width, height = rng.uniform((0.8, 0.3, 0.12), (1.1, 0.5, 0.3))
    size = np.array([length, width, height])
    parts = [block(size, body) if rng.random() < 0.6 else ellipsoid(size / 2, body, 5)]
    cab_size = rng.uniform((0.2, 0.7, 0.12), (0.6, 1, 0.35)) * (length, width, 1)
    where = np.array([rng.uniform(-0.3, 0.3) * length, 0, height / 2 + cab_size[2] / 2 - 0.01])
    parts += [part.moved(where) for part in box(cab_size, [glass, glass, glass, cab, cab, cab], rng.uniform(0.6, 1))]
    radius = rng.uniform(0.08, 0.16)
    wheel = [cylinder(radius, -0.05, 0.05, tyre, segments=18), cylinder(radius * 0.5, -0.06, 0.06, hub, segments=10)]
    for x in np.linspace(-0.36, 0.36, rng.choice([2, 2, 2, 3])) * length:
        for part in wheel:
            parts += both_sides(part.moved((x, width / 2, -height / 2), rotation("x", 90)))
    lamp = ellipsoid((0.03, 0.05, 0.05), plain(rng, (240.0, 220, 120)), rings=6, segments=10)
    parts += both_sides(lamp.moved((length / 2, width * 0.3, 0)))
    if rng.random() < 0.5:
        load = solid(rng, material(rng, palette(rng))).scaled(rng.uniform(0.2, 0.4, 3))
        parts.append(load.moved((-np.sign(where[0] + 1e-9) * 0.3 * length, 0, height / 2 + 0.1)))
    return parts


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


def shoe(rng):
    """Shoes and boots: a sole, an upper lofted over it, a dark opening, stripes or laces, sometimes a pair."""
    colours = palette(rng)
    stations = np.linspace(0, 1, 16)
    width = spline([(0.1,), (0.16,), (0.13,), (0.19,), (0.16,), (0.06,)], 16)[:, 0] * rng.uniform(0.8, 1.2)
    ankle, toe = rng.uniform(0.3, 0.7), rng.uniform(0.12, 0.22)
    height = spline([(ankle * 0.9,), (ankle,), (ankle * 0.85,), (toe * 1.3,), (toe,), (toe * 0.5,)], 16)[:, 0]
    bend = rng.uniform(-0.08, 0.08) * np.sin(np.pi * stations)
    angle = np.linspace(0, np.pi, 15)
    across, up = np.cos(angle), np.sin(angle) ** 0.7
    sections = stations[:, None], bend[:, None] + width[:, None] * across, height[:, None] * up
    upper = np.stack(np.broadcast_arrays(*sections), axis=2)
    sides = np.concatenate([bend - width, (bend + width)[::-1]]) * 1.08
    outline = np.stack([np.concatenate([stations, stations[::-1]]) - 0.5, sides], axis=1)
    sole_height = rng.uniform(0.03, 0.12)
    sole = prism(outline, sole_height, material(rng, colours[1:]), plain(rng, colours[2]))
    leather = label(rng, colours) if rng.random() < 0.6 else material(rng, colours)
    opening = ellipsoid((0.17, 0.07, 0.03), plain(rng, np.full(3, 30.0)), rings=6).moved((-0.33, 0, ankle * 0.97))
    parts = [sheet(upper, leather).moved((-0.5, 0, 0)), opening]
    parts += [part.moved((0, 0, -sole_height / 2)) for part in sole]
    lace = block((0.03, 0.14, 0.02), plain(rng, colours[3]), cuts=1)
    for x in np.linspace(0.42, 0.6, rng.integers(0, 6)):
        parts.append(lace.moved((x - 0.5, np.interp(x, stations, bend), np.interp(x, stations, height))))
    if rng.random() < 0.2:
        parts += [part.mirrored().moved((rng.uniform(-0.02, 0.02), 0.45, 0)) for part in parts]
    return parts


def heap(rng):
    """Random primitives stuck together."""
    colours = palette(rng)
    parts, place = [], np.zeros(3)
    for _ in range(rng.integers(3, 9)):
        paint = label(rng, colours) if rng.random() < 0.25 else material(rng, np.roll(colours, rng.integers(5), axis=0))
        turn = rotation("z", rng.uniform(0, 360)) @ rotation("x", rng.choice([0, 90, rng.uniform(0, 360)]))
        part = solid(rng, paint).scaled(rng.uniform(0.25, 0.9, 3)).moved(place, turn)
        place = place * 0.7 + rng.uniform(-0.3, 0.3, 3)
        parts += both_sides(part.moved((0, 0.2, 0))) if rng.random() < 0.2 else [part]
    return parts


def stack(rng):
    """Primitives set on one another along z: towers, lamps, trophies, playsets."""
    colours = palette(rng)
    parts, level = [], 0.0
    for _ in range(rng.integers(2, 6)):
        part = solid(rng, material(rng, np.roll(colours, rng.integers(5), axis=0))).scaled(rng.uniform(0.3, 0.9, 3))
        low, high = part.points[:, 2].min(), part.points[:, 2].max()
        parts.append(part.moved((*rng.uniform(-0.08, 0.08, 2), level - low)))
        level += (high - low) * 0.97
    return parts


def rock(rng):
    """Stones, fruit, vegetables, plush blobs: a sphere displaced by a few waves."""
    colours = palette(rng)
    paint = label(rng, colours, 2) if rng.random() < 0.4 else material(rng, colours)
    part = ellipsoid((0.5, 0.5, 0.5), paint, rings=26, segments=40)
    points = part.points
    height = np.ones(len(points))
    for _ in range(rng.integers(3, 9)):
        wave = rng.normal(size=3) * rng.uniform(2, 9)
        height += rng.uniform(0.3, 0.8) / np.linalg.norm(wave) * np.sin(points @ wave + rng.uniform(0, 6))
    part = replace(part, points=points * height[:, None] * rng.uniform(0.5, 1, 3))
    if rng.random() < 0.3:
        stem = spline(
            [(0, 0, 0.3 * part.points[:, 2].max()), (0, 0, 0.5), rng.uniform((-0.2, -0.2, 0.6), (0.2, 0.2, 0.8))], 8
        )
        return [part, tube(stem, 0.03, plain(rng, colours[1]))]
    return [part]


def cutout(rng):
    """Extruded outlines: stars, gears, hearts, blobs, signs; upright or flat, sometimes two in one."""
    colours = palette(rng)
    count = int(rng.integers(3, 60))
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    radius = 0.5 * np.ones(count)
    if count < 30 and rng.random() < 0.6:
        radius[:: rng.integers(2, 4)] *= rng.uniform(0.4, 0.85)
    for wave in (1, 2, 3):
        radius *= 1 + rng.uniform(-0.2, 0.2) * np.cos(wave * angle + rng.uniform(0, 6))
    outline = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius[:, None]
    face = label(rng, colours) if rng.random() < 0.6 else material(rng, colours)
    parts = prism(outline, rng.uniform(0.05, 0.6), material(rng, colours[1:]), face)
    if rng.random() < 0.4:
        parts += prism(
            outline * rng.uniform(0.3, 0.8), rng.uniform(0.6, 0.9), plain(rng, colours[2]), material(rng, colours)
        )
    upright = rotation("x", 90) if rng.random() < 0.6 else np.eye(3)
    return [part.moved(rotation=upright) for part in parts]


def glyph(rng):
    """Block letters and building-block shapes: rows of cells of random length on a common spine."""
    colours = palette(rng)
    rows, columns = rng.integers(2, 6), rng.integers(2, 5)
    spine = rng.integers(columns)
    left, right = rng.integers(0, spine + 1, (rows, 1)), rng.integers(spine, columns, (rows, 1))
    filled = (np.arange(columns) >= left) & (np.arange(columns) <= right)
    paints = [material(rng, colours) for _ in range(rng.integers(1, 4))]
    depth = rng.uniform(0.3, 1.5)
    cells = np.argwhere(filled)
    return [block((1, depth, 1), pick(rng, paints), cuts=1).moved((x, 0, z)) for z, x in cells]


FAMILIES = (
    (carton, 12),
    (gable_carton, 5),
    (bottle, 11),
    (can, 6),
    (squeezed_tube, 3),
    (mug, 7),
    (bowl, 6),
    (pan, 5),
    (teapot, 4),
    (basket, 7),
    (tool, 5),
    (furniture, 5),
    (wires, 3),
    (gadget, 5),
    (animal, 5),
    (figure, 5),
    (vehicle, 5),
    (shoe, 5),
    (heap, 6),
    (stack, 4),
    (rock, 3),
    (cutout, 4),
    (glyph, 3),
)
