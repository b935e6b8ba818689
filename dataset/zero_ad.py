"""Models of the game 0 A.D.: actors (XML) pair a mesh (PMD) with a texture (DDS); all lie in one zip.

A PMD holds, little-endian: "PSMD", version, size; the number of vertices and, from version 4 on, of texture coordinate
sets; vertices; the number of faces and their 16-bit indices; then what animation needs, which is not read.
"""

import io
import struct
import xml.etree.ElementTree as ElementTree
from functools import lru_cache
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual.material import SimpleMaterial

from dataset.packages import ZERO_AD, fetch
from dataset.scans import Files, zip_files
from sap3d.errors import UserError
from sap3d.meshes import normalise

ACTORS, MESHES, TEXTURES = "art/actors/", "art/meshes/", "art/textures/skins/"
LEFT_HANDED_Y_UP_TO_Z_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, 1, 0]])


@lru_cache(maxsize=1)
def game_files() -> Files:
    """The art of the game by path, without what its animations, terrains and other textures need."""
    (archive,) = fetch(ZERO_AD).rglob("public.zip")
    return art_files(archive)


def art_files(archive: Path) -> Files:
    """The actors, meshes and object textures of a game archive."""
    return {
        path: read for path, read in zip_files(archive, "art/").items() if path.startswith((ACTORS, MESHES, TEXTURES))
    }


def mesh_textures(files: Files) -> dict[tuple[str, str], tuple[str, bool]]:
    """All pairs (mesh, base texture) of actors that are no plants, with the first actor that names each.

    Its name comes with whether its material takes the texture's alpha for transparency (others: the player's colour).

    A variant's mesh goes with the variant's texture or, where it has none, with those of the actor's other groups.
    """
    pairs: dict[tuple[str, str], tuple[str, bool]] = {}
    for actor in sorted(path for path in files if path.startswith(ACTORS) and path.endswith(".xml")):
        if "flora" in actor:
            continue
        root = ElementTree.fromstring(files[actor]())
        materials = [(material.text or "").strip() for material in root.iter("material")]
        cut_out = any("trans" in name and not name.startswith(("player", "no_trans")) for name in materials)
        for pair in _actor_pairs(root):
            if _stored(MESHES, pair[0], "pmd") in files and _stored(TEXTURES, pair[1], "dds") in files:
                pairs.setdefault(pair, (actor.removeprefix(ACTORS).removesuffix(".xml"), cut_out))
    return pairs


def _actor_pairs(actor: ElementTree.Element) -> list[tuple[str, str]]:
    groups = [
        [((variant.findtext("mesh") or "").strip(), _base_textures(variant)) for variant in group.findall("variant")]
        for group in actor.iter("group")
    ]
    pairs = []
    for group in groups:
        elsewhere = [texture for other in groups if other is not group for _, found in other for texture in found]
        pairs += [(mesh, texture) for mesh, own in group if mesh for texture in own or elsewhere]
    return pairs


def _base_textures(variant: ElementTree.Element) -> list[str]:
    return [texture.get("file", "") for texture in variant.iter("texture") if texture.get("name") == "baseTex"]


def _stored(folder: str, name: str, kind: str) -> str:
    return f"{folder}{name}.cached.{kind}"


def load_actor(files: Files, mesh: str, texture: str, cut_out: bool) -> trimesh.Trimesh:
    """A mesh with a texture, both named as actors do; z up, normalised.

    Args:
        cut_out: keep the texture's alpha.

    Raises:
        UserError: an unreadable mesh or texture.
    """
    vertices, uv, faces = read_pmd(files[_stored(MESHES, mesh, "pmd")](), mesh)
    try:
        image = Image.open(io.BytesIO(files[_stored(TEXTURES, texture, "dds")]())).convert("RGBA")
    except (OSError, NotImplementedError, ValueError) as error:
        raise UserError(f"{texture}: unreadable texture ({error})") from error
    image = image if cut_out else image.convert("RGB")
    visual = trimesh.visual.TextureVisuals(uv=uv, material=SimpleMaterial(image=image))
    return normalise(trimesh.Trimesh(vertices @ LEFT_HANDED_Y_UP_TO_Z_UP.T, faces, visual=visual, process=False))


def read_pmd(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices [V, 3] (left-handed, y up), the first texture coordinates [V, 2] (v up) and faces [F, 3] of a PMD.

    Raises:
        UserError: not a PMD, cut off, or without triangles.
    """
    try:
        magic, version, _, count = struct.unpack_from("<4sIII", content)
        if magic != b"PSMD":
            raise ValueError("it does not begin with PSMD")
        sets, start = (struct.unpack_from("<I", content, 16)[0], 20) if version >= 4 else (1, 16)
        vertex = np.dtype([("at", "<f4", 3), ("normal", "<f4", 3), ("uv", "<f4", (sets, 2)), ("bones", "V20")])
        vertices = np.frombuffer(content, vertex, count, start)
        start += vertices.nbytes
        (face_count,) = struct.unpack_from("<I", content, start)
        faces = np.frombuffer(content, "<u2", face_count * 3, start + 4).reshape(-1, 3).astype(np.int64)
    except (struct.error, ValueError) as error:
        raise UserError(f"{name}: not a readable PMD ({error})") from error
    if not face_count or faces.max() >= count or not sets or not np.isfinite(vertices["at"]).all():
        raise UserError(f"{name}: no triangles, or vertices that are missing or not finite")
    return vertices["at"].astype(np.float64), vertices["uv"][:, 0].astype(np.float64), faces
