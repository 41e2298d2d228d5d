"""The connection below aiohttp's server: plays replies byte by byte and ends connections the rude ways.

aiohttp reads the requests and keeps the connection; the reply is written to its transport, and aiohttp is handed a
response that has nothing left to write.
"""

import asyncio
import socket
import struct
from collections.abc import Iterable

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from llmblast.mocking.replies import Ending, Step

_LOOK_S = 0.02
"""Interval at which a pause checks that the client is connected: only aiohttp's protocol is told of the end."""
_NO_LINGER = struct.pack("ii", 1, 0)
"""SO_LINGER on, for 0 seconds: closing sends a reset instead of what is left. Source: socket(7)."""


class Sent(web.StreamResponse):
    """A response that is out already. The connection stays open, unless it was ended."""

    @property
    def keep_alive(self) -> bool:
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left."""


async def play(request: web.BaseRequest, steps: Iterable[Step]) -> bool:
    """Takes one step after the other for as long as the client is there; whether all were taken."""
    for step in steps:
        transport = request.transport
        if transport is None or transport.is_closing():
            return False
        if isinstance(step, bytes):
            transport.write(step)
            try:
                await request.writer.drain()
            except ConnectionError:
                return False
        elif isinstance(step, Ending):
            _end(transport, step)
        else:
            await _pause(transport, step)
    return True


async def expect_body(request: web.BaseRequest) -> None:
    """Tell a client that waits for it to send its body (RFC 9110 section 10.1.1)."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def stream(request: web.BaseRequest, response: web.StreamResponse, events: Iterable[bytes | float]) -> bool:
    """Sends a body part by part, with the pauses between; whether the client was there to the end."""
    try:
        await response.prepare(request)
        for event in events:
            if isinstance(event, bytes):
                await response.write(event)
            else:
                await asyncio.sleep(event)
        await response.write_eof()
    except ConnectionError:
        return False
    return True


async def send(request: web.BaseRequest, response: web.Response) -> bool:
    """Writes a whole response; whether the client was there to the end."""
    try:
        await response.prepare(request)
        await response.write_eof()
    except ConnectionError:
        return False
    return True


def is_kept(request: web.BaseRequest) -> bool:
    """Return whether the connection has carried a request before."""
    return request.protocol._request_count > 1  # no documented API; the tests of stale connections go red without it


def _end(transport: asyncio.Transport, ending: Ending) -> None:
    if ending is Ending.CLOSE:
        transport.close()
        return
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()


async def _pause(transport: asyncio.Transport, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    end_s = loop.time() + seconds
    while (left_s := end_s - loop.time()) > 0 and not transport.is_closing():  # noqa: ASYNC110 -- see _LOOK_S
        await asyncio.sleep(min(left_s, _LOOK_S))
