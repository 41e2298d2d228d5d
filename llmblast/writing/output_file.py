"""Output file: lock it for this run, repair it after a crash, then only append to it.

Anything but a regular file (standard output, a pipe, a device) is only written to, without repair and sync. Several
processes may share the writing end of a pipe, so each batch is written under a lock: the system keeps only short writes
in one piece.
"""

import contextlib
import errno
import fcntl
import os
import select
import stat
import sys
import termios
from collections.abc import Callable, Iterator, Mapping

from llmblast.errors import OutputBlockedError, OutputFailedError
from llmblast.locks import lock
from llmblast.pipes import STDOUT, check_place, descriptor_of, is_pipe
from llmblast.writing.recovery import has_record, is_ours, repair
from llmblast.writing.rewriting import rewrite, sync_directory_of

_NO_DIRECTORY = "its directory does not exist: create it, or choose another file"
_FIXES: Mapping[type[OSError], str] = {
    FileNotFoundError: _NO_DIRECTORY,
    NotADirectoryError: _NO_DIRECTORY,
    IsADirectoryError: "is a directory: name a file in it",
    PermissionError: "permission denied: allow it, or choose another file",
}
_GET_PIPE_SIZE: int | None = getattr(fcntl, "F_GETPIPE_SZ", None)  # Linux only
_USUAL_PIPE_BYTES = 64 * 1024
_LINE_BLOCK_BYTES = 16 * 1024
_sync_data: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


class ChangedError(OSError):
    """Another process has changed the file while this run was writing to it."""


