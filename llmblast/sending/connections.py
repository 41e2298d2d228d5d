"""Connections: choose whether the loop opens them by itself or aiohttp does."""

from ssl import SSLContext
from typing import Protocol

from yarl import URL

from llmblast.models import Reply
from llmblast.sending.direct import DirectConnector, can_be_direct
from llmblast.sending.exchange import MAX_REPLY_BYTES, Exchange, ExchangeOwner
from llmblast.sending.proxies import Proxy


class Connector(Protocol):
    """Opens connections for lean exchanges to one endpoint."""

    async def open(self, owner: ExchangeOwner) -> Exchange | Reply | None:
        """Return an exchange on a new connection, the Reply that says why there is none, or None when this process may
        open no more files.
        """

    async def close(self) -> None:
        """Close all connections that are still open."""


def new_connector(
    url: str,
    connect_timeout_s: float,
    max_reply_bytes: int = MAX_REPLY_BYTES,
    *,
    proxy: Proxy | None = None,
    tls: SSLContext | None = None,
    unix_socket: str | None = None,
) -> Connector:
    """Return the connector that the URL needs. Call this on the running loop."""
    if unix_socket is not None:
        from llmblast.sending.unix_sockets import UnixSocketConnector  # noqa: PLC0415 -- few endpoints have one

        return UnixSocketConnector(unix_socket, connect_timeout_s, max_reply_bytes)
    parsed = URL(url)
    if proxy is None and can_be_direct(parsed):
        return DirectConnector(parsed, connect_timeout_s, max_reply_bytes)
    from llmblast.sending.resolving import ResolvingConnector  # noqa: PLC0415 -- 110 ms that a direct one does without

    return ResolvingConnector(parsed, connect_timeout_s, max_reply_bytes, proxy, tls)
