"""Output that is whole or absent: everything is written under a temporary name and renamed."""

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sap3d.errors import REFUSALS, UserError

REPOSITORY = Path(__file__).resolve().parents[1]
LARGE = 1 << 28  # bytes: reading a file of this size takes a while
FULL = 1 << 16  # bytes: a disk with less room than this is full


def root_dir() -> Path:
    """Where data and outputs live: the environment's ROOT_DIR, or else the repository."""
    return Path(os.environ.get("ROOT_DIR") or REPOSITORY).resolve()


def find_below(path: str | Path) -> Path:
    """An absolute path, or one below ROOT_DIR, or where nothing is there, below the repository."""
    return next((found for found in (root_dir() / path, REPOSITORY / path) if found.exists()), root_dir() / path)


def _temporary(path: Path, kind: str = "partial") -> Path:
    # The suffix stays last: writers choose their format by it.
    return path.with_name(f".{path.stem}.{socket.gethostname()}-{os.getpid()}.{kind}{path.suffix}")


def _leftovers(path: Path) -> list[tuple[Path, str]]:
    """What writers of `path` that were killed on this machine have left beside it, and its kind (`_temporary`)."""
    ours = re.escape(f".{path.stem}.{socket.gethostname()}-")
    leftover = re.compile(rf"{ours}(\d+)\.(partial|stale){re.escape(path.suffix)}")
    found = [match for name in os.listdir(path.parent) if (match := leftover.fullmatch(name))]
    return [(path.with_name(m[0]), m[2]) for m in found if int(m[1]) == os.getpid() or not _lives(int(m[1]))]


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _exchange(first: Path, second: Path) -> bool:
    """Let two paths change places in one step; False where the system cannot (it takes Linux's renameat2)."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2 is not None and not renameat2(here, os.fsencode(first), here, os.fsencode(second), exchange)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


@contextmanager
def disk_errors(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Name `path` where the disk is full or refuses to be written while its content is written, to `partial` or below.

    Raises:
        UserError: so it was. Many libraries hide that behind errors of their own, so the disk is asked, too.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        refused = isinstance(error, OSError) and error.errno in REFUSALS
        if refused and error.filename and not Path(error.filename).is_relative_to(partial or path):
            raise  # of another file, which it names
        no_space = os.strerror(errno.ENOSPC)
        if not refused and no_space not in str(error) and shutil.disk_usage(path.parent).free >= FULL:
            raise
        raise UserError(f"{path}: {error.strerror if refused else no_space}") from error


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on failure it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for other, _ in _leftovers(path):
        _remove(other)
    partial = _temporary(path)
    try:
        with disk_errors(path, partial):
            yield partial
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; on success it replaces `path`, on failure it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for other, kind in _leftovers(path):
        if kind == "stale" and not path.exists():  # of a writer that was killed between its two renames
            os.replace(other, path)
        else:
            _remove(other)
    partial = _temporary(path)
    try:
        with disk_errors(path, partial):
            partial.mkdir()
            yield partial
            if not path.exists():
                os.replace(partial, path)
            elif not _exchange(partial, path):
                stale = _temporary(path, "stale")
                os.replace(path, stale)
                os.replace(partial, path)
                shutil.rmtree(stale)
    finally:  # after an exchange it is the earlier folder
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Wait until no other process or thread does this to `path`; the lock's file stays beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_json(path: Path, content: object) -> None:
    """Write indented JSON atomically."""
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")


def digest(path: Path) -> str | None:
    """SHA-256 of a file, or None where there is none.

    A large file's is remembered beside it until its size or the time of its last change is another.
    """
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(state.st_mode) or state.st_size < LARGE:
        return _sha256(path)
    memo, now = path.with_name(f".{path.name}.sha256"), [state.st_size, state.st_mtime_ns]
    try:
        known = json.loads(memo.read_text())
        if known["state"] == now:
            return known["sha256"]
    except (OSError, ValueError, LookupError, TypeError):
        pass  # none, or damaged
    found = _sha256(path)
    with suppress(OSError, UserError):  # where nothing may be written it is read each time
        write_json(memo, {"state": now, "sha256": found})
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        sha256 = hashlib.sha256()
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
    return sha256.hexdigest()


def save_tensors(tensors: dict, path: Path, metadata: dict[str, str] | None = None) -> None:
    """safetensors' `save_file`, but with the mode of any new file: it makes its own the owner's alone to read."""
    from safetensors.torch import save_file  # it imports torch, which few callers need

    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata=metadata)
    path.chmod(mode)


def write_video(path: Path, frames, fps: int = 24) -> None:
    """Write an H.264 mp4 atomically.

    Args:
        frames: iterable of uint8 arrays [H, W, 3]; H and W even.

    Raises:
        RuntimeError: ffmpeg has not written all of it.
    """
    import imageio.v2 as imageio  # slow to import, and few callers need it
    from imageio_ffmpeg import count_frames_and_secs

    with atomic_file(path) as partial:
        with imageio.get_writer(partial, fps=fps, codec="libx264", macro_block_size=2) as writer:
            count = 0
            for frame in frames:
                writer.append_data(frame)
                count += 1
        # Neither a full disk nor ffmpeg's death is an error to imageio once the last frame is handed over.
        if count_frames_and_secs(partial)[0] != count:
            raise RuntimeError(f"{path}: ffmpeg has not written all frames")
