"""The one exception a user may see: a line that names what is wrong and how to mend it."""

import sys
from contextlib import contextmanager


class UserError(Exception):
    """A mistake in the input or the setup. Its text is one line, printed without a traceback."""


@contextmanager
def one_line_errors():
    """Wrap a program's main: print a UserError as one line on stderr and exit with status 2."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
