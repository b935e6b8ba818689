"""What visitors send: pictures, or a zip of pictures, into a folder under names of our own.

Nothing of a name that was sent becomes a path, nothing is extracted to where an archive says, and a picture's format is
what its bytes are, not its suffix.
"""

import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from PIL import Image
from pillow_heif import register_heif_opener

from sap3d.errors import UserError
from sap3d.images import MAX_PIXELS, UNREADABLE, check_picture

FORMATS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "HEIF": ".heic"}
CHUNK = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Of one upload."""

    photos: int = 8
    megabytes: float = 30.0  # of a file, and of each in a zip

    @property
    def bytes(self) -> int:
        return int(self.megabytes * 2**20)


def receive(sent: list[Path], folder: Path, limits: Limits) -> tuple[list[str], list[str]]:
    """Copy the pictures among the sent files into `folder` as 000.jpg, 001.png, ….

    Args:
        folder: exists and is empty.

    Returns:
        The names that the kept pictures had, in the order of theirs here, and a sentence on each that was refused.

    Raises:
        UserError: too many files, or an archive that is not to be trusted; nothing is kept then.
    """
    archives = [path for path in sent if path.suffix.lower() == ".zip"]
    if archives and len(sent) > 1:
        raise UserError("send either photos or one zip of photos")
    register_heif_opener()
    kept, refused = [], []
    for name, source in zip_members(archives[0], limits) if archives else plain_files(sent, limits):
        target = folder / f"{len(kept):03d}"
        try:
            with source:
                copy(name, source, target, limits)
            target.rename(target.with_suffix(picture_format(name, target)))
            kept.append(name)
        except UserError as error:
            target.unlink(missing_ok=True)
            refused.append(f"{error}.")
    return kept, refused


def plain_files(sent: list[Path], limits: Limits) -> Iterator[tuple[str, IO[bytes]]]:
    """Names and contents of files in the order of their names.

    Raises:
        UserError: too many.
    """
    if len(sent) > limits.photos:
        raise UserError(f"{len(sent)} files, but at most {limits.photos} photos are taken")
    for path in sorted(sent, key=lambda path: path.name):
        yield path.name, path.open("rb")


def zip_members(path: Path, limits: Limits) -> Iterator[tuple[str, IO[bytes]]]:
    """Names and contents of an archive's files in the order of their names.

    Raises:
        UserError: not a zip, too many members, or one that is a link, encrypted or named outside the archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                check_member(path.name, member)
            members = [m for m in archive.infolist() if not m.is_dir() and not hidden(m.filename)]
            if len(members) > limits.photos:
                raise UserError(
                    f"{path.name}: {len(members)} files in it, but at most {limits.photos} photos are taken"
                )
            for member in sorted(members, key=lambda member: member.filename):
                yield member.filename.rpartition("/")[2], archive.open(member)
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise UserError(f"{path.name}: not a readable zip") from error


def hidden(name: str) -> bool:
    """What archivers add by themselves: .DS_Store, __MACOSX/."""
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def check_member(archive: str, member: zipfile.ZipInfo) -> None:
    """Raises UserError for a member that an honest zip of photos does not have."""
    name = member.filename
    if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
        raise UserError(f"{archive}: '{name}' names a place outside the archive")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise UserError(f"{archive}: '{name}' is a link, not a photo")
    if member.flag_bits & 1:
        raise UserError(f"{archive}: '{name}' is encrypted")


def copy(name: str, source: IO[bytes], target: Path, limits: Limits) -> None:
    """Copy at most what a photo may have, whatever its header says.

    Raises:
        UserError: larger, or unreadable.
    """
    size = 0
    with target.open("wb") as file:
        try:
            while chunk := source.read(CHUNK):
                size += len(chunk)
                if size > limits.bytes:
                    raise UserError(f"{name}: larger than {limits.megabytes:g} MB")
                file.write(chunk)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise UserError(f"{name}: damaged in the zip") from error


def picture_format(name: str, path: Path) -> str:
    """The suffix that fits a picture's content.

    Raises:
        UserError: no picture of a kind that is taken, too many pixels, or an animation.
    """
    try:
        with Image.open(path, formats=tuple(FORMATS)) as opened:
            check_picture(Path(name), opened)
            return FORMATS[opened.format]
    except Image.DecompressionBombError as error:
        raise UserError(f"{name}: more than {MAX_PIXELS // 10**6} million pixels") from error
    except UNREADABLE as error:
        raise UserError(f"{name}: not a JPEG, PNG, WebP or HEIC picture") from error
