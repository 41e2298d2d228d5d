"""Connections: aiohttp opens, resolves and secures them, and then hands them over.

Where there is nothing to resolve and to secure, at a literal address or the machine itself over plain http, the loop
opens them, from the second one on: 35 us instead of 130, which is what limits how fast a crowd of them can be had.

`TCPConnector.connect` wants a `ClientRequest`, whose constructor is not documented API: it is called in one function
here, aiohttp is pinned to a minor version, and a contract test says at once when an upgrade breaks it.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from errno import ECONNREFUSED
from ipaddress import ip_address
from math import inf

from aiohttp import AddrInfoType, ClientConnectorError, ClientError, ClientTimeout, TCPConnector
from aiohttp.client_exceptions import ClientConnectorCertificateError, ClientConnectorDNSError, ClientSSLError
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from yarl import URL

from llmblast.records import Cause, Reply
from llmblast.sending.exchange import MAX_REPLY_BYTES, Exchange
from llmblast.sending.files import is_out_of_files, shortage

IDLE_S = 60.0
"""Connections that were idle for longer are closed: routers forget silent ones, most of them after minutes."""
_DNS_TTL_S = 60
_KEEP_ALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4), ("TCP_USER_TIMEOUT", 120_000))
"""A peer that is gone without a word, as after a suspend, shows in two minutes (RFC 1122 section 4.2.3.6, RFC 5482)
instead of at the timeout, and a router sees some life while a long answer is being thought out.
"""


class Connector:
    """Opens connections for lean exchanges to one endpoint."""

    def __init__(self, url: str, connect_timeout_s: float, max_reply_bytes: int = MAX_REPLY_BYTES) -> None:
        self._url = URL(url)
        self._loop = asyncio.get_running_loop()
        self._connector = new_tcp_connector()
        self._timeout = ClientTimeout(connect=connect_timeout_s, sock_connect=connect_timeout_s, ceil_threshold=inf)
        self._max_reply_bytes = max_reply_bytes
        self._may_be_direct = self._url.scheme == "http" and _needs_no_resolver(self._url.host or "")
        self._peer: tuple[str, int] | None = None
        """The address that took the last connection, where the next may be opened directly."""

    async def open(self, on_lost: Callable[[Exchange], None]) -> Exchange | Reply | None:
        """A new connection with a lean exchange on it, the Reply that says why there is none, or None when this process
        may open no more files.
        """
        try:
            if self._peer is not None:
                return await self._open_directly(*self._peer, on_lost)
            connection = await self._connector.connect(self._request(), [], self._timeout)
        except (ClientError, TimeoutError, OSError, UnicodeError) as error:
            self._peer = None
            return None if is_out_of_files(error) else not_sent(self._url, error)
        return self._hand_over(connection, on_lost)

    async def close(self) -> None:
        """Closes what is still open."""
        await self._connector.close()

    def _request(self) -> ClientRequest:
        return ClientRequest("POST", self._url, loop=self._loop)

    async def _open_directly(self, host: str, port: int, on_lost: Callable[[Exchange], None]) -> Exchange | Reply:
        async with asyncio.timeout(self._timeout.sock_connect):
            transport, _ = await self._loop.create_connection(asyncio.Protocol, host, port)
        opened = self._use(transport, lambda exchange, error: on_lost(exchange))
        if isinstance(opened, Exchange):
            with suppress(OSError):  # a connection that is lost at this moment says so itself
                _keep_alive(transport.get_extra_info("socket"))
        return opened

    def _hand_over(self, connection: Connection, on_lost: Callable[[Exchange], None]) -> Exchange | Reply:
        handler, transport = connection.protocol, connection.transport
        if handler is None or transport is None:
            connection.close()
            return self._closed_at_once()
        if self._may_be_direct and (peer := transport.get_extra_info("peername")):  # None: it is lost already
            self._peer = peer[:2]

        def lost(exchange: Exchange, error: BaseException | None) -> None:
            handler.connection_lost(error)  # aiohttp waits for this one when it closes
            connection.close()
            on_lost(exchange)

        opened = self._use(transport, lost)
        if isinstance(opened, Reply):
            connection.close()
        return opened

    def _use(
        self, transport: asyncio.Transport, on_lost: Callable[[Exchange, BaseException | None], None]
    ) -> Exchange | Reply:
        if transport.is_closing():
            return self._closed_at_once()
        return Exchange(transport, on_lost, self._max_reply_bytes)

    def _closed_at_once(self) -> Reply:
        place = _place(self._url.host, self._url.port)
        return Reply(cause=Cause.NOT_SENT, detail=f"{place} closed the connection at once")


def _needs_no_resolver(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return host == "localhost"
    return True


def new_tcp_connector(kind: type[TCPConnector] = TCPConnector) -> TCPConnector:
    """Aiohttp's connector without limits of its own: how many connections there are is decided at admission."""
    return kind(limit=0, ttl_dns_cache=_DNS_TTL_S, keepalive_timeout=IDLE_S, socket_factory=_new_socket)


def _new_socket(address: AddrInfoType) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    _keep_alive(made)
    return made


def _keep_alive(made: socket.socket) -> None:
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE:
        if hasattr(socket, name):  # what a platform does not have stays at its default
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def not_sent(url: URL, error: BaseException) -> Reply:
    """The Reply for a connection that could not be opened, in words for a person.

    aiohttp's error names the host that it wanted to reach, which may be a proxy's instead of the one in `url`.
    """
    host, port = (error.host, error.port) if isinstance(error, ClientConnectorError) else (url.host, url.port)
    place = _place(host, port)
    if is_out_of_files(error):
        detail = shortage()
    elif isinstance(error, (ClientConnectorDNSError, UnicodeError)):
        detail = f"the host name {host} cannot be resolved"
    elif isinstance(error, ClientConnectorCertificateError):
        detail = f"{place}: the TLS certificate cannot be verified: {error.certificate_error}"
    elif isinstance(error, ClientSSLError):
        detail = f"{place}: no TLS connection: {error.os_error.strerror or error.os_error}"
    elif isinstance(error, TimeoutError):
        detail = f"{place}: no connection within the connect timeout"
    elif isinstance(error, OSError) and error.errno == ECONNREFUSED:
        detail = f"nobody listens at {place} (connection refused)"
    elif isinstance(error, ClientConnectorError):
        detail = f"{place}: no connection: {error.os_error.strerror or error.os_error}"
    else:
        detail = f"{place}: no connection: {error}"
    return Reply(cause=Cause.NOT_SENT, detail=detail)


def _place(host: str | None, port: int | None) -> str:
    return f"[{host}]:{port}" if host and ":" in host else f"{host}:{port}"
