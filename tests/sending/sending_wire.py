"""A server on loopback that says exactly what a test tells it to, byte for byte."""

import asyncio
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from llmblast.endpoint_settings import EndpointSettings
from llmblast.models import Attempt, Request
from llmblast.sending import Channel, Target
from tests.openai_provider import make_target

KEY = "sk-do-not-show-me"
BODY = b'{"messages":[{"role":"user","content":"2+2?"}]}'
HOPS = 12
"""Turns of the event loop in which everything that was said on loopback has been read."""


@dataclass
class Received:
    """One request as it came in, and the number of the connection that it came on, from 1."""

    connection: int
    line: str
    headers: dict[str, str]
    body: bytes


class Peer:
    """The server's side of one connection."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.requests: list[Received] = []
        self._reader = reader
        self._writer = writer

    async def request(self) -> bool:
        """Reads one whole request; False when the client has gone."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
            line, *fields = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
            headers = dict(field.split(": ", 1) for field in fields)
            assert len(headers) == len(fields), f"a header came twice: {fields}"
            body = await self._reader.readexactly(int(headers["Content-Length"]))
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        self.requests.append(Received(self.number, line, headers, body))
        return True

    async def say(self, *packets: bytes) -> None:
        """Sends each packet on its own: the client has read one before the next leaves."""
        for packet in packets:
            self._writer.write(packet)
            await self._writer.drain()
            await hop()

    async def stay(self) -> None:
        """Keeps the connection open and says nothing more; returns when the client has gone."""
        try:
            await self._reader.read()
        except ConnectionError:
            return

    def reset(self) -> None:
        """Ends the connection with RST instead of FIN."""
        its_socket: socket.socket = self._writer.get_extra_info("socket")
        its_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]
Serve = Callable[..., Awaitable["Server"]]
"""The fixture `serve`: `server = await serve(script)`, or with TLS `await serve(script, tls=...)`."""
OpenChannel = Callable[..., Channel]
"""The fixtures `open_channel` and `open_lean`: `channel = open_channel(url, timeout_s=.., max_reply_bytes=..)`."""


class Server:
    """Runs the script for every connection and closes the connection at the script's end."""

    def __init__(self, script: Script) -> None:
        self.peers: list[Peer] = []
        self.port = 0
        self._script = script
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def received(self) -> list[Received]:
        """All requests, those of the first connection first."""
        return [request for peer in self.peers for request in peer.requests]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        """Listens on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=tls, limit=4 * 1024 * 1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Ends all scripts and connections."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        await hop()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(len(self.peers) + 1, reader, writer)
        self.peers.append(peer)
        task = asyncio.ensure_future(self._play(peer, writer))
        self._tasks.add(task)

    async def _play(self, peer: Peer, writer: asyncio.StreamWriter) -> None:
        try:
            await self._script(peer)
        finally:
            writer.close()


async def hop() -> None:
    """Lets the event loop turn often enough for the other side to have read what was said."""
    for _ in range(HOPS):
        await asyncio.sleep(0)


async def settle() -> None:
    """Lets a script go on to its end, and what it did last be noticed."""
    for _ in range(4):
        await hop()


def a_reply(body: bytes = b'{"ok":1}', *headers: str, status: str = "200 OK") -> bytes:
    """A reply of known length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def says(*packets: bytes) -> Script:
    """A server that answers every request with these packets."""

    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.say(*packets)

    return script


def first(broken: Script, then: Script) -> Script:
    """The first connection is served by `broken`, all others by `then`."""

    async def script(peer: Peer) -> None:
        await (broken if peer.number == 1 else then)(peer)

    return script


def a_request(body: bytes = BODY, *, resent: bool = False, **more: object) -> Attempt:
    """An attempt at a request that was admitted just now."""
    request = Request(1, "0" * 16, b"", "row-1", body=body, **more)  # type: ignore[arg-type] # fields of Request
    return Attempt(request, sent_s=time.monotonic(), resent=resent)


def a_target(url: str, **more: object) -> Target:
    """A target with a key."""
    return make_target(EndpointSettings(url=url, name="gpu1", **more), "m", KEY)  # type: ignore[arg-type] # fields of EndpointSettings
