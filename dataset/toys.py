"""Procedural textured objects: what the small networks learn from, the `toy_demo` objects, and regularisation objects.

    make_toy(7)                        a trimesh.Trimesh, z up, normalised, one atlas texture; the same on every run
    make_toy(toy_seed("toy_007"))      the demo object of that name

A toy is a list of parts (dataset.toy_shapes), each with its own paint (dataset.toy_paint). A family is a function
rng -> parts; FAMILIES lists them with their weights. Learning 3D from procedural shapes alone follows LRM-Zero
(arXiv 2406.09371).
"""

import re
from dataclasses import replace

import numpy as np
import trimesh

from dataset.toy_paint import face_labels, label, material, palette, pick, plain, wrapper
from dataset.toy_shapes import (
    assemble,
    block,
    both_sides,
    box,
    cylinder,
    deformed,
    disc,
    ellipsoid,
    joined,
    lathe,
    loop_handle,
    oriented,
    prism,
    roof,
    rotation,
    sheet,
    shell,
    slats,
    solid,
    spline,
    torus,
    tube,
)
from sap3d.errors import UserError
from sap3d.meshes import normalise

DEMO_SEED_START = 1_000_000  # training draws its seeds below this one


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


# ---------------------------------------------------------------- families: packages


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


def vessel(rng, outside, colours, thickness=0.03, squareness=2.0):
    """Outside and inside of a vessel as two parts with their own paints; outside: profile [P, 2] as in `lathe`."""
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
    """`count` parts, fruit, sweets or popcorn, scattered over +-spread [3] about a point [3]; size: radius of one."""
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
    """Boards between two sides, some with books or boxes on them. size: width, depth, height."""
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
