"""Real small proxies on loopback: one speaks HTTP (CONNECT and whole URLs), one SOCKS5. All names lead to `target`."""

import asyncio
import socket
from base64 import b64encode
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit


class _Server:
    """Accepts connections, and ends them all at its end."""

    def __init__(self, target: int = 0) -> None:
        self.target = target
        """The port on loopback that every request is passed on to."""
        self.port = 0
        self.asked: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await self.serve(reader, writer)
        finally:
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes = b"") -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        far_writer.write(first)
        try:
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        finally:
            far_writer.close()


class HttpProxy(_Server):
    """An HTTP proxy. `login` is `user:password`, which it wants then; `refuses` is a status for all requests."""

    def __init__(self, target: int = 0, login: str = "", refuses: str = "") -> None:
        super().__init__(target)
        self._wanted = f"Basic {b64encode(login.encode()).decode()}" if login else ""
        self._refuses = refuses
        self.heads: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        self.asked.append(line)
        self.heads.append(head.decode("latin-1"))
        headers = dict(field.split(": ", 1) for field in fields)
        if self._refuses or (self._wanted and headers.get("Proxy-Authorization") != self._wanted):
            status = self._refuses or "407 Proxy Authentication Required"
            told = headers.get("Proxy-Authorization", "").encode()
            writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status.encode(), len(told), told))
            await writer.drain()
        elif line.startswith("CONNECT "):
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await self._tunnel(reader, writer)
        else:
            method, url, version = line.split(" ")
            path = urlsplit(url)._replace(scheme="", netloc="").geturl()
            kept = [field for field in fields if not field.startswith("Proxy-")]
            lines = [f"{method} {path} {version}", *kept, "Connection: close", "", ""]  # each request is read here
            await self._tunnel(reader, writer, "\r\n".join(lines).encode())


class SocksProxy(_Server):
    """A SOCKS5 proxy (RFC 1928), with a user and a password (RFC 1929) where `login` is given."""

    def __init__(self, target: int = 0, login: str = "") -> None:
        super().__init__(target)
        self._login = login

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, methods = await reader.readexactly(2)
        await reader.readexactly(methods)
        writer.write(b"\x05\x02" if self._login else b"\x05\x00")
        if self._login:
            user = await reader.readexactly((await reader.readexactly(2))[1])
            password = await reader.readexactly((await reader.readexactly(1))[0])
            is_right = f"{user.decode()}:{password.decode()}" == self._login
            writer.write(b"\x01\x00" if is_right else b"\x01\x01")
            if not is_right:
                return
        _, _, _, kind = await reader.readexactly(4)
        host = await reader.readexactly((await reader.readexactly(1))[0] if kind == 3 else 4)
        port = int.from_bytes(await reader.readexactly(2), "big")
        self.asked.append(f"{host.decode() if kind == 3 else socket.inet_ntoa(host)}:{port}")
        writer.write(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
        await self._tunnel(reader, writer)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
