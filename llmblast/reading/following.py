"""Following: read a file that grows, as `tail -F` does, by asking for its size and its place a few times a second."""

import asyncio
import os
from collections.abc import Awaitable
from enum import Enum
from typing import Protocol

from llmblast.reading.source import BLOCK_BYTES

POLL_INTERVAL_S = 0.2


class _File(Protocol):
    """An open file of aiofiles."""

    def read(self, size: int, /) -> Awaitable[bytes]: ...

    def close(self) -> Awaitable[None]: ...

    def fileno(self) -> int: ...


class _Change(Enum):
    """A change of a file other than growth."""

    TRUNCATED = 1
    REPLACED = 2


class Follower:
    """Read an open file to its end, then what is appended to it.

    It ends when its path names another file, as after a rotation, or when it has become shorter than what was read. A
    path that names no file may do so later.
    """

    def __init__(self, path: str, file: _File) -> None:
        self._path = path
        self._file = file
        self._position = 0

    async def read(self) -> bytes:
        """Return the next bytes, once there are some; empty bytes where another file or a new start follows."""
        while True:
            change = await asyncio.to_thread(self._find_change)
            if change is _Change.TRUNCATED:
                return b""
            block = await self._file.read(BLOCK_BYTES)  # after the question: what was appended before it is not lost
            if block or change is _Change.REPLACED:
                self._position += len(block)
                return block
            await asyncio.sleep(POLL_INTERVAL_S)

    async def close(self) -> None:
        """Close the file."""
        await self._file.close()

    def _find_change(self) -> _Change | None:
        mine = os.fstat(self._file.fileno())
        if mine.st_size < self._position:
            return _Change.TRUNCATED
        try:
            return None if os.path.samestat(mine, os.stat(self._path)) else _Change.REPLACED
        except FileNotFoundError:
            return None
