"""The event loop: uvloop where the platform has it, asyncio's own elsewhere, and as many open files as are allowed."""

import asyncio
import contextlib
import sys
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")
_ALWAYS_ALLOWED = 10_240
"""macOS names no hard limit and refuses more than this OPEN_MAX."""


def run_loop(main: Coroutine[object, object, T]) -> T:
    """Runs a coroutine on a new loop until it is done."""
    _allow_open_files()
    try:
        import uvloop  # noqa: PLC0415 -- not on every platform
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


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
