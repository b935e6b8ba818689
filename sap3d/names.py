"""What types and objects may be called, and lists of them. Needs no package: run_pipeline.py runs under any Python."""

import codecs
import hashlib
import re
from pathlib import Path

from sap3d.errors import UserError

PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")  # of a folder that cannot lie elsewhere
# Archivers' and systems', in lower case.
JUNK_FOLDERS = ("__macosx", "@eadir", "$recycle.bin", "system volume information")
BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def check_name(name: str) -> str:
    """The name of a type or an object.

    Raises:
        UserError: not a plain name.
    """
    if not PLAIN_NAME.fullmatch(name):
        raise UserError(f"'{name}' cannot be a type or an object: use letters, digits, _, - and ., at most 100")
    return name


def shown(name: object) -> str:
    """A name on one line, of characters that can be printed."""
    text = str(name).encode(errors="replace").decode()
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def safe_name(name: str, taken: set[str]) -> str:
    """A plain name that reminds of a folder's: itself where it is one, else its letters, or a hash of it.

    Args:
        taken: names that others have.
    """
    if PLAIN_NAME.fullmatch(name):
        return name
    plain = re.sub("[^A-Za-z0-9]+", "_", name).strip("_")[:80]
    short = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:8]
    return plain if plain and plain not in taken else f"{plain or 'object'}_{short}"


def read_object_list(path: Path) -> list[tuple[str, str]]:
    """Types and names from a file of "TYPE OBJECT" lines, in UTF-8 or, as Windows writes it, with a byte order mark.

    Raises:
        UserError: unreadable, or a line of another form.
    """
    try:
        content = path.read_bytes()
        encoding = next((name for mark, name in BOMS.items() if content.startswith(mark)), "utf-8")
        lines = [line.split() for line in content.decode(encoding).splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text in UTF-8 or UTF-16") from error
    for line in lines:
        if len(line) != 2:
            raise UserError(f"{path}: '{' '.join(line)}' is not TYPE OBJECT")
    return [(line[0], line[1]) for line in lines]
