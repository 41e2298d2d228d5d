"""Atomic file: an output that has its name only once it is complete, so that no reader ever meets half a file."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from llmblast.errors import OutputBlockedError, OutputFailedError

STDOUT = "-"


def check_free(path: str, *, overwrite: bool) -> None:
    """Raise OutputBlockedError where a file may not be written."""
    if path == STDOUT:
        return
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise OutputBlockedError(f"{path}: its directory does not exist: create it, or choose another file")
    if os.path.isdir(path):
        raise OutputBlockedError(f"{path}: is a directory: name a file in it")
    if os.path.exists(path) and not overwrite:
        raise _exists(path)


@contextlib.contextmanager
def open_atomic(path: str, *, overwrite: bool) -> Iterator[BinaryIO]:
    """Open a new file beside `path`, which gets that name if all goes well and else disappears; `-` is standard output.

    Raises OutputBlockedError, and OutputFailedError where it cannot be written.
    """
    if path == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = os.path.realpath(path)
    new_path = ""
    try:
        fd, new_path = tempfile.mkstemp(".new", f".{os.path.basename(path)[:100]}.", os.path.dirname(path))
        with open(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _give_name(new_path, path, overwrite=overwrite)
    except OSError as error:
        raise OutputFailedError(f"{path}: cannot be written: {error.strerror}: nothing was changed") from None
    finally:
        if new_path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new_path)


def _give_name(new_path: str, path: str, *, overwrite: bool) -> None:
    """Rename in one step; without `overwrite` also where another process has just made a file of that name."""
    if overwrite:
        os.rename(new_path, path)
        return
    try:
        os.link(new_path, path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError:  # a file system without links
        os.rename(new_path, path)


def _exists(path: str) -> OutputBlockedError:
    return OutputBlockedError(f"{path}: exists: choose another file, or replace it with --overwrite")
