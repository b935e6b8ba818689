"""What types and objects may be called, and lists of them. Needs no package: run_pipeline.py runs under any Python."""

import re
from pathlib import Path

from sap3d.errors import UserError

PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")  # of a folder that cannot lie elsewhere


def check_name(name: str) -> str:
    """The name of a type or an object.

    Raises:
        UserError: not a plain name.
    """
    if not PLAIN_NAME.fullmatch(name):
        raise UserError(f"'{name}' cannot be a type or an object: use letters, digits, _, - and ., at most 100")
    return name


def read_object_list(path: Path) -> list[tuple[str, str]]:
    """Types and names from a file of "TYPE OBJECT" lines.

    Raises:
        UserError: unreadable, or a line of another form.
    """
    try:
        lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    for line in lines:
        if len(line) != 2:
            raise UserError(f"{path}: '{' '.join(line)}' is not TYPE OBJECT")
    return [(line[0], line[1]) for line in lines]
