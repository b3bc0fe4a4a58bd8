"""How a job starts and ends: two arguments, errors as one sentence."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from finalchar.errors import FinalcharError
from finalchar.work.screen import say

__all__ = ["main", "one_sentence", "remedy"]


def remedy(error: OSError) -> str:
    """Say what to do about a folder that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "; make room for the output folder, then start again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "; get the right to write there or choose another `output.folder`, then start again"
    return ""


@contextmanager
def one_sentence(log: Callable[[], None]) -> Iterator[None]:
    """Turn errors into one sentence on the screen, the traceback in the log and exit status 1."""
    try:
        yield
    except FinalcharError as error:
        log()
        say(f"error: {error}")
        sys.exit(1)
    except OSError as error:
        log()
        where = f": {error.filename}" if error.filename else ""
        say(f"error: {error.strerror or error}{where}{remedy(error)}")
        sys.exit(1)


def main(function: Callable[[str, str], None]) -> None:
    """Run the function of a script on its two arguments: stamp and run folder."""
    stamp, run_folder = sys.argv[1:3]
    with one_sentence(traceback.print_exc):
        function(stamp, run_folder)
