"""Which photos were sent: of files, folders and zips, without what archivers, cameras and systems add by themselves."""

import re
import stat
import struct
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from sap3d.errors import UserError
from sap3d.names import JUNK_FOLDERS, shown

# What lies beside photos and is none; it is passed over in silence.
JUNK_NAMES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "picasa.ini", "icon\r")
JUNK_SUFFIXES = (".mov", ".mp4", ".aae", ".thm", ".lrv", ".xmp", ".json", ".ini")  # live photos, edits, catalogues
CHUNK = 1 << 20
END, ENTRY, UTF8 = b"PK\x05\x06", b"PK\x01\x02", 0x800  # of a zip's directory: its end, an entry, a name's encoding
HALF_WIDTH = re.compile("[\uff61-\uff9f]")  # katakana, which bytes of Chinese names look like


@dataclass(frozen=True)
class Limits:
    """Of what is sent together."""

    photos: int = 100
    megabytes: float = 1000.0  # of a file, and of each in a zip

    @property
    def bytes(self) -> int:
        return int(self.megabytes * 2**20)


@dataclass(frozen=True)
class Found:
    """A file that may be a photo."""

    name: str  # to be shown, and sorted by; it never becomes a path
    path: Path
    within: str = ""  # the folder that it was sent in


def find_photos(sent: list[Path], scratch: Path, limits: Limits, already: int = 0) -> tuple[list[Found], list[str]]:
    """The files among what was sent that may be photos, in the natural order of their names.

    Args:
        sent: files, folders (of which only the files in them count) and zips.
        scratch: an empty folder for what is unpacked.
        already: how many there are that count towards the limit.

    Returns:
        The files, and a sentence on each that was refused.

    Raises:
        UserError: more files than are taken; nothing is unpacked then.
    """
    files, refused, archives = [], [], []
    for path in sent:
        if path.is_dir():
            inner = [entry for entry in path.iterdir() if entry.is_file()]
            files += [Found(shown(entry.name), entry, shown(path.name)) for entry in inner]
        elif not path.is_file():
            refused.append(f"{shown(path)}: no such file or folder")
        elif path.suffix.lower() == ".zip":
            archives.append(path)
        else:
            files.append(Found(shown(path.name), path, shown(path.parent.name)))
    files = [file for file in files if not is_junk(file.name)]
    for path in archives:
        try:
            files += unpack(path, scratch, limits, already + len(files), refused)
        except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, struct.error, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the disk, not of the zip
            refused.append(f"{shown(path.name)}: not a readable zip")
    check_count(already + len(files), limits)
    for file in [file for file in files if file.path.stat().st_size > limits.bytes]:
        refused.append(f"{file.name}: larger than {limits.megabytes:g} MB")
        files.remove(file)
    counts = Counter(file.name for file in files)
    files = [replace(file, name=f"{file.within}/{file.name}") if counts[file.name] > 1 and file.within else file
             for file in files]  # fmt: skip
    return sorted(files, key=lambda file: natural(file.name)), refused


def check_count(count: int, limits: Limits) -> None:
    """Raises UserError for more files than are taken."""
    if count > limits.photos:
        raise UserError(f"{count} files, but at most {limits.photos} photos are taken")


def natural(name: str) -> tuple:
    """A key that sorts names as people count: IMG_8 before IMG_10."""
    parts = re.split("([0-9]+)", name.casefold())
    return [(int(part), "") if part.isdigit() and part.isascii() else (-1, part) for part in parts], name


def is_junk(name: str) -> bool:
    """Whether a file's path in what was sent is of no photo: hidden, a system's, a catalogue's, a live photo's film."""
    *folders, last = name.casefold().split("/")
    if any(folder in JUNK_FOLDERS or folder[:1] == "." and folder.strip(".") for folder in folders):
        return True
    return last in JUNK_NAMES or last[:1] == "." or last.endswith(JUNK_SUFFIXES)


