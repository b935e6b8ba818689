"""Files as phones, cameras, editors and archivers make them: pictures of one object, profiles, EXIF and zips."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from pillow_heif import register_heif_opener

HEIGHT, WIDTH = 160, 200
TOP, BOTTOM, BACK = (230, 120, 30), (250, 230, 90), (70, 90, 160)
D50 = (0.9642, 1.0, 0.8249)
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])

register_heif_opener()


def picture(shift: int = 0, axes=(50, 30), centre=(80, 100)) -> tuple[np.ndarray, np.ndarray]:
    """An ellipse, orange above and yellow below, before a blue wall: uint8 [HEIGHT, WIDTH, 3], and its mask."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    mask = ((y - centre[0]) / axes[0]) ** 2 + ((x - centre[1] - shift) / axes[1]) ** 2 < 1
    half = np.where((y < centre[0])[..., None], TOP, BOTTOM)
    return np.where(mask[..., None], half, BACK).astype(np.uint8), mask


def photo(**how) -> Image.Image:
    return Image.fromarray(picture(**how)[0])


def cutout(background: int = 0, **how) -> Image.Image:
    rgb, mask = picture(**how)
    return Image.fromarray(np.dstack([rgb, np.where(mask, 255, background).astype(np.uint8)]))


def encoded(image: Image.Image, kind: str = "JPEG", **how) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 95} if kind in ("JPEG", "MPO", "HEIF", "AVIF", "WEBP") else {}) | how)
    return buffer.getvalue()


def exif(focal_length: bytes | None = None, orientation: int | None = None) -> bytes:
    """EXIF with FocalLengthIn35mmFilm as these bytes of an entry: type, count and value or its place."""
    ifd0 = [struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)] if orientation else []
    start = 8 + 2 + 12 * (len(ifd0) + 1) + 4
    ifd0.append(struct.pack("<HHII", 0x8769, 4, 1, start))
    inner = [struct.pack("<H", 0xA405) + focal_length] if focal_length else []
    tables = [struct.pack("<H", len(ifd)) + b"".join(ifd) + bytes(4) for ifd in (ifd0, inner)]
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + b"".join(tables) + struct.pack("<II", 0, 0)


def icc(primaries: np.ndarray) -> bytes:
    """An ICC profile (version 4) of primaries' XYZ under D50, [3, 3] in columns, with sRGB's transfer curve."""

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    def text(words: str) -> bytes:
        return b"mluc" + bytes(4) + struct.pack(">II", 1, 12) + b"enUS" + struct.pack(">II", 2 * len(words), 28) + (
            words.encode("utf-16-be")
        )  # fmt: skip

    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    tags = {b"desc": text("test"), b"cprt": text("none"), b"wtpt": b"XYZ " + bytes(4) + fixed(*D50)}
    for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries.T):
        tags[name] = b"XYZ " + bytes(4) + fixed(*column)
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, data, place = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", place + len(data), len(content))
        data += content
    header = struct.pack(">I4sI4s4s4s", place + len(data), bytes(4), 0x04000000, b"mntr", b"RGB ", b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + fixed(*D50)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def in_display_p3(rgb: np.ndarray) -> np.ndarray:
    """sRGB colours, uint8 [..., 3], as a picture in Display P3 stores them."""
    value = rgb / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    linear = (linear @ (np.linalg.inv(DISPLAY_P3) @ SRGB).T).clip(0, 1)
    value = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (value * 255).round().astype(np.uint8)


def write_zip(path: Path, members: list[tuple[bytes, bytes]], flags: int = 0, mode: int = 0) -> Path:
    """A zip whose members' names are these bytes, with these flags in the directory and before the members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for index, (name, content) in enumerate(members):
            member = zipfile.ZipInfo(str(index).zfill(len(name)))  # as long: the name takes its place below
            member.compress_type, member.external_attr = zipfile.ZIP_DEFLATED, mode << 16
            archive.writestr(member, content)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        starts = [member.header_offset for member in archive.infolist()]
        place = archive.start_dir
    for start, (name, _) in zip(starts, members):
        data[start + 30 : start + 30 + len(name)] = name
        struct.pack_into("<H", data, start + 6, flags)
        data[place + 46 : place + 46 + len(name)] = name
        struct.pack_into("<H", data, place + 8, flags)
        place += 46 + len(name)
    path.write_bytes(data)
    return path


def bomb(width: int = 20_000, height: int = 20_000) -> bytes:
    """A PNG of a few bytes whose header promises many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
