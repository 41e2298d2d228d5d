"""One output file: locked for this run, put right after a crash, only ever appended to.

Anything but a regular file (standard output, a pipe, a device) is written to and nothing more: no lock, no repair, no
sync.
"""

import contextlib
import errno
import os
import select
import stat
from collections.abc import Callable, Iterator, Mapping

from llmblast.errors import OutputBlockedError, OutputFailedError
from llmblast.locks import lock
from llmblast.writing.recovery import is_ours, repair
from llmblast.writing.rewriting import rewrite, sync_directory_of

STDOUT = "-"
_NO_DIRECTORY = "its directory does not exist. Create it, or choose another file"
_FIXES: Mapping[type[OSError], str] = {
    FileNotFoundError: _NO_DIRECTORY,
    NotADirectoryError: _NO_DIRECTORY,
    IsADirectoryError: "is a directory. Name a file in it",
    PermissionError: "we may not write there. Allow it, or choose another file",
}
_sync_data: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


class OutputFile:
    """An append-only file of records; `-` is standard output. `flag` is the option that names it, for messages.

    `repaired` says, for the log, what opening put right, a sentence each; `is_resumable`, whether a later run can read
    it and go on.
    A new file is for its owner only (0600), an existing one keeps its mode. `overwrite` takes whatever it holds: the
    caller will `empty` it once all its outputs are locked.
    Opening a named pipe waits for its reader.
    Raises OutputBlockedError, one sentence with the fix: locked by another run, not ours, cannot be created.
    """

    def __init__(self, path: str, *, overwrite: bool = False, flag: str = "--save") -> None:
        self.name = "standard output" if path == STDOUT else path
        self.path = path
        self.repaired: list[str] = []
        self._flag = flag
        self._fd = -1
        try:
            self.is_resumable = _is_regular(path)
            if not self.is_resumable:
                self._fd = os.dup(1) if path == STDOUT else os.open(path, os.O_WRONLY | os.O_APPEND)
                return
            self.path = os.path.realpath(path)
            self._fd = self._open_locked()
            self._prepare(overwrite)
        except OutputBlockedError:
            self.close()
            raise
        except (OSError, ValueError) as error:
            self.close()
            raise self._blocked(error) from None

    def append(self, data: bytes) -> tuple[int, OSError | None]:
        """Writes all of `data`, or returns how many bytes were written and what stopped it. Blocks."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                self._wait_until_writable()
            except OSError as error:
                return len(data) - len(rest), error
        return len(data), None

    def sync(self) -> None:
        """Makes what was written survive a power cut. Blocks. Raises OSError; a failed sync must not be tried again.

        The kernel drops what it could not write and the next sync reports success; source: LWN, "PostgreSQL's
        fsync() surprise", 2018.
        """
        if self.is_resumable:
            _sync_data(self._fd)

    def check_name(self) -> None:
        """Raises FileNotFoundError where somebody has removed or replaced the file. Blocks."""
        if self.is_resumable and not _names(self.path, self._fd):
            raise FileNotFoundError(errno.ENOENT, "it was removed or replaced while the run was on")

    @property
    def size_bytes(self) -> int:
        """How much a regular file holds."""
        return os.fstat(self._fd).st_size

    def take_back(self, size_bytes: int) -> None:
        """Takes the last bytes off again, as far as the device lets us: they are safe elsewhere."""
        if self.is_resumable and size_bytes:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, max(0, self.size_bytes - size_bytes))

    def lines(self, leave_out_bytes: int = 0) -> Iterator[bytes]:
        """All lines but those in the last `leave_out_bytes`, newlines included, even where the file has lost its name.

        Blocks. Raises OSError.
        """
        left_bytes = self.size_bytes - leave_out_bytes
        with open(os.dup(self._fd), "rb") as file:
            file.seek(0)
            for line in file:
                left_bytes -= len(line)
                if left_bytes < 0:
                    return
                yield line

    def empty(self) -> None:
        """Starts the file anew."""
        if self.is_resumable:
            os.ftruncate(self._fd, 0)

    def keep_only(self, keep: Callable[[bytes], bool]) -> int:
        """Rewrites the file without the records for which `keep` is False; returns how many were dropped.

        `keep` is asked once for every record, in order, without its newline. The new file is complete, durable and
        locked before it takes the old one's place; when nothing is dropped, nothing is written.
        Raises OutputFailedError, and leaves the file as it was.
        """
        if not self.is_resumable:
            return 0
        try:
            return rewrite(self._fd, self.path, lambda line: line if line == b"\n" or keep(line[:-1]) else b"")
        except OSError as error:
            raise OutputFailedError(
                f"{self.name}: cannot be rewritten: {error.strerror}; it is unchanged. "
                "Mend that and run the same command again."
            ) from None

    def close(self) -> None:
        """Closes the file, which lifts its lock. May be called again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _open_locked(self) -> int:
        """Opens and locks, again where a rewrite by another run took the path to a new file in between."""
        while True:
            fd = self._open()
            try:
                lock(fd, self.name, self._flag)
                if _names(self.path, fd):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND
        try:
            fd = os.open(self.path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return os.open(self.path, flags | os.O_CREAT, 0o600)
        sync_directory_of(self.path)
        return fd

    def _prepare(self, overwrite: bool) -> None:
        if overwrite:
            return
        if not is_ours(self._fd):
            raise OutputBlockedError(
                f"{self.name}: is not an output of llmblast, its first line is no record. "
                f"Choose another file with {self._flag}, or empty this one with --overwrite."
            )
        try:
            self.repaired = repair(self._fd, self.path)
        except OSError as error:
            raise OutputBlockedError(
                f"{self.name}: what a crash tore in it cannot be moved to {error.filename or self.path}: "
                f"{error.strerror}. Mend that, or choose another file with {self._flag}."
            ) from None

    def _blocked(self, error: OSError | ValueError) -> OutputBlockedError:
        if isinstance(error, ValueError):
            return OutputBlockedError(
                f"{self.name!r}: is no file name: {error}. Choose another file with {self._flag}."
            )
        for kind, sentences in _FIXES.items():
            if isinstance(error, kind):
                return OutputBlockedError(f"{self.name}: {sentences} with {self._flag}.")
        return OutputBlockedError(
            f"{self.name}: cannot be opened for writing: {error.strerror}. Choose another file with {self._flag}."
        )

    def _wait_until_writable(self) -> None:
        """A pipe that another process has made non-blocking is full."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.poll()


def _is_regular(path: str) -> bool:
    """Whether `path` is a regular file or can become one."""
    if path == STDOUT:
        return False
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return True


def _names(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False
