"""The lock on an output file: flock(2), which the kernel lifts when the process ends, however it ends.

`writing` takes it. Whether it can be had is told before all that a run needs is loaded, so that a clock which starts
one beside a run under way costs little.
"""

import fcntl
import os
import stat
import time
from contextlib import suppress

from llmblast.errors import OutputBlockedError

_LOOK_S = 0.01
"""Longer than `check_unlocked` of another start holds its lock."""


def lock(fd: int, name: str, flag: str) -> None:
    """Locks an open file for this process. Raises OutputBlockedError where another one has; `flag` is its option."""
    for is_last in (False, True):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if is_last:
                raise blocked(name, flag) from None
            time.sleep(_LOOK_S)
        else:
            return


def lock_within(fd: int, seconds: float) -> bool:
    """Lock an open file that others lock for moments only. Return False where the lock is not free within `seconds`."""
    ends_s = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= ends_s:
                return False
            time.sleep(_LOOK_S)
        else:
            return True


def check_unlocked(path: str, flag: str) -> None:
    """Raises OutputBlockedError where another process has locked the file, and touches nothing, whatever `path` is.

    The shared lock that it takes for some microseconds refuses no other look, and `lock` waits for its end.
    """
    with suppress(OSError, ValueError):  # whoever opens it to write says what is wrong with it
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
    """Return the error that says so of another run."""
    return OutputBlockedError(
        f"{name}: another run is writing to it: wait until that run ends, or choose another file with {flag}"
    )