def unpack(path: Path, scratch: Path, limits: Limits, before: int, refused: list[str]) -> list[Found]:
    """Copy a zip's files into `scratch` under names of ours; what is refused is added to `refused`.

    Nothing is extracted to where the archive says.

    Args:
        before: how many files there are already.

    Raises:
        UserError: too many files.
    """
    files = []
    with open_zip(path, scratch) as archive:
        members = [(member_name(member), member) for member in archive.infolist()]
        members = [(name, member) for name, member in members if not name.endswith("/") and not is_junk(name)]
        check_count(before + len(members), limits)
        for name, member in members:
            folder, _, last = name.rpartition("/")
            target = scratch / f"{before + len(files):06d}"
            try:
                check_member(name, member)
                with archive.open(member) as source:
                    copy(source, target, limits)
                files.append(Found(shown(last), target, shown(folder)))
            except UserError as error:
                target.unlink(missing_ok=True)
                refused.append(f"{shown(last)}: {error}")
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError):
                target.unlink(missing_ok=True)
                refused.append(f"{shown(last)}: damaged in the zip, or packed in a way that is not read")
    return files


def open_zip(path: Path, scratch: Path) -> zipfile.ZipFile:
    """A zip, also one whose names say that they are UTF-8 and are not.

    Raises:
        zipfile.BadZipFile, OSError, struct.error: not readable.
    """
    try:
        return zipfile.ZipFile(path)
    except UnicodeDecodeError:
        plain = scratch / "plain.zip"
        clear_utf8_flags(path, plain)
        return zipfile.ZipFile(plain)


def clear_utf8_flags(path: Path, target: Path) -> None:
    """Copy a zip without what its headers say of its names' encoding (PKWARE's APPNOTE, 4.3.12 and 4.4.4)."""
    data = bytearray(path.read_bytes())
    end = data.rindex(END)
    count, place = struct.unpack_from("<H", data, end + 10)[0], struct.unpack_from("<I", data, end + 16)[0]
    for _ in range(count):
        if data[place : place + 4] != ENTRY:
            raise zipfile.BadZipFile
        lengths = (struct.unpack_from("<H", data, place + at)[0] for at in (28, 30, 32))
        header = struct.unpack_from("<I", data, place + 42)[0]
        for flags in (place + 8, header + 6):
            struct.pack_into("<H", data, flags, struct.unpack_from("<H", data, flags)[0] & ~UTF8)
        place += 46 + sum(lengths)
    target.write_bytes(data)


def member_name(member: zipfile.ZipInfo) -> str:
    """A member's path with / between folders.

    Names that are not flagged as UTF-8 are bytes of an encoding that nobody tells; the first that fits is taken.
    """
    name = member.orig_filename
    if not member.flag_bits & UTF8 and not name.isascii():
        name = guess(name.encode("cp437"))
    return name.replace("\\", "/")


def guess(name: bytes) -> str:
    """Bytes of a name as UTF-8, else Western letters, else Japanese, else Chinese; anything fits cp437."""
    western = name.decode("cp437")
    if all(letter.isascii() or letter.isalpha() for letter in western) and b"\\" not in name:
        encodings = ("utf-8", "cp437")
    else:
        encodings = ("utf-8", "cp932", "gbk", "cp437")
    for encoding in encodings:
        try:
            text = name.decode(encoding)
        except UnicodeDecodeError:
            continue
        if not HALF_WIDTH.search(text):
            return text
    return western


def check_member(name: str, member: zipfile.ZipInfo) -> None:
    """Raises UserError for a member that an honest zip of photos does not have."""
    if name.startswith("/") or ".." in name.split("/"):
        raise UserError("names a place outside the archive")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise UserError("a link, not a photo")
    if member.flag_bits & 1:
        raise UserError("encrypted: pack it without a password")


def copy(source: IO[bytes], target: Path, limits: Limits) -> None:
    """Copy at most what a photo may have, whatever its header says.

    Raises:
        UserError: larger.
    """
    size = 0
    with target.open("wb") as file:
        while chunk := source.read(CHUNK):
            size += len(chunk)
            if size > limits.bytes:
                raise UserError(f"larger than {limits.megabytes:g} MB")
            file.write(chunk)
