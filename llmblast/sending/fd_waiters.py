"""File descriptors: let sends wait while this process may open no more files.

Sends wait in order for a connection that another send gives back, or for a file that is closed. So fewer requests are
in flight, and no endpoint is blamed.
"""

import asyncio
import logging
import os
import sys
from collections import deque
from errno import EMFILE, ENFILE
from typing import ClassVar, Generic, TypeVar

if sys.platform != "win32":
    import resource

T = TypeVar("T")
_log = logging.getLogger(__name__)


class FdWaiters(Generic[T]):
    """The sends of one channel that wait for a file descriptor. `waiting` is nearly always empty, and cheap to ask."""

    __slots__ = ("waiting",)

    _is_logged: ClassVar[bool] = False

    def __init__(self) -> None:
        self.waiting: deque[asyncio.Future[T | None]] = deque()

    async def wait(self, *, again: bool) -> T | None:
        """Wait for this send's turn. Return a connection to use, or None to try to open one.

        A send that has tried and failed waits `again`, before all others.
        """
        if not FdWaiters._is_logged:
            FdWaiters._is_logged = True
            _log.warning("%s; fewer requests are in flight than allowed: raise ulimit -n, or lower -j", shortage())
        turn: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()
        if again:
            self.waiting.appendleft(turn)
        else:
            self.waiting.append(turn)
        return await turn

    def wake_next(self, connection: T | None = None) -> bool:
        """Wake the first send that waits. Return False when none does."""
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(connection)
                return True
        return False


def is_out_of_files(error: BaseException) -> bool:
    """Return whether a connection could not be opened for want of a file descriptor.

    Neither a failed name resolution nor several addresses that failed in different ways show it: so a file is opened,
    unless the error names the reason.
    """
    error = getattr(error, "os_error", error)
    if isinstance(error, OSError) and error.errno in (EMFILE, ENFILE):
        return True
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as trial:
        return trial.errno in (EMFILE, ENFILE)
    return False


def shortage() -> str:
    """Return the limit that was reached, for a person."""
    if sys.platform == "win32":
        return "too many open files for another connection"
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return f"too many open files for another connection: this process may have {most:,}"
