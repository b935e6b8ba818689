"""The one exception a user may see: a line that names what is wrong and how to mend it."""

import errno
import sys
from contextlib import contextmanager

# What the disk or its owner refuses; everything else that goes wrong is a fault of ours and keeps its traceback.
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


class UserError(Exception):
    """A mistake in the input or the setup. Its text is one line, printed without a traceback."""


def _unraisable(failure) -> None:
    """Writers that could not write try it once more when they are collected; the line has said why."""
    if getattr(failure.exc_value, "errno", None) not in REFUSALS:
        sys.__unraisablehook__(failure)


@contextmanager
def one_line_errors(stage: str = "", memory: str = ""):
    """Wrap a program's main: print a UserError, a refusal by the disk, or a lack of a GPU's memory as one line on
    stderr and exit with status 2.

    The flag --debug shows the traceback.

    Args:
        stage: whose program it is.
        memory: the settings that take less of a GPU's memory when they are lower.
    """
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        yield
    except UserError as error:
        if debug:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.unraisablehook = _unraisable
        sys.exit(2)
    except OSError as error:
        if debug or error.errno not in REFUSALS:
            raise
        print(f"error: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        sys.unraisablehook = _unraisable
        sys.exit(2)
    except RuntimeError as error:
        if debug or type(error).__name__ != "OutOfMemoryError":  # torch's, which not every program needs
            raise
        lower = f"lower {memory}, " if memory else ""
        said = str(error).partition(" Tried")[0]
        print(f"error: {stage}{': ' * bool(stage)}{said} Free some, {lower}or take another GPU_INDEX, or cpu",
              file=sys.stderr)  # fmt: skip
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
