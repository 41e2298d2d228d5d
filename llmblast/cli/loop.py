"""The event loop: uvloop where the platform has it, asyncio's own elsewhere, and as many open files as are allowed."""

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
"""macOS names no hard limit and refuses more than this OPEN_MAX."""

MIN_FREE_FILES = 24
"""The loop, the input, two outputs, their side files and libraries take 16; some are left for connections."""

_GC_OBJECTS = 20_000
_GC_OBJECTS_PER_SLOT = 40
"""Python looks for garbage when so many more objects were made than went, by default 700. Requests and what belongs to
them go without that, and what is queued and in flight is no garbage: to look at it all the time takes 3 % of a core at
10,000 a second, and stalls of some milliseconds.
"""


def tune_collector(max_in_flight: int) -> None:
    """Once everything is loaded: what there is by now lives to the end, and collections need not look at it again."""
    gc.freeze()
    gc.set_threshold(max(_GC_OBJECTS, _GC_OBJECTS_PER_SLOT * max_in_flight), 20, 100)


class _OneLine(logging.Handler):
    """Writes what libraries log without a traceback, one line a message."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        text = f"{record.getMessage()}: {type(error).__name__}: {error}" if error else record.getMessage()
        with contextlib.suppress(OSError):  # the terminal may be gone
            sys.stderr.write(f"llmblast: {''.join(c if c.isprintable() else ' ' for c in text)}\n")


def shorten_logs() -> None:
    """Keep tracebacks from a person who has set up no logging: aiohttp's server and asyncio log their errors."""
    logging.lastResort = _OneLine(logging.WARNING)


def run_loop(main: Coroutine[object, object, T]) -> T:
    """Runs a coroutine on a new loop until it is done."""
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
    """With fewer than these, what breaks is the loop, the outputs or the very report of what broke.

    Raises UsageError.
    """
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
    """Return how many files are open, as far as the system tells."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError as error:
        return MIN_FREE_FILES if error.errno == EMFILE else 3


def _allow_open_files() -> None:
    """Raises the soft limit to the hard one: each request in flight is a socket, and 1,024 is what many shells start
    with, for the sake of programs that use select().
    """
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 -- not on every platform

    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (most, max(soft, _ALWAYS_ALLOWED)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
            return
