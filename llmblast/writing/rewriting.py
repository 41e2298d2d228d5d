"""Rewriting: change lines of a locked output file. The new file is complete, durable and locked first."""

import contextlib
import fcntl
import os
from collections.abc import Callable
from typing import IO

_BUFFER_BYTES = 1024 * 1024


def rewrite(fd: int, path: str, change: Callable[[bytes], bytes]) -> int:
    """Replace each line by `change(line)`, newlines included. Return how many lines that changed.

    Afterwards `fd` is the new file, locked. Memory holds one line at a time. If no line changes, nothing is written.
    Raises OSError, and leaves the old file at `path` as it was.
    """
    new_path = f"{path}.llmblast-rewrite"
    new: IO[bytes] | None = None
    changed = kept_bytes = 0
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(open(os.dup(fd), "rb", buffering=_BUFFER_BYTES))
        old.seek(0)
        for line in old:
            replacement = change(line)
            if replacement != line:
                changed += 1
                if new is None:
                    stack.callback(_remove, new_path)
                    new = stack.enter_context(_create_like(fd, new_path))
                    _copy_start(fd, new, kept_bytes)
            elif new is None:
                kept_bytes += len(line)
            if new is not None:
                new.write(replacement)
        if new is not None:
            _replace(fd, path, new, new_path)
    return changed


def sync_directory_of(path: str) -> None:
    """Make a new name survive a power cut, if the file system can sync directories."""
    with contextlib.suppress(OSError):
        fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _create_like(fd: int, path: str) -> IO[bytes]:
    """Create a locked file with the mode and, if permitted, the owner of `fd`."""
    _remove(path)  # left by a crash; no other run writes it while `fd` is locked
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL
    file = open(os.open(path, flags, 0o600), "ab", buffering=_BUFFER_BYTES)  # noqa: SIM115 -- the caller's stack closes it
    status = os.fstat(fd)
    with contextlib.suppress(OSError):
        os.fchown(file.fileno(), status.st_uid, status.st_gid)
    os.fchmod(file.fileno(), status.st_mode & 0o7777)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def _copy_start(fd: int, target: IO[bytes], size_bytes: int) -> None:
    for start in range(0, size_bytes, _BUFFER_BYTES):
        target.write(os.pread(fd, min(_BUFFER_BYTES, size_bytes - start), start))


def _replace(fd: int, path: str, new: IO[bytes], new_path: str) -> None:
    """Let `path` and `fd` be the new file. The duplicate shares its lock, so `path` is a locked file all the time."""
    new.flush()
    os.fsync(new.fileno())
    os.rename(new_path, path)
    os.dup2(new.fileno(), fd, inheritable=False)
    sync_directory_of(path)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
