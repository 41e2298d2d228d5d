"""Connections: which way they are opened, by the loop where it can do it alone, else by aiohttp."""

from collections.abc import Callable
from ssl import SSLContext
from typing import Protocol

from yarl import URL

from llmblast.records import Reply
from llmblast.sending.direct import DirectConnector, can_be_direct
from llmblast.sending.exchange import MAX_REPLY_BYTES, Exchange
from llmblast.sending.proxies import Proxy


class Connector(Protocol):
    """Opens connections for lean exchanges to one endpoint."""

    async def open(self, on_lost: Callable[[Exchange], None]) -> Exchange | Reply | None:
        """A new connection with a lean exchange on it, the Reply that says why there is none, or None when this process
        may open no more files.
        """

    async def close(self) -> None:
        """Closes what is still open."""


def new_connector(
    url: str,
    connect_timeout_s: float,
    max_reply_bytes: int = MAX_REPLY_BYTES,
    proxy: Proxy | None = None,
    tls: SSLContext | None = None,
) -> Connector:
    """The connector that the URL needs; called on the running loop."""
    parsed = URL(url)
    if proxy is None and can_be_direct(parsed):
        return DirectConnector(parsed, connect_timeout_s, max_reply_bytes)
    from llmblast.sending.resolving import ResolvingConnector  # noqa: PLC0415 -- 110 ms that a direct one does without

    return ResolvingConnector(parsed, connect_timeout_s, max_reply_bytes, proxy, tls)
