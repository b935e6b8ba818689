"""Compact meshes: what training renders need of a modelled object, in one small file that loads in milliseconds."""

import io
from pathlib import Path

import fast_simplification
import numpy as np
import trimesh
from PIL import Image
from scipy import ndimage
from trimesh.visual.material import MultiMaterial, SimpleMaterial

from dataset.render import merge
from sap3d.errors import UserError
from sap3d.files import atomic_file
from sap3d.meshes import normalise

TEXTURE_SIDE = 256  # pixels; training images have 128
MARGIN = 0.02  # of the texture is kept about the part that is used, for the mip levels
SIMPLIFIED_FACES = 60_000
MAX_FACES = 150_000
SAMPLES = 4000
GRID = 24


def check_shape(mesh: trimesh.Trimesh) -> None:
    """Refuse what views show badly.

    Raises:
        UserError: a rod or a sheet; textures that are transparent on a tenth of the surface, as leaves on cards.
    """
    sides = np.sort(np.ptp(mesh.vertices[mesh.faces.reshape(-1)], axis=0))[::-1]
    if sides[1] < 0.1 * sides[0] or sides[2] < 0.02 * sides[0]:
        raise UserError("thin")
    _, faces = trimesh.sample.sample_surface(mesh, SAMPLES, seed=0)
    if _transparent_share(mesh, faces) > 0.1:
        raise UserError("cut out by transparent textures")


def check_single(mesh: trimesh.Trimesh, min_faces: int) -> None:
    """Refuse parts of things and sets of things.

    Raises:
        UserError: fewer faces; a fifth of the surface or more lies apart from the rest.
    """
    if len(mesh.faces) < min_faces:
        raise UserError(f"fewer than {min_faces} faces")
    points, _ = trimesh.sample.sample_surface(mesh, SAMPLES, seed=0)
    if _largest_share(points) < 0.8:
        raise UserError("scattered")


def _largest_share(points: np.ndarray) -> float:
    """The share of surface points in the largest set of neighbouring cells of a grid about them."""
    low = points.min(0)
    cells = np.minimum((points - low) / np.ptp(points, axis=0).max() * GRID, GRID - 1).astype(int)
    occupied = np.zeros((GRID, GRID, GRID), bool)
    occupied[tuple(cells.T)] = True
    labels, _ = ndimage.label(occupied, np.ones((3, 3, 3)))
    return np.bincount(labels[tuple(cells.T)]).max() / len(points)


def _transparent_share(mesh: trimesh.Trimesh, faces: np.ndarray) -> float:
    """The share of the given faces whose centre's texel is transparent."""
    transparent = 0
    for material, index in _materials(mesh):
        image = _image(material)
        chosen = faces[np.isin(faces, index)]
        if image is None or "A" not in image.getbands() or mesh.visual.uv is None or not len(chosen):
            continue
        alpha = np.asarray(image.getchannel("A"))
        uv = np.nan_to_num(mesh.visual.uv[mesh.faces[chosen]].mean(1))
        column = ((uv[:, 0] % 1) * image.width).astype(int).clip(0, image.width - 1)
        row = ((-uv[:, 1] % 1) * image.height).astype(int).clip(0, image.height - 1)
        transparent += (alpha[row, column] < 128).sum()
    return transparent / len(faces)


