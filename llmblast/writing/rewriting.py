"""Rewrites a locked output file with some lines changed: complete, durable and locked before it takes the path."""

import contextlib
import fcntl
import os
from collections.abc import Callable
from typing import IO

_BUFFER_BYTES = 1024 * 1024


def rewrite(fd: int, path: str, change: Callable[[bytes], bytes]) -> int:
    """Puts `change(line)` in the place of each line, newlines included; returns how many lines that changed.

    `fd` then is the new file, locked. Streams, so memory holds one line at a time. The new file comes into being at the
    first line that changes: where all stay, nothing is written. Raises OSError; the file at `path` then is the old one,
    unchanged.
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
    """Makes a new name survive a power cut, where the file system can sync a directory at all."""
    with contextlib.suppress(OSError):
        fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _create_like(fd: int, path: str) -> IO[bytes]:
    """A new locked file with the mode and, if we may set it, the owner of `fd`."""
    _remove(path)  # left by a crash; nobody else writes it while `fd` is locked
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
    """The lock belongs to the open file, which the duplicate shares; so `path` names a locked file at every moment."""
    new.flush()
    os.fsync(new.fileno())
    os.rename(new_path, path)
    os.dup2(new.fileno(), fd, inheritable=False)
    sync_directory_of(path)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
