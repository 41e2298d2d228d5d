"""Resolved and secured connections: aiohttp opens them, and then hands them over.

`TCPConnector.connect` wants a `ClientRequest`, whose constructor is not documented API: it is called in one function
here, aiohttp is pinned to a minor version, and a contract test says at once when an upgrade breaks it.
"""

import asyncio
import socket
from collections.abc import Callable
from math import inf

from aiohttp import AddrInfoType, ClientConnectorError, ClientError, ClientTimeout, TCPConnector
from aiohttp.client_exceptions import ClientConnectorCertificateError, ClientConnectorDNSError, ClientSSLError
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from yarl import URL

from llmblast.records import Cause, Reply
from llmblast.sending import opening
from llmblast.sending.exchange import Exchange
from llmblast.sending.files import is_out_of_files

_DNS_TTL_S = 60
_NO_TLS = "WRONG_VERSION_NUMBER"


class ResolvingConnector:
    """Opens connections for lean exchanges to one endpoint, wherever it is."""

    def __init__(self, url: URL, connect_timeout_s: float, max_reply_bytes: int) -> None:
        self._url = url
        self._loop = asyncio.get_running_loop()
        self._connector = new_tcp_connector()
        self._timeout = ClientTimeout(connect=connect_timeout_s, sock_connect=connect_timeout_s, ceil_threshold=inf)
        self._max_reply_bytes = max_reply_bytes

    async def open(self, on_lost: Callable[[Exchange], None]) -> Exchange | Reply | None:
        """See `Connector`."""
        try:
            connection = await self._connector.connect(self._request(), [], self._timeout)
        except (ClientError, TimeoutError, OSError, UnicodeError) as error:
            return None if is_out_of_files(error) else not_sent(self._url, error)
        return self._hand_over(connection, on_lost)

    async def close(self) -> None:
        """Closes what is still open."""
        await self._connector.close()

    def _request(self) -> ClientRequest:
        return ClientRequest("POST", self._url, loop=self._loop)

    def _hand_over(self, connection: Connection, on_lost: Callable[[Exchange], None]) -> Exchange | Reply:
        handler, transport = connection.protocol, connection.transport
        if handler is None or transport is None or transport.is_closing():
            connection.close()
            return opening.closed_at_once(self._url.host, self._url.port)

        def lost(exchange: Exchange, error: BaseException | None) -> None:
            handler.connection_lost(error)  # aiohttp waits for this one when it closes
            connection.close()
            on_lost(exchange)

        return Exchange(transport, lost, self._max_reply_bytes)


def new_tcp_connector(kind: type[TCPConnector] = TCPConnector) -> TCPConnector:
    """Aiohttp's connector without limits of its own: how many connections there are is decided at admission."""
    return kind(limit=0, ttl_dns_cache=_DNS_TTL_S, keepalive_timeout=opening.IDLE_S, socket_factory=_new_socket)


def _new_socket(address: AddrInfoType) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    opening.keep_alive(made)
    return made


def not_sent(url: URL, error: BaseException) -> Reply:
    """The Reply for a connection that could not be opened, in words for a person.

    aiohttp's error names the host that it wanted to reach, which may be a proxy's instead of the one in `url`.
    """
    host, port = (error.host, error.port) if isinstance(error, ClientConnectorError) else (url.host, url.port)
    place = opening.place_of(host, port)
    if is_out_of_files(error) or not isinstance(error, ClientConnectorError):
        return opening.not_sent(host, port, error)
    if isinstance(error, ClientConnectorDNSError):
        return opening.unresolved(host)
    if isinstance(error, ClientConnectorCertificateError):
        detail = f"{place}: the TLS certificate cannot be verified: {error.certificate_error}"
    elif isinstance(error, ClientSSLError):
        detail = f"{place}: no TLS connection: {error.os_error.strerror or error.os_error}"
        if getattr(error.os_error, "reason", "") == _NO_TLS:
            detail = (
                f"{place}: no TLS connection: the server speaks something else, as with http:// instead of https://"
            )
    else:
        return opening.not_sent(host, port, error.os_error)
    return Reply(cause=Cause.NOT_SENT, detail=detail)
