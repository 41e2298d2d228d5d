"""Shared file: the errors of runs into pipes. Several runs append to one file, each under a short lock.

A run whose answers go to a pipe cannot be resumed, so it neither reads nor rewrites the file. `ls *.jsonl | xargs -P4
-I{} llmblast run {} -o -` is one job for its user, with one errors.jsonl. A run that writes its answers to a file locks
its errors all the time, and these runs give way to it.
"""

import errno
import fcntl
import os
from functools import partial

from llmblast.locks import blocked, lock_within
from llmblast.pipes import check_place
from llmblast.writing.output_file import OutputFile

MAX_START_WAIT_S = 2.0
MAX_APPEND_WAIT_S = 10.0
"""Enough for many runs to append a batch each, one after the other."""


class SharedFile(OutputFile):
    """A file to which batches of records are appended whole. Each append opens and locks it, since another run may
    rewrite it in between.

    Raises OutputBlockedError if a run holds the file, if it cannot be created, or if it is not ours.
    """

    def __init__(self, path: str, *, flag: str = "--errors") -> None:
        super().__init__(path, flag=flag)
        self.is_resumable = False

    def append(self, data: bytes) -> tuple[int, OSError | None]:
        """Append all of `data` durably, or nothing of it. Blocks."""
        try:
            fd = self._open_locked(partial(_lock_within, MAX_APPEND_WAIT_S))
            try:
                _append_whole(fd, data)
            finally:
                os.close(fd)
        except OSError as error:
            return 0, error
        return len(data), None

    def _open_regular(self, overwrite: bool, force: bool) -> None:
        check_place(self.path, self._flag)
        self.path = os.path.realpath(self.path)
        try:
            self._fd = self._open_locked(partial(_lock_within, MAX_START_WAIT_S))
        except BlockingIOError:
            raise blocked(self.name, self._flag) from None
        self._check_ours(overwrite=False)
        self.close()


def _lock_within(wait_s: float, fd: int) -> None:
    if not lock_within(fd, wait_s):
        raise BlockingIOError(errno.EAGAIN, "another run uses it")


def _append_whole(fd: int, data: bytes) -> None:
    """Append to a locked file, behind the end of a record, and lift the lock before the sync. Raises OSError."""
    size_bytes = os.fstat(fd).st_size
    is_torn = size_bytes > 0 and os.pread(fd, 1, size_bytes - 1) != b"\n"
    rest = memoryview(b"\n" + data if is_torn else data)
    try:
        while rest:
            rest = rest[os.write(fd, rest) :]
    except OSError:
        os.ftruncate(fd, size_bytes)
        raise
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.fsync(fd)
