"""Local inputs: open a file, a pipe, a device or standard input.

Regular files are read through aiofiles, in a thread. A thread that waits for a pipe or a terminal would prevent the end
of the process, so the event loop reads these, which also returns data as soon as they arrive.
"""

import asyncio
import os
import shlex
import stat
import sys
from io import FileIO

import aiofiles

from llmblast.errors import InputMissingError
from llmblast.input_paths import STDIN, shown_input
from llmblast.reading.source import BLOCK_BYTES, Source

_STDIN_DESCRIPTOR = 0
_OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Non-blocking, so that opening a FIFO does not wait for its writer; regular files ignore this flag."""


async def open_local(path: str, *, follow: bool = False) -> Source:
    """Open a file, FIFO or device by its path, or standard input for `-`. Raises InputMissingError.

    With `follow`, the source of a file ends only when another file has taken its place, or when it is truncated, and
    that of a FIFO never.
    """
    name = shown_input(path)
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
        example = shlex.quote(os.path.join(path, "*.jsonl"))
        raise InputMissingError(f"{name}: is a directory: name a file in it, or several: {example}")
    if follow and not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        os.close(descriptor)
        raise InputMissingError(f"{name}: cannot be followed: it is neither a file nor a FIFO: leave --follow out")
    if follow and stat.S_ISREG(mode):
        from llmblast.reading.following import Follower  # noqa: PLC0415 -- few inputs are followed

        follower = Follower(path, await aiofiles.open(descriptor, "rb", buffering=0))
        return _followed(Source(name, None, follower.read, follower.close))
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor):
        # With a writer of our own, a FIFO does not end when the others have closed it.
        is_held = follow and stat.S_ISFIFO(mode)
        writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC) if is_held else None
        pipe = await _open_pipe(name, descriptor, writer, is_stdin=path == STDIN)
        return _followed(pipe) if is_held else pipe
    source = await _open_file(name, descriptor, has_size=stat.S_ISREG(mode))
    source.path = path if path != STDIN and stat.S_ISREG(mode) else None
    return source


def _followed(source: Source) -> Source:
    source.is_followed = source.is_live = True
    return source


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


async def _open_pipe(name: str, descriptor: int, writer: int | None, is_stdin: bool) -> Source:
    stdin_blocks = is_stdin and os.get_blocking(_STDIN_DESCRIPTOR)
    reader = asyncio.StreamReader(limit=BLOCK_BYTES // 2)
    protocol = _PipeProtocol(reader)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, FileIO(descriptor))

    async def read() -> bytes:
        return await reader.read(BLOCK_BYTES)

    async def close() -> None:
        nonlocal writer
        if writer is not None:
            os.close(writer)
            writer = None
        transport.close()
        await protocol.closed.wait()
        if stdin_blocks:
            # The loop has set O_NONBLOCK, perhaps on a description that other processes share.
            os.set_blocking(_STDIN_DESCRIPTOR, True)

    source = Source(name, None, read, close)
    source.is_stream = source.is_live = True
    return source


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
