"""Locks on output files: flock(2), which the kernel releases when the process ends, even after `kill -9`.

`writing` acquires them. A start checks them before its imports, so that a run from cron costs little while another run
holds them.
"""

import fcntl
import os
import stat
import time
from contextlib import suppress

from llmblast.errors import OutputBlockedError

_RETRY_INTERVAL_S = 0.01
"""Longer than `check_unlocked` of another process holds its lock."""


def lock(fd: int, name: str, flag: str) -> None:
    """Lock an open file. Raises OutputBlockedError where another process has locked it; `flag` is the file's option."""
    for is_last in (False, True):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if is_last:
                raise blocked(name, flag) from None
            time.sleep(_RETRY_INTERVAL_S)
        else:
            return


def lock_within(fd: int, seconds: float) -> bool:
    """Lock an open file that others lock only briefly. Return False where that takes more than `seconds`."""
    deadline_s = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(_RETRY_INTERVAL_S)
        else:
            return True


def check_unlocked(path: str, flag: str) -> None:
    """Raise OutputBlockedError where another process has locked the file; change nothing, whatever `path` is.

    The check holds a shared lock for some microseconds, which other checks share and `lock` waits for.
    """
    with suppress(OSError, ValueError):  # opening the file for writing reports these
        if not stat.S_ISREG(os.stat(path).st_mode):
            return
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise blocked(path, flag) from None
        finally:
            os.close(fd)


def blocked(name: str, flag: str) -> OutputBlockedError:
    """Return the error for an output that another run has locked."""
    return OutputBlockedError(
        f"{name}: another run is writing to it: wait until that run ends, or choose another file with {flag}"
    )
