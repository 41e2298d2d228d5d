"""Source: a file or standard input, read as blocks of bytes.

Regular files are read through aiofiles, in a thread. A thread that waits for a pipe or a terminal would prevent the end
of the process, so the event loop reads these, which also returns data as soon as they arrive.

Sources of the magic bytes: RFC 1952 section 2.3.1 (gzip), RFC 8878 section 3.1.1 (zstd), the .xz file format section
2.1.1.1, bzip2's manual, PKWARE's APPNOTE section 4.3.7 (zip), the Unicode Standard section 23.8 (byte order marks).
"""

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from io import FileIO

import aiofiles

from llmblast.errors import InputDamagedError, InputMissingError

BLOCK_BYTES = 256 * 1024
STDIN = "-"

_DECOMPRESS = "-compressed: decompress it: "
_CONVERT = ", not UTF-8: convert it: "
_FOREIGN = {
    b"\x1f\x8b": f"gzip{_DECOMPRESS}zcat FILE",
    b"\x28\xb5\x2f\xfd": f"zstd{_DECOMPRESS}zstdcat FILE",
    b"\xfd7zXZ\0": f"xz{_DECOMPRESS}xzcat FILE",
    b"BZh91AY&SY": f"bzip2{_DECOMPRESS}bzcat FILE",
    b"PK\3\4": f"zip{_DECOMPRESS}unzip -p FILE",
    b"\xff\xfe\0\0": f"UTF-32{_CONVERT}iconv -f UTF-32 -t UTF-8 FILE",
    b"\0\0\xfe\xff": f"UTF-32{_CONVERT}iconv -f UTF-32 -t UTF-8 FILE",
    b"\xff\xfe": f"UTF-16{_CONVERT}iconv -f UTF-16 -t UTF-8 FILE",
    b"\xfe\xff": f"UTF-16{_CONVERT}iconv -f UTF-16 -t UTF-8 FILE",
}
"""By the first bytes of an input: its type, and a command that converts it. Longer signatures come first."""
_LONGEST_MAGIC = max(map(len, _FOREIGN))

_STDIN_DESCRIPTOR = 0
_OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Non-blocking, so that opening a FIFO does not wait for its writer; regular files ignore this flag."""


class Source:
    """An open input. `size_bytes` is the number of bytes to read, None where the input has no known size."""

    def __init__(
        self,
        name: str,
        size_bytes: int | None,
        read: Callable[[], Awaitable[bytes]],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self.size_bytes = size_bytes
        self.bytes_read = 0
        self._name = name
        self._read = read
        self._close = close

    @property
    def has_grown(self) -> bool:
        """Return whether another process appends to the input: more was read than its size when it was opened."""
        return self.size_bytes is not None and self.bytes_read > self.size_bytes

    async def blocks(self) -> AsyncIterator[bytes]:
        """Yield blocks of at most 256 KiB up to the end.

        Raises InputDamagedError when reading fails, when the file has shrunk since it was opened, and when it is
        compressed or not UTF-8, since each of its lines would be a bad line.
        """
        start = b""
        while True:
            try:
                block = await self._read()
            except OSError as error:
                raise InputDamagedError(
                    f"{self._name}: reading failed at byte {self.bytes_read}: {error.strerror or error}: "
                    "repair the input and run the same command again to go on"
                ) from error
            if not block:
                self._check_size()
                return
            if len(start) < _LONGEST_MAGIC:  # a pipe may deliver byte by byte
                start += block[:_LONGEST_MAGIC]
                self._check_start(start)
            self.bytes_read += len(block)
            yield block

    async def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        await self._close()

    def _check_size(self) -> None:
        if self.size_bytes is not None and self.bytes_read < self.size_bytes:
            raise InputDamagedError(
                f"{self._name}: shrank while it was read: it ended at byte {self.bytes_read} of {self.size_bytes}: "
                "restore it and run the same command again to go on"
            )

    def _check_start(self, start: bytes) -> None:
        for magic, sentence in _FOREIGN.items():
            if start.startswith(magic):
                raise InputDamagedError(f"{self._name}: is {sentence} | llmblast run -")


async def open_source(path: str) -> Source:
    """Open a file, FIFO or device by its path, or standard input for `-`. Raises InputMissingError."""
    name = "standard input" if path == STDIN else path
    try:
        descriptor = _stdin_again() if path == STDIN else await asyncio.to_thread(os.open, path, _OPEN_FLAGS)
    except FileNotFoundError:
        raise InputMissingError(f"{name}: no such file: name an existing JSONL file, or - for standard input") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputMissingError(f"{name}: cannot be opened: {reason}: name a file that you may read") from None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        os.close(descriptor)
        raise InputMissingError(f"{name}: is a directory: name a JSONL file in it")
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor):
        return await _open_pipe(name, descriptor, is_stdin=path == STDIN)
    return await _open_file(name, descriptor, has_size=stat.S_ISREG(mode))


async def _open_file(name: str, descriptor: int, has_size: bool) -> Source:
    """Open a file, or a device such as /dev/null whose reads never block."""
    size_bytes = None
    if has_size:
        # The parent process may have read the start of standard input.
        size_bytes = max(0, os.fstat(descriptor).st_size - os.lseek(descriptor, 0, os.SEEK_CUR))
    file = await aiofiles.open(descriptor, "rb", buffering=0)

    async def read() -> bytes:
        return await file.read(BLOCK_BYTES)

    return Source(name, size_bytes, read, file.close)


async def _open_pipe(name: str, descriptor: int, is_stdin: bool) -> Source:
    stdin_blocks = is_stdin and os.get_blocking(_STDIN_DESCRIPTOR)
    reader = asyncio.StreamReader(limit=BLOCK_BYTES // 2)
    protocol = _PipeProtocol(reader)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, FileIO(descriptor))

    async def read() -> bytes:
        return await reader.read(BLOCK_BYTES)

    async def close() -> None:
        transport.close()
        await protocol.closed.wait()
        if stdin_blocks:
            # The loop has set O_NONBLOCK, perhaps on a description that other processes share.
            os.set_blocking(_STDIN_DESCRIPTOR, True)

    return Source(name, None, read, close)


class _PipeProtocol(asyncio.StreamReaderProtocol):
    """Feed a bounded StreamReader, and set `closed` when the descriptor is closed."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        self.closed = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.closed.set()


def _stdin_again() -> int:
    """Return a new descriptor of standard input.

    The loop sets O_NONBLOCK on the open file description, which a terminal shares with stdout and stderr. So terminals
    and anonymous pipes are opened again. A named FIFO is not: once its writers have closed it, a new description would
    never report the end of file.
    """
    if sys.stdin is None:  # closed by the parent; descriptor 0 may be another file now
        raise InputMissingError("standard input: is closed: name a JSONL file, or pipe one in")
    if os.isatty(_STDIN_DESCRIPTOR) or _is_anonymous_pipe(_STDIN_DESCRIPTOR):
        try:
            return os.open("/dev/stdin", _OPEN_FLAGS)
        except OSError:
            pass  # no /dev, or no permission
    return os.dup(_STDIN_DESCRIPTOR)


def _is_anonymous_pipe(descriptor: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:")
    except OSError:
        return False
