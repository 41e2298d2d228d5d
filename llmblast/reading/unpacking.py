"""Unpacking: decompress an input in a thread, one block ahead of its consumer, so that sending goes on meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable

from llmblast.errors import InputDamagedError
from llmblast.reading.compression import Codec
from llmblast.reading.decompression import DamagedError, MemberReader

_MIN_PIECE_BYTES, _MAX_PIECE_BYTES = 16 * 1024, 64 * 1024
"""Compressed bytes that a decompressor gets at a time: a quarter of what it has had, within these bounds.

So the progress display knows well enough how far reading is, and a block takes few calls: after each one, the thread
waits until the event loop gives way.
"""
_BLOCK_BYTES = 128 * 1024
"""Blocks have at least this size while there is more input, and at most this and MAX_OUTPUT_BYTES."""


class Unpacker:
    """Return the decompressed blocks of an input that starts with the bytes `start`; `read_stored` returns the rest."""

    def __init__(self, codec: Codec, name: str, start: bytes, read_stored: Callable[[], Awaitable[bytes]]) -> None:
        self.codec = codec
        self.bytes_used = 0
        """Compressed bytes that the blocks returned so far came from."""
        self._name = name
        self._stored = start
        """Compressed bytes that were read, and how far the decompressor has them."""
        self._stored_at = 0
        self._read_stored = read_stored
        self._members = MemberReader(codec)
        self._bytes_fed = 0
        self._bytes_out = 0
        self._damage: DamagedError | None = None
        self._ahead: asyncio.Task[tuple[bytes, int]] | None = None
        self._has_told_garbage = False

    async def read(self) -> bytes:
        """Return the next block; empty bytes at the end. Raises InputDamagedError."""
        task = self._ahead or asyncio.create_task(self._next())
        self._ahead = task  # `close` ends it, too, if this call is cancelled
        block, self.bytes_used = await task
        self._ahead = asyncio.create_task(self._next()) if block else None
        await asyncio.sleep(0)  # the next block is on its way before this one is parsed
        return block

    async def close(self) -> None:
        """End the block ahead."""
        if self._ahead is None:
            return
        task, self._ahead = self._ahead, None
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # nobody reads on: not even asyncio has to know

    def take_notes(self) -> list[str]:
        """Return the messages that no earlier call has returned."""
        if not self._members.has_garbage or self._has_told_garbage:
            return []
        self._has_told_garbage = True
        return [f"{self._name}: something else follows its {self.codec.name} data: it is ignored"]

    async def _next(self) -> tuple[bytes, int]:
        try:
            while True:
                if self._members.needs_input and self._stored_at == len(self._stored):
                    self._stored, self._stored_at = await self._read_stored(), 0
                    if not self._stored:
                        self._members.finish()
                        return b"", self._bytes_fed
                if block := await asyncio.to_thread(self._decompress):
                    self._bytes_out += len(block)
                    return block, self._bytes_fed
        except DamagedError as error:
            raise InputDamagedError(
                f"{self._name}: {error}, at about byte {self._bytes_fed}, after {self._bytes_out} decompressed bytes: "
                f"{error.fix}"
            ) from None

    def _decompress(self) -> bytes:
        """Decompress what was read, up to the size of a block. Raises DamagedError once all good data are returned."""
        members, size_bytes = self._members, 0
        pieces: list[bytes] = []
        while self._damage is None and size_bytes < _BLOCK_BYTES:
            piece = b""
            if members.needs_input:
                piece_bytes = min(max(self._bytes_fed // 4, _MIN_PIECE_BYTES), _MAX_PIECE_BYTES)
                piece = self._stored[self._stored_at : self._stored_at + piece_bytes]
                if not piece:
                    break
                self._stored_at += len(piece)
                self._bytes_fed += len(piece)
            try:
                output = members.decompress(piece)
            except DamagedError as error:
                self._damage = error  # what came before it is good
                break
            pieces.append(output)
            size_bytes += len(output)
        if self._damage is not None and not pieces:
            raise self._damage
        return b"".join(pieces)
