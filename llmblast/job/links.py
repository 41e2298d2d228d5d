"""Links: what passes between the processes of a run, in frames over a Unix socket.

A frame is eight bytes of length and one value in Python's own `marshal` format: the processes are forks of one another,
so both speak the same version, and nobody else can reach the socket. It takes a third of the time of pickle.
"""

import asyncio
import marshal
import socket
from collections.abc import Callable
from typing import Any, cast

_LENGTH_BYTES = 8
_VERSION = 2
"""Of marshal: floats as bytes, but no table of references, which costs more than it saves here."""


def frame_of(value: Any) -> bytes:
    """The frame of a value made of None, numbers, texts, bytes, lists, tuples and dicts."""
    payload = marshal.dumps(value, _VERSION)
    return len(payload).to_bytes(_LENGTH_BYTES) + payload


def receive(connected: socket.socket) -> Any:
    """The next frame's value, waited for without a loop. Raises EOFError when the other process has ended."""
    return marshal.loads(_receive_bytes(connected, int.from_bytes(_receive_bytes(connected, _LENGTH_BYTES))))


def _receive_bytes(connected: socket.socket, size: int) -> bytes:
    received = connected.recv(size, socket.MSG_WAITALL) if size else b""
    if len(received) < size:
        raise EOFError
    return received


class Link(asyncio.Protocol):
    """One end. `on_frame` gets each value, `on_lost` is called once when the other process is gone."""

    def __init__(self, on_frame: Callable[[Any], None], on_lost: Callable[[], None]) -> None:
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._parts: list[bytes] = []
        self._received_bytes = 0
        self._wanted_bytes = _LENGTH_BYTES
        self._transport: asyncio.WriteTransport | None = None

    async def open(self, connected: socket.socket) -> None:
        """Takes the socket over."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=connected)

    def send(self, value: Any) -> None:
        """Sends a frame; nothing happens once the link is lost."""
        if self._transport is not None:
            self._transport.write(frame_of(value))

    def close(self) -> None:
        """Closes this end, after what was sent."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's are of no class of asyncio's

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        self._received_bytes += len(data)
        if self._received_bytes < self._wanted_bytes:
            return
        received = memoryview(b"".join(self._parts))
        start = 0
        while (size := self._size_at(received, start)) <= len(received) - start:
            self._on_frame(marshal.loads(received[start + _LENGTH_BYTES : start + size]))
            start += size
        rest = bytes(received[start:])
        self._parts = [rest] if rest else []
        self._received_bytes = len(rest)
        self._wanted_bytes = size

    def connection_lost(self, exc: BaseException | None) -> None:
        self._transport = None
        self._on_lost()

    @staticmethod
    def _size_at(received: memoryview, start: int) -> int:
        """Bytes of the frame that begins there, or of its length if not even that is known."""
        head = received[start : start + _LENGTH_BYTES]
        return _LENGTH_BYTES + (int.from_bytes(head) if len(head) == _LENGTH_BYTES else 0)
