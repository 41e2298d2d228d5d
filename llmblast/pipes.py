"""Pipes and devices: recognise outputs that can only be written, by their name and kind.

No later run can continue one, so it has no side files, and its errors go to a file that other runs may share.
"""

import os
import re
import select
import stat

from llmblast.errors import OutputBlockedError

STDOUT = "-"
_DESCRIPTOR = re.compile(r"/dev/(stdin|stdout|stderr)|/(?:dev|proc/self)/fd/(\d{1,6})")
_STANDARD = {"stdin": 0, "stdout": 1, "stderr": 2}
_DEVICES = "/dev/"
_SHARED_MEMORY = "/dev/shm/"


def descriptor_of(path: str) -> int | None:
    """Return the descriptor of this process that `path` names, as `-`, `/dev/stdout` or `/dev/fd/N`; else None.

    Such a name is never opened: it may lead to a socket, to another user's file, or to a file that others write.
    """
    if path == STDOUT:
        return 1
    match = _DESCRIPTOR.fullmatch(path)
    if match is None:
        return None
    return _STANDARD[match[1]] if match[1] else int(match[2])


def is_pipe(path: str) -> bool:
    """Return whether `path` is an open descriptor, a named pipe, a socket or a character device."""
    if descriptor_of(path) is not None:
        return True
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


def is_reader_gone(descriptor: int) -> bool:
    """Return whether a descriptor is a pipe whose reader has closed it. Raises OSError."""
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def check_place(path: str, flag: str) -> None:
    """Raise OutputBlockedError for a file in `/dev`, where a mistyped device name would create one."""
    place = os.path.realpath(path)
    if place.startswith(_DEVICES) and not place.startswith(_SHARED_MEMORY):
        raise OutputBlockedError(f"{path}: there is no such device: correct the name, or choose a file with {flag}")


def status_of(path: str) -> os.stat_result:
    """Return the status of a file, or of the descriptor that `path` names. Raises OSError, ValueError."""
    descriptor = descriptor_of(path)
    return os.stat(path) if descriptor is None else os.fstat(descriptor)
