"""Variety from few meshes: other proportions, mirror images, other colours, exchanged textures, two objects in one.

Everything here draws from the `rng` that it is given, so that a seed makes the same object on every run.
"""

import math
from collections.abc import Callable

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import MultiMaterial, SimpleMaterial

from sap3d.meshes import normalise

STRETCH = 0.25  # standard deviation of the logarithm of each axis' factor


def vary(rng: np.random.Generator, mesh: trimesh.Trimesh, another: Callable[[], trimesh.Trimesh]) -> trimesh.Trimesh:
    """A variant of a normalised mesh, normalised, z up.

    Args:
        another: draws a second mesh of the same source, for its textures or to stand beside the first.
    """
    mesh = turned(rng, mesh)
    if rng.random() < 0.06:
        mesh = joined(rng, mesh, turned(rng, another()))
    if rng.random() < 0.12:
        mesh = with_textures(rng, mesh, another())
    if rng.random() < 0.5:
        mesh = recoloured(rng, mesh)
    factors = np.exp(rng.normal(0, STRETCH, 3)) if rng.random() < 0.6 else np.ones(3)
    if rng.random() < 0.5:
        factors[0] *= -1
    mesh.vertices = mesh.vertices * factors
    return normalise(mesh)


def turned(rng: np.random.Generator, mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """Turned about z by any angle; one in ten lies on its side."""
    angle = rng.uniform(-math.pi, math.pi)
    rotation = trimesh.transformations.rotation_matrix(angle, (0, 0, 1))[:3, :3]
    if rng.random() < 0.1:
        rotation = rotation @ trimesh.transformations.rotation_matrix(math.pi / 2, (1, 0, 0))[:3, :3]
    mesh = mesh.copy()
    mesh.vertices = mesh.vertices @ rotation.T
    return mesh


def joined(rng: np.random.Generator, first: trimesh.Trimesh, second: trimesh.Trimesh) -> trimesh.Trimesh:
    """The second mesh, smaller or larger, on top of the first or beside it."""
    second = second.copy()
    vertices = second.vertices * rng.uniform(0.4, 1.2)
    low, high = first.vertices.min(0), first.vertices.max(0)
    if rng.random() < 0.5:
        vertices[:, 2] += high[2] - vertices[:, 2].min()
        vertices[:, :2] += rng.uniform(-0.15, 0.15, 2)
    else:
        vertices[:, 0] += high[0] - vertices[:, 0].min() - 0.02
        vertices[:, 2] += low[2] - vertices[:, 2].min()
    second.vertices = vertices
    return merged([first, second])


def with_textures(rng: np.random.Generator, mesh: trimesh.Trimesh, other: trimesh.Trimesh) -> trimesh.Trimesh:
    """With textures of another mesh in the place of its own."""
    pictures = [picture for picture in map(_picture, materials(other)) if picture.width > 1]
    if not pictures:
        return mesh
    return _with_materials(mesh, [SimpleMaterial(image=pictures[rng.integers(len(pictures))]) for _ in materials(mesh)])


def recoloured(rng: np.random.Generator, mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """With all hues turned by one angle, and saturation and brightness scaled."""
    turn, saturation, value = rng.uniform(0, 1), rng.uniform(0.5, 1.5), rng.uniform(0.7, 1.25)

    def change(picture: Image.Image) -> Image.Image:
        hsv = np.asarray(picture.convert("HSV")).astype(np.float32)
        hsv[..., 0] = (hsv[..., 0] + 255 * turn) % 256
        hsv[..., 1:] = (hsv[..., 1:] * (saturation, value)).clip(0, 255)
        return Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB")

    return _with_materials(mesh, [SimpleMaterial(image=change(_picture(each))) for each in materials(mesh)])


def merged(meshes: list[trimesh.Trimesh]) -> trimesh.Trimesh:
    """One mesh of several, each of which keeps its materials."""
    all_materials, face_materials, uv, faces, offset = [], [], [], [], 0
    for mesh in meshes:
        face_materials.append(_face_materials(mesh) + len(all_materials))
        all_materials += materials(mesh)
        uv.append(np.zeros((len(mesh.vertices), 2)) if mesh.visual.uv is None else mesh.visual.uv)
        faces.append(mesh.faces + offset)
        offset += len(mesh.vertices)
    visual = TextureVisuals(
        uv=np.concatenate(uv),
        material=MultiMaterial(materials=all_materials),
        face_materials=np.concatenate(face_materials),
    )
    vertices = np.concatenate([mesh.vertices for mesh in meshes])
    return trimesh.Trimesh(vertices, np.concatenate(faces), visual=visual, process=False)


def materials(mesh: trimesh.Trimesh) -> list:
    """Of a mesh with `TextureVisuals`."""
    material = mesh.visual.material
    return list(material.materials) if isinstance(material, MultiMaterial) else [material]


def _face_materials(mesh: trimesh.Trimesh) -> np.ndarray:
    multiple = isinstance(mesh.visual.material, MultiMaterial)
    return np.asarray(mesh.visual.face_materials) if multiple else np.zeros(len(mesh.faces), int)


def _with_materials(mesh: trimesh.Trimesh, new: list) -> trimesh.Trimesh:
    uv = np.zeros((len(mesh.vertices), 2)) if mesh.visual.uv is None else mesh.visual.uv
    visual = TextureVisuals(uv=uv, material=MultiMaterial(materials=new), face_materials=_face_materials(mesh))
    return trimesh.Trimesh(mesh.vertices, mesh.faces, visual=visual, process=False)


def _picture(material) -> Image.Image:
    image = getattr(material, "image", None)
    if image is not None:
        return image.convert("RGB")
    return Image.new("RGB", (1, 1), tuple(int(c) for c in material.main_color[:3]))
