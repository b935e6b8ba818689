"""Every kind of file that is taken or refused, and in which words.

.venv/bin/python -m tests.intake.cases          # the table in docs/RELIABILITY.md
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.intake.files import (
    BACK,
    DISPLAY_P3,
    HEIGHT,
    WIDTH,
    bomb,
    cutout,
    encoded,
    exif,
    icc,
    in_display_p3,
    photo,
    picture,
    write_zip,
)

UTF8, ENCRYPTED = 0x800, 1


@dataclass
class Case:
    """What is sent beside a good photo, and what becomes of it."""

    make: Callable[[Path], list[Path]]  # writes into an empty folder; the files
    taken: tuple[str, ...] = ()  # names of the photos that are taken, in their order
    words: str = ""  # what is said of it
    grey: bool = False  # only the pixels' brightness can be right
    tolerance: float = 8.0  # of the object's two colours, of 255


def one(name: str, content: bytes) -> Callable[[Path], list[Path]]:
    return several((name, content))


def several(*files: tuple[str, bytes]) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        for name, content in files:
            (folder / name).write_bytes(content)
        return [folder / name for name, _ in files]

    return make


def zipped(*members: tuple[bytes, bytes], **how) -> Callable[[Path], list[Path]]:
    return lambda folder: [write_zip(folder / "sent.zip", list(members), **how)]


def taken(name: str, image: Image.Image, kind: str = "JPEG", said: str = "", **how) -> Case:
    """A picture that is taken, written with `how`."""
    checks = {key: how.pop(key) for key in ("grey", "tolerance") if key in how}
    return Case(one(name, encoded(image, kind, **how)), (name,), said, **checks)


def refused(name: str, content: bytes, words: str) -> Case:
    return Case(one(name, content), (), f"{name}: {words}")


def adorned(alpha: Callable[[np.ndarray], np.ndarray]) -> Image.Image:
    """The cut-out with another alpha channel."""
    rgba = np.array(cutout())
    rgba[..., 3] = alpha(rgba[..., 3].copy())
    return Image.fromarray(rgba)


def with_dot(alpha: np.ndarray) -> np.ndarray:
    alpha[2, 197] = 255
    return alpha


def rotated(orientation: int) -> Image.Image:
    """The photo as a camera held otherwise stores it."""
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
    return photo().transpose(turn)


def short(*values: int) -> bytes:
    """An EXIF entry's type, count and values of 16 bits."""
    raw = b"".join(value.to_bytes(2, "little") for value in values)
    return (3).to_bytes(2, "little") + len(values).to_bytes(4, "little") + raw.ljust(4, b"\0")


JPEG, PNG = encoded(photo()), encoded(photo(), "PNG")
SMEARED = Image.fromarray(np.apply_along_axis(np.convolve, 0, picture()[0], np.ones(25) / 25, "same").astype(np.uint8))
PALETTE = photo().quantize(64)
NO_FOCUS = (5).to_bytes(2, "little") + (1).to_bytes(4, "little") + (8).to_bytes(4, "little")
NOT_A_PICTURE = "not a JPEG, PNG, WebP, HEIC, AVIF or TIFF picture"
NOTHING = "no clear object in it"
STRIP = Image.new("RGB", (20000, 20), BACK)
MOVING = {"save_all": True, "append_images": [photo(shift=6)]}

