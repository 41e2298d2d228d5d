"""Where lines come from: a file or standard input, as blocks of bytes.

Regular files are read through aiofiles, one thread hop a block. A thread that waits for a pipe or a terminal would keep
the process from exiting, so these are watched by the event loop, which also delivers data as soon as it is there.

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
"""By an input's first bytes: what it is, and the command that makes lines of JSON of it. The longer ones go first."""
_LONGEST_MAGIC = max(map(len, _FOREIGN))

_STDIN_DESCRIPTOR = 0
_OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Non-blocking: opening a FIFO must not wait for its writer. Regular files do not care."""


class Source:
    """An open input. `size_bytes` is what there is to read, None where nobody knows before the end."""

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
        """Whether somebody else is writing to it: more was read than there was when it was opened."""
        return self.size_bytes is not None and self.bytes_read > self.size_bytes

    async def blocks(self) -> AsyncIterator[bytes]:
        """Blocks of at most 256 KiB up to the end.

        Raises InputDamagedError when reading fails, the file is shorter than when it was opened, or it is compressed or
        in another encoding than UTF-8: each of its lines would be a bad one.
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
        """Gives the descriptor back. May be called twice."""
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
    """Opens a file, FIFO or device by its path, or standard input for `-`. Raises InputMissingError."""
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
    """Files, and devices such as /dev/null that never keep a reader waiting."""
    size_bytes = None
    if has_size:
        # Whoever passed standard input on may have read some of it.
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
            # O_NONBLOCK may have been set on a description that others go on with.
            os.set_blocking(_STDIN_DESCRIPTOR, True)

    return Source(name, None, read, close)


class _PipeProtocol(asyncio.StreamReaderProtocol):
    """Feeds a bounded StreamReader and tells when the descriptor has been let go."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        self.closed = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.closed.set()


def _stdin_again() -> int:
    """A descriptor of our own for standard input.

    The loop sets O_NONBLOCK, which belongs to the open file description, and a terminal's is shared with stdout and
    stderr: so it is opened anew where that leads to the same thing. A named FIFO is not: when its writers have gone, a
    new description never learns of the end.
    """
    if sys.stdin is None:  # closed by the caller; descriptor 0 may be anything by now
        raise InputMissingError("standard input: is closed: name a JSONL file, or pipe one in")
    if os.isatty(_STDIN_DESCRIPTOR) or _is_anonymous_pipe(_STDIN_DESCRIPTOR):
        try:
            return os.open("/dev/stdin", _OPEN_FLAGS)
        except OSError:
            pass  # no /dev, or it belongs to another user
    return os.dup(_STDIN_DESCRIPTOR)


def _is_anonymous_pipe(descriptor: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:")
    except OSError:
        return False