class OutputFile:
    """An append-only file of records; `-` is standard output. `flag` is the option that names it, for messages.

    `repaired` lists what opening repaired, one message each. `is_resumable`: a later run can read the file and go on.
    A new file is for its owner only (0600), an existing one keeps its mode. `overwrite` accepts records of any run,
    `force` with it any content: the caller calls `empty` once all its outputs are locked.
    Opening a named pipe waits for its reader, unless `waits_for_reader` is off.
    Raises OutputBlockedError if the file is locked by another run, is not ours or cannot be created.
    """

    def __init__(
        self,
        path: str,
        *,
        overwrite: bool = False,
        force: bool = False,
        flag: str = "--save",
        waits_for_reader: bool = True,
    ) -> None:
        self.name = "standard output" if path == STDOUT else path
        self.path = path
        self.repaired: list[str] = []
        self._flag = flag
        self._fd = -1
        self._is_shared_pipe = False
        self._expected_bytes = 0
        """Size that a regular file has unless another process changes it."""
        try:
            self.is_resumable = not is_pipe(path)
            if self.is_resumable:
                self._open_regular(overwrite, force)
            else:
                self._fd = _open_pipe(path, waits_for_reader)
                self._is_shared_pipe = stat.S_ISFIFO(os.fstat(self._fd).st_mode)
        except OutputBlockedError:
            self.close()
            raise
        except (OSError, ValueError) as error:
            self.close()
            raise self._blocked(error) from None

    def append(self, data: bytes) -> tuple[int, OSError | None]:
        """Write all of `data`. Return how many bytes were written, and the error if that is not all. Blocks."""
        if (change := self.find_change()) is not None:
            return 0, change
        with self._in_one_piece():
            written, error = self._write(data)
        self._expected_bytes += written
        return written, error

    def find_change(self) -> ChangedError | None:
        """Return an error if the size of a regular file shows that another process has changed it.

        Do not call it beside a running `append`.
        """
        if not self.is_resumable or (size := self.size_bytes) == self._expected_bytes:
            return None
        return _changed(size, self._expected_bytes)

    def sync(self) -> None:
        """Make the written data survive a power cut. Blocks. Raises OSError; never try a failed sync again.

        The kernel drops what it could not write and the next sync reports success; source: LWN, "PostgreSQL's
        fsync() surprise", 2018.
        """
        if self.is_resumable:
            _sync_data(self._fd)

    def check_name(self) -> None:
        """Raise FileNotFoundError if the file was removed or replaced, ChangedError if it has lost bytes.

        May be called beside a running `append`. Blocks.
        """
        if not self.is_resumable:
            return
        if not _names_file(self.path, self._fd):
            raise FileNotFoundError(errno.ENOENT, "it was removed or replaced during the run")
        expected_bytes = self._expected_bytes
        if (size := self.size_bytes) < expected_bytes:
            raise _changed(size, expected_bytes)

    @property
    def watchable_fd(self) -> int | None:
        """Descriptor on which the event loop reports that the reader is gone, or None: only a pipe without a name never
        gets another reader, and only if it is opened just for writing.
        """
        is_nameless = self._is_shared_pipe and descriptor_of(self.path) is not None
        if is_nameless and fcntl.fcntl(self._fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
            return self._fd
        return None

    @property
    def size_bytes(self) -> int:
        """Size of a regular file."""
        return os.fstat(self._fd).st_size

    @property
    def pipe_bytes(self) -> int:
        """Bytes that a pipe holds for its reader; 0 for all else."""
        if not self._is_shared_pipe:
            return 0
        try:
            return fcntl.fcntl(self._fd, _GET_PIPE_SIZE) if _GET_PIPE_SIZE is not None else _USUAL_PIPE_BYTES
        except OSError:
            return _USUAL_PIPE_BYTES

    @property
    def unread_bytes(self) -> int:
        """Bytes in a pipe that its reader has not read, also if it is gone; 0 where the system does not tell."""
        if not self._is_shared_pipe:
            return 0
        try:
            return int.from_bytes(fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4)), sys.byteorder)
        except OSError:
            return 0

    def take_back(self, size_bytes: int) -> None:
        """Remove the last bytes, which are safe elsewhere, if the device allows that."""
        if self.is_resumable and size_bytes:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, max(0, self.size_bytes - size_bytes))
            self._expected_bytes = self.size_bytes

    def lines(self, leave_out_bytes: int = 0) -> Iterator[bytes]:
        """Yield the lines, newlines included, without the last `leave_out_bytes`; also if the file has lost its name.

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

    def read_line(self, offset: int) -> bytes:
        """Return the line that starts at `offset`, with its newline. Blocks. Raises OSError."""
        parts: list[bytes] = []
        while block := os.pread(self._fd, _LINE_BLOCK_BYTES, offset):
            end = block.find(b"\n") + 1
            parts.append(block[: end or None])
            if end:
                break
            offset += len(block)
        return b"".join(parts)

    def empty(self) -> None:
        """Remove all records."""
        if self.is_resumable:
            os.ftruncate(self._fd, 0)
            self._expected_bytes = 0

    def keep_only(self, keep: Callable[[bytes], bool]) -> int:
        """Rewrite the file without the records for which `keep` is False. Return how many were dropped.

        `keep` is asked once for every record, in order, without its newline. The new file is complete, durable and
        locked before it takes the old one's place; when nothing is dropped, nothing is written.
        Raises OutputFailedError, and leaves the file as it was.
        """
        if not self.is_resumable:
            return 0
        try:
            dropped = rewrite(self._fd, self.path, lambda line: line if line == b"\n" or keep(line[:-1]) else b"")
            self._expected_bytes = self.size_bytes
        except OSError as error:
            raise OutputFailedError(
                f"{self.name}: cannot be rewritten: {error.strerror}; it is unchanged: "
                "solve that and run the same command again"
            ) from None
        return dropped

    def close(self) -> None:
        """Close the file and release its lock. May be called again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _open_regular(self, overwrite: bool, force: bool) -> None:
        check_place(self.path, self._flag)
        self.path = os.path.realpath(self.path)
        self._fd = self._open_locked(lambda fd: lock(fd, self.name, self._flag))
        self._prepare(overwrite, force)
        self._expected_bytes = self.size_bytes

    def _write(self, data: bytes) -> tuple[int, OSError | None]:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                self._wait_until_writable()
            except OSError as error:
                return len(data) - len(rest), error
        return len(data), None

    @contextlib.contextmanager
    def _in_one_piece(self) -> Iterator[None]:
        """Lock a pipe against other processes. They share the open file with its flock, so each process has a lock."""
        if not self._is_shared_pipe:
            yield
            return
        with contextlib.suppress(OSError):  # a system without such locks
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def _open_locked(self, acquire: Callable[[int], None]) -> int:
        """Open and lock the file; again if another run has replaced it by a rewritten one in between."""
        while True:
            fd = self._open()
            try:
                acquire(fd)
                if _names_file(self.path, fd):
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

    def _prepare(self, overwrite: bool, force: bool) -> None:
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            raise OutputBlockedError(f"{self.name}: is neither a file nor a pipe: choose a file with {self._flag}")
        if overwrite and force:
            return
        self._check_ours(overwrite)
        if overwrite:
            return
        try:
            self.repaired = repair(self._fd, self.path)
        except OSError as error:
            raise OutputBlockedError(
                f"{self.name}: its incomplete last record cannot be moved to {error.filename or self.path}: "
                f"{error.strerror}: solve that, or choose another file with {self._flag}"
            ) from None

    def _check_ours(self, overwrite: bool) -> None:
        """Raise OutputBlockedError for a file with other content than our records."""
        if has_record(self._fd) if overwrite else is_ours(self._fd):
            return
        what = "none of its first lines is a record" if overwrite else "its first line is not a record"
        raise OutputBlockedError(
            f"{self.name}: is not an output of llmblast, {what}: choose another file with {self._flag}, "
            "or empty this one with --overwrite --force"
        )

    def _blocked(self, error: OSError | ValueError) -> OutputBlockedError:
        if isinstance(error, ValueError):
            return OutputBlockedError(
                f"{self.name!r}: is not a file name: {error}: choose another file with {self._flag}"
            )
        if error.errno == errno.ENXIO and os.path.exists(self.path) and stat.S_ISFIFO(os.stat(self.path).st_mode):
            return OutputBlockedError(
                f"{self.name}: is a pipe that nothing reads: start its reader first, or name a file with {self._flag}"
            )
        for kind, sentences in _FIXES.items():
            if isinstance(error, kind):
                return OutputBlockedError(f"{self.name}: {sentences} with {self._flag}")
        return OutputBlockedError(
            f"{self.name}: cannot be opened for writing: {error.strerror}: choose another file with {self._flag}"
        )

    def _wait_until_writable(self) -> None:
        """Wait until there is room in a full pipe that another process has made non-blocking."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.poll()


def _open_pipe(path: str, waits_for_reader: bool) -> int:
    """Open a pipe or device for writing. Raises OSError."""
    descriptor = descriptor_of(path)
    if descriptor is not None:
        return os.dup(descriptor)
    if waits_for_reader:
        return os.open(path, os.O_WRONLY | os.O_APPEND)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
    os.set_blocking(fd, True)
    return fd


def _changed(size_bytes: int, expected_bytes: int) -> ChangedError:
    what = f"{size_bytes:,} bytes instead of {expected_bytes:,}"
    return ChangedError(errno.ESTALE, f"another process changed it during the run ({what})")


def _names_file(path: str, fd: int) -> bool:
    """Return whether `path` leads to the open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False
