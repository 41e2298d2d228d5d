"""The lock on an output file: flock(2), which the kernel lifts when the process ends, however it ends.

`writing` takes it. Whether it can be had is told before all that a run needs is loaded, so that a clock which starts
one beside a run under way costs little.
"""

import fcntl
import os
import stat
from contextlib import suppress

from llmblast.errors import OutputBlockedError


def lock(fd: int, name: str, flag: str) -> None:
    """Locks an open file for this process. Raises OutputBlockedError where another one has; `flag` is its option."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _blocked(name, flag) from None


def check_unlocked(path: str, flag: str) -> None:
    """Raises OutputBlockedError where another process has locked the file, and touches nothing, whatever `path` is.

    The shared lock that it takes for some microseconds refuses no other look, but may refuse one that takes the lock
    at that very moment. Still one of many starts wins: whoever refuses another has looked and goes on to take the
    locks, or has them, so it ends later than the one that it refuses; and nobody is left to refuse the last one.
    """
    with suppress(OSError, ValueError):  # whoever opens it to write says what is wrong with it
        if not stat.S_ISREG(os.stat(path).st_mode):
            return
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _blocked(path, flag) from None
        finally:
            os.close(fd)


def _blocked(name: str, flag: str) -> OutputBlockedError:
    return OutputBlockedError(
        f"{name}: another run is writing to it. Wait until that run ends, or choose another file with {flag}."
    )
