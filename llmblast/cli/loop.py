"""Event loop: run a coroutine on uvloop, or on asyncio's loop without it, with as many open files as are allowed."""

import asyncio
import contextlib
import gc
import logging
import os
import sys
from collections.abc import Coroutine
from errno import EMFILE
from typing import TypeVar

from llmblast.errors import UsageError

T = TypeVar("T")
_MACOS_MAX_FILES = 10_240
"""OPEN_MAX of macOS, which reports no hard limit and refuses more."""

MIN_FREE_FILES = 24
"""Loop, input, two outputs, their side files and libraries take 16; the others are for connections."""

_GC_THRESHOLD = 20_000
_GC_THRESHOLD_PER_REQUEST = 40
"""Number of new objects that starts a garbage collection; Python's default is 700. Reference counts free requests, so
collections find nothing, but scan all that is queued and in flight: 3 % of a core at 10,000 requests a second, and
stalls of some milliseconds.
"""


def tune_collector(max_in_flight: int) -> None:
    """Exclude all present objects from garbage collection, and collect rarely. Call it once everything is loaded."""
    gc.freeze()
    gc.set_threshold(max(_GC_THRESHOLD, _GC_THRESHOLD_PER_REQUEST * max_in_flight), 20, 100)


class _OneLine(logging.Handler):
    """Write log messages of libraries without a traceback, one line each."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        text = f"{record.getMessage()}: {type(error).__name__}: {error}" if error else record.getMessage()
        with contextlib.suppress(OSError):  # the terminal may be gone
            sys.stderr.write(f"llmblast: {''.join(c if c.isprintable() else ' ' for c in text)}\n")


def shorten_logs() -> None:
    """Print errors that aiohttp and asyncio log without a traceback, unless logging is configured."""
    logging.lastResort = _OneLine(logging.WARNING)


def run_loop(main: Coroutine[object, object, T]) -> T:
    """Run a coroutine on a new event loop and return its result. Raises UsageError with too few files allowed."""
    shorten_logs()
    try:
        _allow_open_files()
        _check_open_files()
    except UsageError:
        main.close()
        raise
    try:
        import uvloop  # noqa: PLC0415 -- not on every platform
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def _check_open_files() -> None:
    """Raise UsageError where the loop, the outputs or the report of their failure would run out of files."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 -- not on every platform

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY or limit - _open_files() >= MIN_FREE_FILES:
        return
    raise UsageError(
        f"this process may open {limit} files and needs {_open_files() + MIN_FREE_FILES} or more, plus one for each "
        "request in flight: raise the limit: ulimit -n 1024"
    )


def _open_files() -> int:
    """Return the number of open files; an estimate where the system does not list them."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError as error:
        return MIN_FREE_FILES if error.errno == EMFILE else 3


def _allow_open_files() -> None:
    """Raise the soft limit of open files to the hard limit.

    Each request in flight is a socket, and many shells start with a soft limit of 1,024, for programs with select().
    """
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 -- not on every platform

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, max(soft, _MACOS_MAX_FILES)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return