CASES: dict[str, dict[str, Case]] = {
    "Kinds of pictures": {
        "JPEG": taken("a.jpg", photo()),
        "progressive JPEG": taken("a.jpg", photo(), progressive=True),
        "JPEG in grey": taken("a.jpg", photo().convert("L"), grey=True),
        "JPEG in CMYK": taken("a.jpg", photo().convert("CMYK"), tolerance=40),
        "JPEG of several pictures (MPO: portraits of phones, Nikon)": taken(
            "a.jpg", photo(), "MPO", save_all=True, append_images=[photo(shift=6)]),
        "PNG": taken("a.png", photo(), "PNG"),
        "PNG in grey, 16 bits": taken(
            "a.png", Image.fromarray(np.asarray(photo().convert("L")).astype(np.uint16) * 257), "PNG", grey=True),
        "PNG with a palette": taken("a.png", photo().quantize(64), "PNG"),
        "PNG with a transparent colour": taken(
            "a.png", PALETTE, "PNG", transparency=PALETTE.getpixel((0, 0))),
        "WebP": taken("a.webp", photo(), "WEBP", tolerance=12),
        "HEIC": taken("a.heic", photo(), "HEIF", tolerance=12),
        "AVIF": taken("a.avif", photo(), "AVIF", tolerance=12),
        "TIFF": taken("a.tif", photo(), "TIFF"),
        "TIFF with alpha, compressed": taken("a.tiff", cutout(), "TIFF", compression="tiff_lzw"),
        "TIFF of several pages: the first": taken("a.tif", photo(), "TIFF", **MOVING),
        "JPEG called .jpe": taken("a.jpe", photo()),
        "JPEG called .jfif": taken("a.jfif", photo()),
        "JPEG called .JPG": taken("A.JPG", photo()),
        "JPEG called .png": taken("a.png", photo()),
        "JPEG without a suffix": taken("a", photo()),
        "HEIC called .hif": taken("a.hif", photo(), "HEIF", tolerance=12),
    },
    "Colours and EXIF": {
        "Display P3": taken("a.jpg", Image.fromarray(in_display_p3(picture()[0])), icc_profile=icc(DISPLAY_P3)),
        "Display P3, cut out": taken(
            "a.png", Image.fromarray(np.dstack([in_display_p3(picture()[0]), np.asarray(cutout())[..., 3]])), "PNG",
            icc_profile=icc(DISPLAY_P3)),
        "a damaged profile: as if there were none": taken("a.jpg", photo(), icc_profile=icc(DISPLAY_P3)[:200]),
        "a profile of another kind: as if there were none": taken(
            "a.jpg", photo().convert("L"), icc_profile=icc(DISPLAY_P3), grey=True),
        "turned by 180° (EXIF)": taken("a.jpg", rotated(3), exif=exif(orientation=3)),
        "turned by 90° (EXIF)": taken("a.jpg", rotated(6), exif=exif(orientation=6)),
        "turned by 270° (EXIF), PNG": taken("a.png", rotated(8), "PNG", exif=exif(orientation=8)),
        "damaged EXIF": taken("a.jpg", photo(), exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + bytes(range(64))),
        "EXIF with two focal lengths": taken("a.jpg", photo(), exif=exif(short(36, 36))),
        "EXIF with a focal length of 0": taken("a.jpg", photo(), exif=exif(short(0))),
        "EXIF with a focal length of 0/0": taken("a.jpg", photo(), exif=exif(NO_FOCUS)),
    },
    "Sizes": {
        "1024×160": taken("a.png", Image.fromarray(np.tile(np.pad(picture()[0], ((0, 0), (300, 300), (0, 0)), "edge"),
                                                           (1, 1, 1))), "PNG"),
        "20000×20": refused("a.png", encoded(STRIP, "PNG"), "20000×20 pixels, too few to show an object"),
        "1×1": refused("a.png", encoded(Image.new("RGB", (1, 1)), "PNG"), "1×1 pixels, too few to show an object"),
        "400 megapixels": refused("a.png", bomb(), "more than 100 million pixels"),
        "110 megapixels": refused("a.png", bomb(11_000, 10_000), "11000×10000 pixels, at most 100 million are read"),
    },
    "Files that are none": {
        "an empty file": refused("a.jpg", b"", "an empty file"),
        "half a JPEG": refused("a.jpg", JPEG[: len(JPEG) // 2], "not a readable picture"),
        "a PNG's first bytes": refused("a.png", PNG[:40], NOT_A_PICTURE),
        "HTML": refused("a.png", b"<html><script>alert(1)</script></html>", NOT_A_PICTURE),
        "SVG": refused("a.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', NOT_A_PICTURE),
        "a text": refused("notes.txt", b"hello", NOT_A_PICTURE),
        "PDF": refused("a.pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", NOT_A_PICTURE),
        "a program": refused("a.jpg", b"\x7fELF" + bytes(100), NOT_A_PICTURE),
        "GIF": refused("a.gif", encoded(photo(), "GIF"), NOT_A_PICTURE),
        "BMP": refused("a.bmp", encoded(photo(), "BMP"), NOT_A_PICTURE),
        "an animated PNG": refused("a.png", encoded(photo(), "PNG", **MOVING), "an animation, not a picture"),
        "an animated WebP": refused("a.webp", encoded(photo(), "WEBP", **MOVING), "an animation, not a picture"),
        "an animated AVIF": refused("a.avif", encoded(photo(), "AVIF", **MOVING), "an animation, not a picture"),
        "systems' files (Thumbs.db, desktop.ini, .DS_Store)": Case(
            several(("Thumbs.db", b"x"), ("desktop.ini", b"x"), (".DS_Store", b"x"))),
        "a live photo's film and edits": Case(
            several(("IMG_1.JPG", JPEG), ("IMG_1.MOV", b"x"), ("IMG_1.AAE", b"x")), ("IMG_1.JPG",)),
        "a catalogue's notes (.json, .xmp)": Case(
            several(("a.jpg", JPEG), ("a.jpg.json", b"{}"), ("a.xmp", b"<x/>")), ("a.jpg",)),
    },
    "The same shot twice": {
        "under two names": Case(
            several(("a.jpg", JPEG), ("a (1).jpg", JPEG)), ("a (1).jpg",), "a.jpg: the same picture as a (1).jpg"),
        "as JPEG and HEIC": Case(
            several(("IMG_1.heic", encoded(photo(), "HEIF")), ("IMG_1.jpg", JPEG)), ("IMG_1.heic",),
            "IMG_1.jpg: the same picture as IMG_1.heic", tolerance=12),
        "as JPEG and as a smaller WebP of its name": Case(
            several(("a.jpg", JPEG), ("a.webp", encoded(photo().resize((100, 80)), "WEBP", quality=60))), ("a.jpg",),
            "a.webp: the same picture as a.jpg"),
        "another of its name": Case(
            several(("a.jpg", JPEG), ("a.png", encoded(photo(shift=6), "PNG"))), ("a.jpg", "a.png")),
    },
    "Names": {
        "in Cyrillic": taken("Кружка.jpg", photo()),
        "with spaces, quotes and a picture": taken("it's \"my\" 🫖.jpg", photo()),
        "that look like options and paths": taken("-x; rm -rf $HOME.jpg", photo()),
        "with a line break": Case(one("a\nb.jpg", JPEG), ("a?b.jpg",)),
        "that are no UTF-8": Case(one("a\udcff.jpg", JPEG), ("a?.jpg",)),
        "of 200 letters": taken("x" * 196 + ".jpg", photo()),
        "with numbers: IMG_8, IMG_9, IMG_10": Case(
            several(*((f"IMG_{number}.jpg", encoded(photo(shift=number))) for number in (10, 8, 9))),
            ("IMG_8.jpg", "IMG_9.jpg", "IMG_10.jpg")),
    },
    "Cut-outs": {
        "with alpha": taken("a.png", cutout(), "PNG"),
        "WebP with alpha": taken("a.webp", cutout(), "WEBP", lossless=True),
        "grey with alpha": taken("a.png", cutout().convert("LA"), "PNG", grey=True),
        "with a stray pixel": taken(
            "a.png", adorned(with_dot), "PNG", "a.png: a part beside the object left out (specks)"),
        "on a background of alpha 127": taken("a.png", cutout(127), "PNG"),
        "on a background of alpha 128": taken("a.png", cutout(128), "PNG"),
        "half transparent": taken("a.png", adorned(lambda alpha: alpha // 2), "PNG"),
        "with an alpha channel that is opaque: not asked": taken("a.png", photo().convert("RGBA"), "PNG"),
        "with an alpha channel that is clear: not asked": taken("a.png", adorned(lambda alpha: alpha * 0), "PNG"),
        "cropped to the object": taken("a.png", cutout().crop((70, 30, 131, 131)), "PNG"),
    },
    "Photos that will not do, or not well": {
        "a blank wall": refused("a.png", encoded(Image.new("RGB", (WIDTH, HEIGHT), BACK), "PNG"), NOTHING),
        "an object that is too small": refused("a.png", encoded(photo(axes=(5, 5)), "PNG"), "the object is too small"),
        "an object that is cut off": refused(
            "a.png", encoded(photo(centre=(150, 100)), "PNG"), "the object is cut off by the picture's edge"),
        "a cut-out that is cut off": refused(
            "a.png", encoded(cutout(centre=(150, 100)), "PNG"), "the object is cut off by the picture's edge"),
        "an object that fills the picture": refused(
            "a.png", encoded(photo(axes=(300, 300)), "PNG"), "the object fills the picture"),
        "a blurred photo": taken("a.png", SMEARED, "PNG", "a.png: blurred: hold still", tolerance=60),
    },
    "Zips": {
        "of photos in a folder": Case(zipped((b"mug/a.jpg", JPEG), (b"mug/", b"")), ("a.jpg",)),
        "with what archivers add": Case(
            zipped((b"a.jpg", JPEG), (b"__MACOSX/._a.jpg", b"x"), (b".DS_Store", b"x")), ("a.jpg",)),
        "with backslashes (PowerShell 5.1)": Case(zipped((b"mug\\a.jpg", JPEG)), ("a.jpg",)),
        "with a colon in a name": Case(zipped((b"12:30.jpg", JPEG)), ("12:30.jpg",)),
        "with names in Shift-JIS": Case(zipped(("表.jpg".encode("cp932"), JPEG)), ("表.jpg",)),
        "with names in GBK": Case(zipped(("照片.jpg".encode("gbk"), JPEG)), ("照片.jpg",)),
        "with names in cp437": Case(zipped(("café.jpg".encode("cp437"), JPEG)), ("café.jpg",)),
        "with names in UTF-8 that do not say so": Case(zipped(("Кружка.jpg".encode(), JPEG)), ("Кружка.jpg",)),
        "with names that say UTF-8 and are not": Case(
            zipped(("照片.jpg".encode("gbk"), JPEG), flags=UTF8), ("照片.jpg",)),
        "with two files of one name": Case(
            zipped((b"front/1.jpg", JPEG), (b"back/1.jpg", encoded(photo(shift=6)))), ("back/1.jpg", "front/1.jpg")),
        "with a name outside the archive": Case(
            zipped((b"../a.jpg", JPEG), (b"b.jpg", JPEG)), ("b.jpg",), "a.jpg: names a place outside the archive"),
        "with a link": Case(zipped((b"a.jpg", b"/etc/passwd"), mode=0o120777), (), "a.jpg: a link, not a photo"),
        "encrypted": Case(zipped((b"a.jpg", JPEG), flags=ENCRYPTED), (), "a.jpg: encrypted: pack it without"),
        "with a text": Case(zipped((b"a.txt", b"hello"), (b"b.jpg", JPEG)), ("b.jpg",), f"a.txt: {NOT_A_PICTURE}"),
        "with a zip": Case(zipped((b"b.zip", b"PK\x03\x04"), (b"a.jpg", JPEG)), ("a.jpg",), f"b.zip: {NOT_A_PICTURE}"),
        "that are none": refused("sent.zip", b"no zip", "not a readable zip"),
        "beside photos": Case(
            lambda folder: [*zipped((b"b.jpg", JPEG))(folder), *one("a.jpg", encoded(photo(shift=6)))(folder)],
            ("a.jpg", "b.jpg")),
    },
}  # fmt: skip


def table() -> str:
    """The cases as Markdown."""
    rows = ["| what is sent | what becomes of it |", "|---|---|"]
    for title, cases in CASES.items():
        rows.append(f"| **{title}** | |")
        for name, case in cases.items():
            end = "taken" if case.taken else "passed over" if not case.words else "left out"
            rows.append(f"| {name} | {end}{f': *{case.words}*' if case.words else ''} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(table(), end="")
