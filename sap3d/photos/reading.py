"""One photo from its file: upright, in sRGB, with its foreground, and what EXIF says of its lens."""

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError
from pillow_heif import register_heif_opener

from sap3d import images as im
from sap3d.errors import UserError
from sap3d.photos.intake import Found
from sap3d.photos.masks import find_foreground
from sap3d.photos.quality import notices, problem

SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "HEIF": ".heic", "AVIF": ".avif",
            "TIFF": ".tif"}  # of the formats that are read  # fmt: skip
FORMATS = [kind for kind in SUFFIXES if kind != "MPO"]  # that PIL is asked for: MPO is what some JPEGs turn out to be
KINDS = "JPEG, PNG, WebP, HEIC, AVIF or TIFF"
WORKING_SIZE = 1024  # longer side of a photo as it is worked on
THINNEST = 16  # pixels of the shorter side then
FILM_DIAGONAL = 43.27  # of 35 mm film, in mm: EXIF's equivalent focal length refers to it
# Diagonals of sensors in mm by the start of maker and model, where EXIF has the real focal length alone: APS-C, Four
# Thirds and 1 inch.
SENSORS = {"CANON CANON EOS": 26.8, "NIKON CORPORATION NIKON D": 28.2, "SONY ILCE-6": 28.2, "SONY DSC-RX100": 15.9,
           "PENTAX": 28.2, "RICOH": 28.2, "FUJIFILM X-": 28.2, "OLYMPUS": 21.6, "OM DIGITAL": 21.6,
           "PANASONIC DMC-G": 21.6, "PANASONIC DC-G": 21.6}  # fmt: skip
UNITS_OF_RESOLUTION = {2: 25.4, 3: 10.0, 4: 1.0}  # EXIF's focal plane resolution is a number of pixels in so many mm
FOCAL_LENGTHS = (4.0, 2000.0)  # of lenses for photos, as on 35 mm film, in mm
MODES = {"RGB": "RGB", "CMYK": "CMYK", "GRAY": "L"}  # PIL's, of ICC's colour spaces
# Two files of one shot: no cell of 8×8 differs by more, of 255. Codecs and resizing stay below.
THUMBNAIL, SAME_SHOT = 8, 7


@dataclass
class Photo:
    """One picture on its way in."""

    name: str  # as it was sent
    path: Path
    kind: str  # PIL's name of the format
    rgba: np.ndarray  # upright, sRGB, the foreground as alpha, uint8 [H, W, 4]
    method: str  # what told the foreground: alpha, network or grabcut
    fov: float | None = None  # vertical field of view by EXIF, radians
    taken: str | None = None  # EXIF's moment of the shot
    problem: str | None = None  # why it will not do
    notices: list[str] = field(default_factory=list)  # what is not good about it


def read_photo(path: Path, name: str | None = None) -> Photo:
    """Read a photo and find its foreground.

    Args:
        name: what messages call it; by default its path.

    Raises:
        UserError: not a readable still picture, too large, or too thin.
    """
    name = name or str(path)
    image, kind, fov, taken = open_upright(path, name)
    rgba = np.array(image)
    rgba[..., 3], method, dropped = find_foreground(rgba)
    trouble = problem(rgba, method)
    said = [] if trouble else dropped + notices(rgba, method)
    return Photo(name, path, kind, rgba, method, fov, taken, trouble, said)


def open_upright(path: Path, name: str) -> tuple[Image.Image, str, float | None, str | None]:
    """The picture in sRGB and mode RGBA at the working size, its format, field of view and moment.

    Raises:
        UserError: as `read_photo`.
    """
    register_heif_opener()
    if path.stat().st_size == 0:
        raise UserError(f"{name}: an empty file")
    try:
        with Image.open(path, formats=FORMATS) as opened:
            im.check_picture(Path(name), opened)
            kind, size = opened.format, opened.size
            opened.draft(None, (WORKING_SIZE, WORKING_SIZE))  # a large JPEG need not be decoded in full
            fov, taken = read_exif(opened)
            profile = opened.info.get("icc_profile")
            image = upright(opened)
            if image.mode in ("P", "PA") or "transparency" in image.info:
                image = image.convert("RGBA")
            image.thumbnail((WORKING_SIZE, WORKING_SIZE), Image.Resampling.LANCZOS)
            image = in_srgb(im.eight_bits(image), profile).convert("RGBA")
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(f"{name}: more than {im.MAX_PIXELS // 10**6} million pixels") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{name}: not a {KINDS} picture") from error
    except Exception as error:  # damaged files break decoders in many ways
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{name}: not a readable picture ({reason})") from error
    if min(image.size) < THINNEST:
        raise UserError(f"{name}: {size[0]}×{size[1]} pixels, too few to show an object")
    return image, kind, fov, taken


def upright(opened: Image.Image) -> Image.Image:
    """Turned as EXIF says; as it is stored where EXIF is damaged."""
    try:
        return ImageOps.exif_transpose(opened)
    except Exception:  # of EXIF, or of the picture itself: then it comes again
        opened.load()
        return opened


