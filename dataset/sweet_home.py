"""Furniture of Sweet Home 3D: catalogues (.sh3f, zips of OBJ files) with names, categories and authors."""

import hashlib
import re
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
import trimesh

from dataset.packages import SWEET_HOME_3D, fetch
from dataset.scans import Y_UP_TO_Z_UP, Files, load_scan, zip_files
from sap3d.meshes import normalise

CATALOGUE = "PluginFurnitureCatalog.properties"
LICENCES = {
    "BlendSwap-CC-0": "CC0 1.0",
    "BlendSwap-CC-BY": "CC BY 3.0",
    "KatorLegaz": "CC BY 3.0 US",
    "Reallusion": "CC BY 3.0 US",  # people only
    "Scopia": "CC BY 3.0",
}


def catalogues() -> list[Path]:
    """The package's catalogue files."""
    return sorted(fetch(SWEET_HOME_3D).rglob("*.sh3f"))


def read_catalogue(path: Path) -> list[dict[str, str]]:
    """A catalogue's entries in its order: `model` (the OBJ's path in the zip), `name`, `category`, `creator` …"""
    text = zip_files(path)[CATALOGUE]().decode("latin-1")
    entries: dict[int, dict[str, str]] = {}
    for key, number, value in re.findall(r"^(\w+)#(\d+)=(.*?)\s*$", text, re.MULTILINE):
        entries.setdefault(int(number), {})[key] = value
    return [entry | {"model": entry["model"].lstrip("/")} for _, entry in sorted(entries.items())]


def is_object(entry: dict[str, str]) -> bool:
    """Whether an entry is an object by itself: no part of a building, and not a person."""
    part = entry["doorOrWindow"] == "true" or entry["category"] in ("Doors and windows", "Staircases")
    return not part and "People" not in entry["tags"]


@lru_cache(maxsize=8)
def archive_files(path: Path) -> Files:
    """The members of a catalogue file."""
    return zip_files(path)


def load_furniture(path: Path, obj: str, rotation: str = "") -> trimesh.Trimesh:
    """An object of a catalogue, z up, normalised; a material whose texture the zip lacks keeps its plain colour.

    Args:
        obj: its OBJ's path in the zip.
        rotation: the catalogue's `modelRotation`, nine numbers by rows, in the OBJ's frame (y up).
    """
    folder = str(PurePosixPath(obj).parent) + "/"
    files = {name: read for name, read in archive_files(path).items() if name.startswith(folder)}
    mesh = load_scan(files, obj, "y", f"{path.name}: {obj}", missing_ok=True)
    if rotation:
        turn = np.array(rotation.split(), float).reshape(3, 3)
        mesh.vertices = mesh.vertices @ (Y_UP_TO_Z_UP @ turn @ Y_UP_TO_Z_UP.T).T
        mesh = normalise(mesh)
    return mesh


def geometry_hash(obj: bytes) -> str:
    """SHA-256 of an OBJ's vertex lines: the same for copies with other comments, names or materials."""
    vertices = [b" ".join(line.split()) for line in obj.splitlines() if line.startswith(b"v ")]
    return hashlib.sha256(b"\n".join(vertices)).hexdigest()
