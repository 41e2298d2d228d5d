"""Event loop of the command line: uvloop if the platform has it, with the maximum number of open files."""

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
_ALWAYS_ALLOWED = 10_240
"""OPEN_MAX of macOS, which has no hard limit and rejects more."""

MIN_FREE_FILES = 24
"""The loop, the input, two outputs, their side files and libraries take 16; some are left for connections."""

_GC_OBJECTS = 20_000
_GC_OBJECTS_PER_SLOT = 40
"""Python collects garbage after this many new objects, by default 700. Requests form no reference cycles, and queued
ones are in use: collecting that often takes 3 % of a core at 10,000 requests a second, and stalls some milliseconds.
"""


def tune_collector(max_in_flight: int) -> None:
    """Exclude all present objects from garbage collection, since they live to the end, and collect rarely."""
    gc.freeze()
    gc.set_threshold(max(_GC_OBJECTS, _GC_OBJECTS_PER_SLOT * max_in_flight), 20, 100)


class _OneLine(logging.Handler):
    """Write log messages of libraries without a traceback, one line each."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        text = f"{record.getMessage()}: {type(error).__name__}: {error}" if error else record.getMessage()
        with contextlib.suppress(OSError):  # the terminal may be gone
            sys.stderr.write(f"llmblast: {''.join(c if c.isprintable() else ' ' for c in text)}\n")


def shorten_logs() -> None:
    """Keep tracebacks that aiohttp and asyncio log away from the terminal, unless logging is set up."""
    logging.lastResort = _OneLine(logging.WARNING)


def run_loop(main: Coroutine[object, object, T]) -> T:
    """Run a coroutine on a new event loop."""
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
    """Raise UsageError if this process may open too few files to run, to write and to report an error."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 -- not on every platform

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if most == resource.RLIM_INFINITY or most - _open_files() >= MIN_FREE_FILES:
        return
    raise UsageError(
        f"this process may open {most} files and needs {_open_files() + MIN_FREE_FILES} or more, plus one for each "
        "request in flight: raise the limit: ulimit -n 1024"
    )


def _open_files() -> int:
    """Return how many files are open, or a guess."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError as error:
        return MIN_FREE_FILES if error.errno == EMFILE else 3


def _allow_open_files() -> None:
    """Raise the soft limit of open files to the hard one: each request in flight needs a socket, and many shells set
    1,024 for old programs that use select().
    """
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 -- not on every platform

    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (most, max(soft, _ALWAYS_ALLOWED)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
            return
