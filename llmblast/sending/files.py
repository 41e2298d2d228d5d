"""Open files: a process may have so many sockets and no more. To run out of them is our own trouble, no endpoint's.

Sends wait here, in order, for a connection that another send gives back or for a file that is closed; so fewer are
under way at once, and no endpoint is blamed.
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


class FileShortage(Generic[T]):
    """The sends of one channel that found no file left. `waiting` is empty nearly always, and cheap to ask."""

    __slots__ = ("waiting",)

    _is_told: ClassVar[bool] = False

    def __init__(self) -> None:
        self.waiting: deque[asyncio.Future[T | None]] = deque()

    async def wait(self, *, again: bool) -> T | None:
        """Waits for its turn: a connection to use, or None to try to open one. Who tried in vain is first `again`."""
        if not FileShortage._is_told:
            FileShortage._is_told = True
            _log.warning("%s; fewer requests are in flight than allowed: raise ulimit -n, or lower -j", shortage())
        turn: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()
        if again:
            self.waiting.appendleft(turn)
        else:
            self.waiting.append(turn)
        return await turn

    def relieve(self, connection: T | None = None) -> bool:
        """It is the turn of the first one; False when nobody waits."""
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(connection)
                return True
        return False


def is_out_of_files(error: BaseException) -> bool:
    """Whether a connection could not be opened for want of a file. A failed name resolution does not tell, nor do
    several addresses that failed in different ways: so it is tried, unless an error names it.
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
    """What is the matter, for a person."""
    if sys.platform == "win32":
        return "too many open files for another connection"
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return f"too many open files for another connection: this process may have {most:,}"
