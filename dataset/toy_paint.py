"""The paints of procedural toys: random colours, masks, materials and printed labels.

    colours = palette(rng)             the five colours of one object
    material(rng, colours)             what a part is made of: plain, wood, metal, mottled or patterned
    label(rng, colours, aspect)        what is printed on a product

A colour is [3] floats in 0..255, `colours` are several [C, 3]; a mask is a float array [TILE, TILE] in 0..1, a paint is
[TILE, TILE, 3] uint8, both with row 0 at the top. Every `rng` is a numpy Generator.
"""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TILE = 128  # side of one part's paint in the atlas, pixels
CANVAS = 176  # labels are drawn at about this size, then reduced to a tile: antialiasing
LETTERS = tuple("EEETTAAOOINSHRDLUCMFWYPVBGKJQXZ0258")


# ---------------------------------------------------------------- colours

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
    """One of several colours, or of any sequence."""
    return colours[rng.integers(len(colours))]


def ink(colour):
    """A colour as PIL wants it: three ints in 0..255."""
    return tuple(int(channel) for channel in colour)


# ---------------------------------------------------------------- masks and materials


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


def gradient_mask(rng):
    """An even ramp along u, v or aslant."""
    angle = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)])
    return np.clip(0.5 + np.cos(angle) * (RAMP - 0.5) + np.sin(angle) * (RAMP[:, None] - 0.5), 0, 1)


def cloud_mask(rng):
    """Soft or hard-edged blotches."""
    field = 0.6 * noise(rng, int(rng.integers(3, 9))) + 0.4 * noise(rng, 20)
    return np.clip((field - 0.5) * rng.uniform(1.5, 8) + 0.5, 0, 1)


def stripe_mask(rng):
    """Stripes of 0 and 1: level, upright or aslant."""
    slope = rng.choice([(1, 0), (0, 1), (1, 1), (2, -1)])
    phase = slope[0] * RAMP + slope[1] * RAMP[:, None] + 0 * RAMP[:, None]
    return ((phase * rng.integers(2, 9)) % 1 < rng.uniform(0.2, 0.8)).astype(np.float32)


def check_mask(rng):
    """A chequerboard of 0 and 1."""
    squares = (RAMP * rng.integers(2, 9)).astype(int) + (RAMP[:, None] * rng.integers(2, 9)).astype(int)
    return (squares % 2).astype(np.float32)


def dot_mask(rng):
    """Round dots of 1 on 0, in rows and columns."""
    count, radius = rng.integers(2, 8), rng.uniform(0.15, 0.45)
    x, y = (RAMP * count) % 1 - 0.5, (RAMP[:, None] * count) % 1 - 0.5
    return (x**2 + y**2 < radius**2).astype(np.float32)


def blended(first, second, mask):
    """The paint with `first` where the mask [TILE, TILE] is 0 and `second` where it is 1."""
    paint = np.asarray(first, np.float32) + mask[..., None] * (np.asarray(second) - first).astype(np.float32)
    return np.clip(paint, 0, 255).astype(np.uint8)


def plain(rng, colour):
    """A paint of one colour, faintly uneven as real surfaces are."""
    return blended(np.asarray(colour) * 0.9, np.minimum(np.asarray(colour) * 1.06, 255), noise(rng, 5))


def wood(rng):
    """A paint of wavy lines along v."""
    across = RAMP * rng.uniform(3, 9) + 1.2 * noise(rng, 3, 2)
    tone = np.array([150, 100, 55]) * rng.uniform(0.6, 1.25, 3)
    return blended(tone, tone * 0.6, 0.5 + 0.35 * np.sin(2 * np.pi * across) + 0.3 * (noise(rng, 50, 4) - 0.5))


def metal(rng):
    """A paint of fine brush streaks and a broad highlight."""
    streaks = 0.4 * noise(rng, 2, 60) + 0.6 * np.sin(np.pi * (RAMP * 2 + rng.random())) ** 2
    return blended(rng.uniform(60, 130) * np.ones(3), rng.uniform(150, 225) * np.ones(3), streaks)


def material(rng, colours):
    """The paint of toys, tools and furniture: plain, wood, metal, mottled or patterned. colours: [C >= 2, 3]."""
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
    """PIL's own typeface at this size in pixels."""
    return ImageFont.load_default(size)


def word(rng, shortest=2, longest=9):
    """Random capitals and digits, between these two lengths."""
    return "".join(LETTERS[i] for i in rng.integers(len(LETTERS), size=rng.integers(shortest, longest + 1)))


