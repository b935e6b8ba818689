"""Toys that are hard to order or to see: nearly round ones, flat ones with unlike faces, thin legs, open shells.

make_hard_toy("round", 7)          the same on every run
demo_toy("flat_003")               the demo object of that name, outside the training seeds
"""

import re
from dataclasses import replace

import numpy as np
import trimesh

from dataset.toy_paint import label, material, palette, pick, plain
from dataset.toy_shapes import (
    assemble,
    block,
    box,
    cylinder,
    deformed,
    ellipsoid,
    lathe,
    oriented,
    prism,
    rotation,
    shell,
    spline,
    tube,
)
from dataset.toys import DEMO_SEED_START
from sap3d.meshes import normalise


def nearly_round(rng):
    """Balls, rings and cones set on one another about one axis, plainly painted, with one to four small marks."""
    colours = palette(rng)
    parts, level = [], 0.0
    for _ in range(rng.integers(1, 5)):
        radius, height = rng.uniform(0.3, 0.5), rng.uniform(0.2, 0.6)
        paint = plain(rng, pick(rng, colours)) if rng.random() < 0.7 else material(rng, colours)
        if rng.random() < 0.6:
            part = ellipsoid((radius, radius, height / 2), paint, rng.choice([2, 2, 3]), rings=16, segments=32)
            part = part.moved((0, 0, level + height / 2))
        else:
            part = cylinder(radius, level, level + height, paint, radius * rng.uniform(0.4, 1.1), segments=32)
        parts.append(part)
        level += height * 0.93
    for _ in range(rng.integers(1, 5)):
        carrier = parts[rng.integers(len(parts))]
        place = carrier.points[rng.integers(len(carrier.points) // 4, 3 * len(carrier.points) // 4)]
        mark = ellipsoid(rng.uniform(0.02, 0.06, 3), plain(rng, pick(rng, colours[1:])), rings=6, segments=8)
        parts.append(mark.moved(0.97 * place))
    return parts


def two_faced(rng):
    """A plate of any outline that stands upright, with one picture in front and another behind."""
    colours = palette(rng)
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radius = 0.5 * np.ones(48)
    for wave in range(1, rng.integers(2, 7)):
        radius *= 1 + rng.uniform(-0.25, 0.25) * np.cos(wave * angle + rng.uniform(0, 6))
    outline = np.stack([np.cos(angle) * rng.uniform(0.5, 1), np.sin(angle)], 1) * radius[:, None]
    wall, back, front = prism(outline, rng.uniform(0.04, 0.2), material(rng, colours[1:]), label(rng, colours))
    behind = label(rng, np.roll(colours, 2, axis=0)) if rng.random() < 0.7 else plain(rng, colours[3])
    parts = [part.moved(rotation=rotation("x", 90)) for part in (wall, replace(back, paint=behind), front)]
    if rng.random() < 0.4:
        foot = block((rng.uniform(0.3, 0.8), rng.uniform(0.1, 0.25), 0.05), plain(rng, colours[2]))
        parts.append(foot.moved((0, 0, outline[:, 1].min())))
    return parts


def thin_legged(rng):
    """A body on thin legs or rods: stools, insects, easels, racks, birds."""
    colours = palette(rng)
    size = rng.uniform((0.2, 0.15, 0.03), (0.6, 0.5, 0.3))
    paint = material(rng, colours)
    parts = [ellipsoid(size / 2, paint, rings=10, segments=16) if rng.random() < 0.5 else block(size, paint)]
    thick, drop = rng.uniform(0.008, 0.03), rng.uniform(0.3, 0.9)
    leg_paint = plain(rng, pick(rng, colours[1:]))
    count = int(rng.integers(2, 9))
    for turn in np.linspace(0, 2 * np.pi, count, endpoint=False) + rng.uniform(0, 6):
        top = np.array([np.cos(turn) * size[0], np.sin(turn) * size[1], 0]) * rng.uniform(0.25, 0.45)
        foot = top * rng.uniform(0.8, 2.5) - (0, 0, drop)
        knee = (top + foot) / 2 + (*rng.uniform(-0.1, 0.1, 2), rng.uniform(-0.05, 0.2))
        parts.append(tube(spline(np.array([top, knee, foot]), 8), thick, leg_paint, sides=7))
    for _ in range(rng.integers(0, 4)):
        end = rng.uniform((-0.5, -0.3, 0.1), (0.5, 0.3, 0.7))
        parts.append(tube(np.linspace((0, 0, 0), end, 3), thick, leg_paint, sides=7))
        parts.append(ellipsoid(rng.uniform(0.03, 0.12, 3), plain(rng, pick(rng, colours)), rings=8).moved(end))
    return parts


def open_shell(rng):
    """Vessels cut open, gutters, shells of balls, boxes without a lid: both sides of a thin wall show."""
    colours = palette(rng)
    paint = label(rng, colours, 2) if rng.random() < 0.5 else material(rng, colours)
    kind = rng.integers(3)
    if kind == 0:
        knots = np.stack([rng.uniform(0.2, 0.6, 4), np.linspace(0, rng.uniform(0.3, 1), 4)], axis=1)
        arc = (0.0, rng.choice([360.0, rng.uniform(120, 330)]))
        return [lathe(shell(spline(knots, 12), rng.uniform(0.01, 0.05)), paint, arc=arc)]
    if kind == 1:
        polar = np.radians(np.linspace(-90, rng.uniform(-20, 60), 12))
        profile = 0.5 * np.stack([np.maximum(np.cos(polar), 1e-3), np.sin(polar)], axis=1)
        parts = [lathe(shell(profile, rng.uniform(0.01, 0.04)), paint)]
        inside = ellipsoid(rng.uniform(0.1, 0.25, 3), material(rng, colours[2:]), rings=8)
        return parts + [inside.moved((*rng.uniform(-0.1, 0.1, 2), -0.35))] if rng.random() < 0.5 else parts
    size, wall = rng.uniform(0.3, 1, 3), rng.uniform(0.01, 0.04)
    outer = box(size, [paint, *(plain(rng, pick(rng, colours)) for _ in range(5))])
    inner = box(size - 2 * wall, [plain(rng, pick(rng, colours[2:])) for _ in range(6)])
    lid = int(np.argmax([part.points[:, 2].min() for part in outer]))
    return [part for index, part in enumerate(outer) if index != lid] + [
        part.moved((0, 0, wall)) for index, part in enumerate(inner) if index != lid
    ]


FAMILIES = {"round": nearly_round, "flat": two_faced, "legs": thin_legged, "shell": open_shell}
NAME = re.compile(rf"({'|'.join(FAMILIES)})_([0-9]{{3}})")


def make_hard_toy(family: str, seed: int) -> trimesh.Trimesh:
    """The object of this family and seed: normalised, z up, one atlas texture."""
    rng = np.random.default_rng([seed, list(FAMILIES).index(family)])
    mesh = assemble(FAMILIES[family](rng))
    if family != "round":
        mesh.vertices = deformed(rng, mesh.vertices)
    mesh.vertices = oriented(rng, mesh.vertices) if family in ("legs", "shell") else turned(rng, mesh.vertices)
    return normalise(mesh)


def turned(rng, points):
    """About z by any angle: what is round or flat stands as it is. points: [V, 3]."""
    return points @ rotation("z", rng.uniform(0, 360)).T


def demo_toy(name: str) -> trimesh.Trimesh | None:
    """The demo object "round_000", "flat_001", …; None if the name is not of this kind."""
    match = NAME.fullmatch(name)
    return make_hard_toy(match[1], DEMO_SEED_START + int(match[2])) if match else None