def write_compact(mesh: trimesh.Trimesh, path: Path) -> None:
    """Write a textured mesh: textures of at most 256 pixels, cropped to what is used; large meshes simplified.

    Raises:
        UserError: too many faces that cannot be simplified because they are textured.
    """
    if mesh.visual.kind != "texture":
        mesh = merge(trimesh.Scene(mesh))
    parts = [_part(mesh, material, index) for material, index in _materials(mesh)]
    total = sum(len(faces) for _, faces, *_ in parts)
    if total > SIMPLIFIED_FACES:
        parts = [_simplified(part, SIMPLIFIED_FACES / total) for part in parts]
        total = sum(len(faces) for _, faces, *_ in parts)
    if total > MAX_FACES:
        raise UserError("too many faces")
    offsets = np.cumsum([0] + [len(vertices) for vertices, *_ in parts])
    vertices, faces, uv, colours, images = zip(*parts, strict=True)
    faces = [part + offset for part, offset in zip(faces, offsets[:-1], strict=True)]
    # Simplification moves vertices a little, and out of the unit cube.
    whole = normalise(trimesh.Trimesh(np.concatenate(vertices), np.concatenate(faces), process=False))
    with atomic_file(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(
            file,
            vertices=whole.vertices.astype(np.float32),
            faces=whole.faces.astype(np.int32),
            uv=np.concatenate(uv).astype(np.float32),
            face_materials=np.repeat(np.arange(len(parts)), [len(f) for f in faces]).astype(np.uint16),
            colours=np.array(colours, np.uint8),
            images=np.frombuffer(b"".join(images), np.uint8),
            image_sizes=np.array([len(image) for image in images]),
        )


def read_compact(path: Path) -> trimesh.Trimesh:
    """A mesh that `write_compact` wrote, with a `MultiMaterial` of images and plain colours."""
    with np.load(path) as stored:
        content = dict(stored)
    ends = np.cumsum(content["image_sizes"])
    images = content["images"].tobytes()
    materials = [
        SimpleMaterial(image=Image.open(io.BytesIO(images[end - size : end])))
        if size
        else SimpleMaterial(diffuse=colour)
        for colour, size, end in zip(content["colours"], content["image_sizes"], ends, strict=True)
    ]
    visual = trimesh.visual.TextureVisuals(
        uv=content["uv"],
        material=MultiMaterial(materials=materials),
        face_materials=content["face_materials"].astype(np.int64),
    )
    return trimesh.Trimesh(content["vertices"], content["faces"], visual=visual, process=False)


def _materials(mesh: trimesh.Trimesh) -> list:
    """Pairs of a material and the indices of its faces."""
    if mesh.visual.kind != "texture":
        return []
    material = mesh.visual.material
    if not isinstance(material, MultiMaterial):
        return [(material, np.arange(len(mesh.faces)))]
    index = [np.flatnonzero(mesh.visual.face_materials == i) for i in range(len(material.materials))]
    return [pair for pair in zip(material.materials, index, strict=True) if len(pair[1])]


def _image(material) -> Image.Image | None:
    """A material's texture, RGBA if it may be transparent."""
    image = getattr(material, "image", None)
    image = getattr(material, "baseColorTexture", None) if image is None else image
    if image is None or getattr(material, "alphaMode", "BLEND") in (None, "OPAQUE"):  # glTF: opaque unless it says so
        return image
    transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    return image.convert("RGBA") if transparent else image


def _part(mesh: trimesh.Trimesh, material, index: np.ndarray) -> tuple:
    """One material's vertices, faces, uv, colour and encoded texture (empty: the colour alone)."""
    used, faces = np.unique(mesh.faces[index], return_inverse=True)
    faces = faces.reshape(-1, 3)
    image = _image(material)
    if image is None or mesh.visual.uv is None:
        colour = material.main_color[:3] if image is None else np.asarray(image.convert("RGB")).reshape(-1, 3).mean(0)
        return mesh.vertices[used], faces, np.zeros((len(used), 2)), colour, b""
    uv, image = _cropped(np.nan_to_num(mesh.visual.uv[used]), _opaque(image))
    image.thumbnail((TEXTURE_SIDE, TEXTURE_SIDE), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=90, subsampling=0)
    return mesh.vertices[used], faces, uv, np.asarray(image).reshape(-1, 3).mean(0), buffer.getvalue()


def _opaque(image: Image.Image) -> Image.Image:
    """RGB; what is transparent gets the mean colour of what is not."""
    if image.mode != "RGBA" or image.getextrema()[3][0] == 255:
        return image.convert("RGB")
    pixels = np.asarray(image).reshape(-1, 4).astype(np.float64)
    weight = pixels[:, 3:] / 255
    mean = (pixels[:, :3] * weight).sum(0) / max(weight.sum(), 1e-6) if weight.any() else pixels[:, :3].mean(0)
    background = Image.new("RGBA", image.size, (*(int(c) for c in mean), 255))
    return Image.alpha_composite(background, image).convert("RGB")


def _cropped(uv: np.ndarray, image: Image.Image) -> tuple[np.ndarray, Image.Image]:
    """The part of an image that texture coordinates [V, 2] use, and where they point in it; repeated images stay."""
    low = np.floor(uv.min(0) + 1e-6)
    size = np.array(image.size)
    box_low = np.floor((uv.min(0) - low - MARGIN) * size).clip(0, size - 1)
    box_high = np.ceil((uv.max(0) - low + MARGIN) * size)
    if (uv.max(0) - low > 1 + 1e-6).any():
        return uv, image.copy()
    box_high = np.maximum(np.minimum(box_high, size), box_low + 1)
    left, right = int(box_low[0]), int(box_high[0])
    top, bottom = int(size[1] - box_high[1]), int(size[1] - box_low[1])
    return ((uv - low) * size - box_low) / (box_high - box_low), image.crop((left, top, right, bottom))


def _simplified(part: tuple, share: float) -> tuple:
    """A plain-coloured part with that share of its faces; textured ones would lose their coordinates and stay."""
    vertices, faces, uv, colour, image = part
    if image or len(faces) < 500:
        return part
    welded = trimesh.Trimesh(vertices, faces, process=True)
    vertices, faces = fast_simplification.simplify(
        welded.vertices.astype(np.float32), welded.faces.astype(np.int32), target_reduction=1 - share
    )
    return vertices, faces, np.zeros((len(vertices), 2)), colour, image