def readable(colours, background):
    """The colour that stands out most against the background, black and white included, as PIL wants it."""
    candidates = np.concatenate([colours, [(0, 0, 0), (255, 255, 255)]])
    return ink(candidates[np.abs(candidates - background).sum(axis=1).argmax()])


def field(rng, image, colours):
    """Draws a band or a corner of another colour, sometimes with a slanted edge."""
    width, height = image.size
    draw = ImageDraw.Draw(image)
    low, high = np.sort(rng.uniform(-0.2, 1.2, 2))
    slant = rng.choice([0, 0, rng.uniform(-0.4, 0.4)])
    corners = [(0, low), (1, low + slant), (1, high + slant), (0, high)]
    if rng.random() < 0.3:
        corners = [(y, x) for x, y in corners]
    draw.polygon([(x * width, y * height) for x, y in corners], fill=ink(pick(rng, colours)))


def shape(rng, draw, bounds, fill):
    """Draws a random ellipse, rectangle, star or triangle within bounds (left, top, right, bottom), in pixels."""
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
    """A random rectangle (left, top, right, bottom), in pixels, with sides of these shares of the image."""
    width, height = image.size
    w, h = rng.uniform(smallest, largest, 2) * (width, height)
    left, top = rng.uniform(-0.05, 1.05, 2) * (width - w, height - h)
    return float(left), float(top), float(left + w), float(top + h)


def picture(rng, image, colours):
    """Draws a heap of random shapes: fruit, faces, landscapes to a network that cannot read."""
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = region(rng, image, 0.35, 0.8)
    for _ in range(rng.integers(3, 9)):
        x, y = rng.uniform(left, right), rng.uniform(top, bottom)
        w, h = rng.uniform(0.1, 0.35, 2) * (right - left, bottom - top)
        shape(rng, draw, (x - w, y - h, x + w, y + h), ink(pick(rng, colours) * rng.uniform(0.6, 1)))


def photo(rng, image, colours):
    """Draws a patch of soft mottled colour, as printed food and landscapes look from afar."""
    left, top, right, bottom = region(rng, image, 0.3, 1.0)
    first, second = pick(rng, colours), pick(rng, colours) * rng.uniform(0.3, 1.2)
    patch = Image.fromarray(blended(first, second, cloud_mask(rng))).resize((int(right - left), int(bottom - top)))
    mask = Image.new("L", patch.size, 255 * int(rng.integers(2)))
    ImageDraw.Draw(mask).ellipse((0, 0, *patch.size), fill=255)
    image.paste(patch, (int(left), int(top)), mask)


def logo(rng, image, colours):
    """Draws a big word, often on a blob."""
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
    """Draws lines of small print, sometimes on a panel."""
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
    """Draws black bars on white; the colours are not used."""
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = region(rng, image, 0.2, 0.4)
    draw.rectangle((left, top, right, bottom), fill=(250, 250, 250))
    for x in np.arange(left + 3, right - 3, 4):
        draw.line((x, top + 3, x, bottom - 3), fill=(10, 10, 10), width=int(rng.integers(1, 4)))


def label(rng, colours, aspect=1.0):
    """A printed paint; aspect: width over height of the surface it goes on, so that letters keep their shape."""
    stretch = np.sqrt(np.clip(aspect, 0.25, 4))
    image = Image.new("RGB", (int(CANVAS * stretch), int(CANVAS / stretch)), ink(colours[0]))
    for _ in range(rng.integers(0, 4)):
        field(rng, image, colours)
    elements = (picture, photo, logo, paragraph, barcode)
    for choice in rng.choice(5, size=rng.integers(2, 7), p=(0.24, 0.16, 0.3, 0.22, 0.08)):
        elements[choice](rng, image, colours)
    return np.asarray(image.resize((TILE, TILE), Image.Resampling.BOX))


def wrapper(rng, colours, aspect):
    """The paint around a bottle or can: mostly a label, now and then the same label on two sides, or no print."""
    chance = rng.random()
    if chance < 0.2:
        return material(rng, colours)
    if chance < 0.35:
        half = label(rng, colours, aspect / 2)[:, ::2]
        return np.concatenate([half, half], axis=1)
    return label(rng, colours, aspect)


def face_labels(rng, colours, size):
    """Six paints for the `box` of this size [3]: each side its own, or opposite sides alike, some without print."""
    width, depth, height = size
    aspects = (width / height, depth / height, width / height, depth / height, width / depth, width / depth)
    printed = rng.random(6) < (0.97, 0.85, 0.9, 0.85, 0.75, 0.4)
    paints = [label(rng, colours, a) if p else plain(rng, colours[0]) for a, p in zip(aspects, printed)]
    for side in (0, 1):
        if rng.random() < 0.25:
            paints[side + 2] = paints[side]
    return paints