def in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Colours converted from an ICC profile to sRGB; unchanged where there is none that fits and is whole."""
    if not profile:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = MODES[source.profile.xcolor_space.strip()]
        alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
        colours = image.convert(mode) if image.mode in (mode, f"{mode}A") else None
        if colours is None:
            return image
        target = ImageCms.createProfile("sRGB")
        colours = ImageCms.profileToProfile(colours, source, target, ImageCms.Intent.RELATIVE_COLORIMETRIC, "RGB")
    except (ImageCms.PyCMSError, OSError, KeyError, ValueError):
        return image
    if alpha is not None:
        colours.putalpha(alpha)
    return colours


def read_exif(image: Image.Image) -> tuple[float | None, str | None]:
    """Vertical field of view of the upright picture in radians, and when it was taken; None where EXIF does not say."""
    try:
        exif = image.getexif()
        details = exif.get_ifd(ExifTags.IFD.Exif)
        turned = exif.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        moment = [details.get(tag) for tag in (ExifTags.Base.DateTimeOriginal, ExifTags.Base.SubsecTimeOriginal)]
        length = focal_length(details.get(ExifTags.Base.FocalLengthIn35mmFilm)) or film_equivalent(exif, details, image)
    except Exception:  # PIL's, of damaged EXIF
        return None, None
    taken = " ".join(str(part) for part in moment if part) if moment[0] else None
    if length is None:
        return None, taken
    height = (image.width if turned else image.height) / math.hypot(image.width, image.height)
    return 2 * math.atan(height * FILM_DIAGONAL / 2 / length), taken


def lens_exif(field_of_view: float, size: tuple[int, int]) -> Image.Exif:
    """EXIF by which `read_exif` finds a vertical field of view in radians of a picture (width, height), nearly."""
    exif, (width, height) = Image.Exif(), size
    length = height / math.hypot(width, height) * FILM_DIAGONAL / 2 / math.tan(field_of_view / 2)
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = round(length)
    return exif


def film_equivalent(exif: Image.Exif, details: dict, image: Image.Image) -> float | None:
    """The focal length on 35 mm film of the real one, where the sensor's size is told or known."""
    real = first_number(details.get(ExifTags.Base.FocalLength), 1.0, 2000.0)
    density = first_number(details.get(ExifTags.Base.FocalPlaneXResolution), 1.0, 1e6)
    width = first_number(details.get(ExifTags.Base.ExifImageWidth, max(image.size)), 16.0, 1e6)
    unit = UNITS_OF_RESOLUTION.get(details.get(ExifTags.Base.FocalPlaneResolutionUnit))
    camera = " ".join(str(exif.get(tag, "")).strip() for tag in (ExifTags.Base.Make, ExifTags.Base.Model)).upper()
    known = next((size for start, size in SENSORS.items() if camera.startswith(start)), None)
    if density and width and unit:
        known = width / density * unit * math.hypot(*image.size) / max(image.size)
    return focal_length(real * FILM_DIAGONAL / known) if real and known else None


def focal_length(value: object) -> float | None:
    """The first of EXIF's values, in mm, that can be a focal length on 35 mm film."""
    return first_number(value, *FOCAL_LENGTHS)


def first_number(value: object, low: float, high: float) -> float | None:
    """The first of EXIF's values that is a number between the bounds."""
    for candidate in value if isinstance(value, tuple | list) else [value]:
        try:
            number = float(candidate)
        except (TypeError, ValueError, ZeroDivisionError):
            continue
        if low <= number <= high:
            return number
    return None


def read_photos(found: Iterable[Found], before: Sequence[Photo] = ()) -> tuple[list[Photo], list[str]]:
    """Photos in the order of `found`, and a sentence on each file that is none, or is one of these or those before."""
    photos, refused = [], []
    for file in found:
        try:
            photo = read_photo(file.path, file.name)
        except (UserError, OSError) as error:
            refused.append(f"{file.name}: {error.strerror}" if isinstance(error, OSError) else str(error))
            continue
        twin = next((earlier for earlier in (*before, *photos) if same_shot(earlier, photo)), None)
        if twin:
            refused.append(f"{photo.name}: the same picture as {twin.name}")
        else:
            photos.append(photo)
    return photos, refused


def same_shot(first: Photo, second: Photo) -> bool:
    """Whether two photos are one shot: equal, or alike everywhere and of one name or moment, as .jpg and .heic are."""
    if first.rgba.shape == second.rgba.shape and np.array_equal(first.rgba, second.rgba):
        return True
    same_name = Path(first.name).stem.casefold() == Path(second.name).stem.casefold()
    if not same_name and (first.taken is None or first.taken != second.taken):
        return False
    small = [np.array(Image.fromarray(photo.rgba[..., :3]).resize((THUMBNAIL,) * 2, Image.Resampling.BOX), int)
             for photo in (first, second)]  # fmt: skip
    return bool(abs(small[0] - small[1]).max() <= SAME_SHOT)
