"""Resolved and secured connections: opened by aiohttp, used by a lean exchange.

`TCPConnector.connect` wants a `ClientRequest`, whose constructor is not documented API: it is called in one function
here, aiohttp is pinned to a minor version, and a contract test fails at once when an upgrade breaks it.
"""

import asyncio
import socket
from math import inf
from ssl import SSLContext
from typing import Any

from aiohttp import AddrInfoType, ClientConnectorError, ClientError, ClientTimeout, TCPConnector
from aiohttp.client_exceptions import ClientConnectorCertificateError, ClientConnectorDNSError, ClientSSLError
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from llmblast.models import Cause, Reply
from llmblast.sending import connect_errors
from llmblast.sending.exchange import Exchange, ExchangeOwner
from llmblast.sending.fd_waiters import is_out_of_files
from llmblast.sending.keep_alive import MAX_IDLE_S, enable_keep_alive
from llmblast.sending.proxies import Proxy
from llmblast.sending.proxy_errors import explain_proxy
from llmblast.sending.tls_errors import CUT_HANDSHAKE, explain_certificate, explain_tls

_DNS_TTL_S = 60


class ResolvingConnector:
    """Opens connections for lean exchanges to one endpoint, wherever it is."""

    def __init__(
        self,
        url: URL,
        connect_timeout_s: float,
        max_reply_bytes: int,
        proxy: Proxy | None = None,
        tls: SSLContext | None = None,
    ) -> None:
        self._url = url
        self._proxy = proxy
        self._proxy_url = url_of_http_proxy(proxy)
        self._loop = asyncio.get_running_loop()
        self._connector = new_tcp_connector(ProxyingConnector, proxy, tls)
        self._timeout = ClientTimeout(connect=connect_timeout_s, sock_connect=connect_timeout_s, ceil_threshold=inf)
        self._max_reply_bytes = max_reply_bytes

    async def open(self, owner: ExchangeOwner) -> Exchange | Reply | None:
        """See `Connector`."""
        try:
            connection = await self._connector.connect(self._request(), [], self._timeout)
        except (ClientError, TimeoutError, OSError, UnicodeError) as error:
            return None if is_out_of_files(error) else not_sent(self._url, error, self._proxy)
        return self._hand_over(connection, owner)

    async def close(self) -> None:
        """Close all connections that are still open."""
        await self._connector.close()

    def _request(self) -> ClientRequest:
        if self._proxy_url is None:
            return ClientRequest("POST", self._url, loop=self._loop)
        headers = headers_for_proxy(self._proxy)
        return ClientRequest("POST", self._url, loop=self._loop, proxy=self._proxy_url, proxy_headers=headers)

    def _hand_over(self, connection: Connection, owner: ExchangeOwner) -> Exchange | Reply:
        handler, transport = connection.protocol, connection.transport
        if handler is None or transport is None or transport.is_closing():
            connection.close()
            return connect_errors.closed_at_once(self._url.host, self._url.port)

        def release(error: BaseException | None) -> None:
            handler.connection_lost(error)  # aiohttp waits for this when it closes
            connection.close()

        return Exchange(transport, owner, self._max_reply_bytes, release)


class ProxyingConnector(TCPConnector):
    """aiohttp's connector with SOCKS proxies and unix sockets. `_create_direct_connection` is not a documented API."""

    def __init__(self, socks: Proxy | None = None, unix_socket: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._socks = socks
        self._unix_socket = unix_socket

    async def _create_direct_connection(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: ClientTimeout,
        *,
        client_error: type[Exception] = ClientConnectorError,
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        if self._unix_socket is not None:
            async with asyncio.timeout(timeout.sock_connect):
                return await self._loop.create_unix_connection(self._factory, self._unix_socket)
        if self._socks is None:
            return await super()._create_direct_connection(req, traces, timeout, client_error=client_error)
        from llmblast.sending.socks import connect_through  # noqa: PLC0415 -- needs a package that is an extra

        host, port = req.url.raw_host or "", req.port or 0
        tls = self._get_ssl_context(req)
        made = await connect_through(self._socks, host, port, timeout.sock_connect)
        enable_keep_alive(made)
        return await self._wrap_existing_connection(
            self._factory, timeout=timeout, ssl=tls, sock=made, server_hostname=host if tls else None, req=req
        )


def url_of_http_proxy(proxy: Proxy | None) -> URL | None:
    """Return the URL of an HTTP proxy for aiohttp; None without a proxy, or for one that speaks SOCKS."""
    return None if proxy is None or proxy.is_socks else URL(proxy.url)


def headers_for_proxy(proxy: Proxy | None) -> dict[str, str] | None:
    """Return the headers of a CONNECT; new ones each time, since aiohttp adds to them."""
    if proxy is None or not proxy.authorization:
        return None
    return {"Proxy-Authorization": proxy.authorization}


def new_tcp_connector(
    kind: type[ProxyingConnector] = ProxyingConnector,
    proxy: Proxy | None = None,
    tls: SSLContext | None = None,
    unix_socket: str | None = None,
) -> ProxyingConnector:
    """Return aiohttp's connector without its limits: admission decides how many connections there are."""
    return kind(
        socks=proxy if proxy is not None and proxy.is_socks else None,
        unix_socket=unix_socket,
        ssl=True if tls is None else tls,
        limit=0,
        ttl_dns_cache=_DNS_TTL_S,
        keepalive_timeout=MAX_IDLE_S,
        socket_factory=_new_socket,
    )


def _new_socket(address: AddrInfoType) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    enable_keep_alive(made)
    return made


def not_sent(url: URL, error: BaseException, proxy: Proxy | None = None) -> Reply:
    """Return the Reply for a connection that could not be opened, in words for a person."""
    if is_out_of_files(error):
        return connect_errors.not_sent(url.host, url.port, error)
    if proxy is not None and (problem := explain_proxy(proxy, url, error)):
        return Reply(cause=Cause.NOT_SENT, detail=problem)
    if not isinstance(error, ClientConnectorError):
        return connect_errors.not_sent(url.host, url.port, error)
    if isinstance(error, ClientConnectorDNSError):
        return connect_errors.unresolved(error.host)
    if problem := _explain_handshake(error, is_tls=url.scheme == "https"):
        return Reply(cause=Cause.NOT_SENT, detail=f"{connect_errors.place_of(error.host, error.port)}: {problem}")
    return connect_errors.not_sent(error.host, error.port, error.os_error)


def _explain_handshake(error: ClientConnectorError, *, is_tls: bool) -> str:
    if isinstance(error, ClientConnectorCertificateError):
        problem = explain_certificate(error.certificate_error, error.host)
        return f"the TLS certificate cannot be verified: {problem}"
    if isinstance(error, ClientSSLError):
        return f"no TLS connection: {explain_tls(error.os_error)}"
    is_cut = is_tls and isinstance(error.os_error, (ConnectionResetError, BrokenPipeError))
    return f"no TLS connection: {CUT_HANDSHAKE}" if is_cut else ""
