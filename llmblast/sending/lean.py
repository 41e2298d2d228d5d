"""The lean transport: exchanges on the keep-alive connections of a pool."""

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from yarl import URL

from llmblast.models import Attempt, Cause, Reply
from llmblast.provider_contract import Signer
from llmblast.sending.connect_errors import place_of
from llmblast.sending.connections import new_connector
from llmblast.sending.exchange import MAX_REPLY_BYTES, Done, Exchange
from llmblast.sending.listener import NO_LISTENER, ChannelListener
from llmblast.sending.pool import ConnectionPool
from llmblast.sending.proxies import Proxy, forwarder
from llmblast.sending.proxy_replies import without_proxy_refusal
from llmblast.sending.target import Target

_LENGTH: Final = "Content-Length: "
MIN_DELAY_S: Final = 0.001
"""Smallest time between admission and sending that is reported: this process was busy."""


class LeanChannel:
    """Sends to one endpoint. `timeout_s` covers a send from its admission to the last byte of its reply."""

    def __init__(
        self,
        target: Target,
        timeout_s: float,
        connect_timeout_s: float,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._target = target
        self._kind = "" if target.model_directory else target.provider.kind
        self._timeout_s = timeout_s
        connector = new_connector(
            target.base,
            min(connect_timeout_s, timeout_s),
            max_reply_bytes,
            proxy=target.proxy,
            tls=target.tls,
            unix_socket=target.unix_socket,
        )
        self._pool = ConnectionPool(connector, timeout_s, wall_clock)
        self._forwarder = forwarder(target.proxy, target.base)
        self._signer = target.signer
        self._heads: dict[str, bytes] = {}
        """Request line and headers up to the figure of Content-Length, by path."""

    @property
    def is_busy(self) -> bool:
        """Return whether a request is under way."""
        return self._pool.is_busy

    async def warm_up(self, connections: int = 1) -> Reply | None:
        """Open connections ahead: else the first requests leave a handshake later than the limits assume, and come too
        close to those that follow on keep-alive connections.
        """
        return await self._pool.open_ahead(connections)

    def start(self, attempt: Attempt, listener: ChannelListener) -> bool:
        """Send on an idle connection, if there is one; the listener gets the reply."""
        exchange = None if attempt.resent else self._pool.take_idle()
        if exchange is None:
            return False
        if time.monotonic() - attempt.sent_s > MIN_DELAY_S:
            listener.on_delayed_send(attempt, False)
        self._send_on(exchange, attempt, attempt.sent_s, listener.on_reply)
        return True

    async def send(self, attempt: Attempt, listener: ChannelListener = NO_LISTENER) -> Reply:
        """Send on an idle connection or on a new one, and return the reply."""
        begun_s, is_fresh = attempt.sent_s, False
        exchange = None if attempt.resent else self._pool.take_idle()
        if exchange is None:
            opened, begun_s = await self._pool.open(begun_s)
            if isinstance(opened, Reply):
                return opened
            exchange, is_fresh = opened, True
        if (leave := listener.leave(attempt, is_fresh)) is not None:
            try:
                await leave
            except BaseException:
                exchange.close()
                raise
            if not exchange.is_kept:  # the server has closed it meanwhile
                if exchange.foreign:
                    return Reply(cause=Cause.NOT_SENT, detail=exchange.foreign)
                return await self.send(attempt, listener)
        if is_fresh or time.monotonic() - attempt.sent_s > MIN_DELAY_S:
            listener.on_delayed_send(attempt, is_fresh)
        replied: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._send_on(exchange, attempt, begun_s, partial(_resolve, replied))
        try:
            return await replied
        except BaseException:
            if exchange.attempt is attempt:  # a reply of this moment may have freed it for another one
                exchange.abandon()
            raise

    def set_key(self, key: str) -> None:
        """Send later requests with this API key; those under way keep theirs."""
        self._target = self._target.with_key(key)
        self._heads.clear()

    def abandon(self) -> None:
        """End all requests under way without their replies."""
        self._pool.abandon()

    def sweep(self, now: float) -> None:
        """Cut off late requests and close old idle connections."""
        self._pool.sweep(now)

    def close_idle(self) -> None:
        """Close the connections without a request."""
        self._pool.close_idle()

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()

    def _send_on(self, exchange: Exchange, attempt: Attempt, begun_s: float, done: Done) -> None:
        request = attempt.request
        rendering = request if request.kind == self._kind else self._target.rendering_of(request)
        start, body = self._target.parts_of(rendering)
        if attempt.flex_at:
            start, body = self._target.with_flex(attempt.flex_at, start, body)
        if request.headers is None:
            head = self._heads.get(rendering.path) or self._render_head(rendering.path)
        else:
            head = self._render_head(rendering.path, request.headers)
        if self._signer is not None:
            head = self._add_signature(self._signer, head, rendering.path, start, body)
        head = b"%b%d\r\n\r\n%b" % (head, len(start) + len(body), start)
        if self._forwarder is not None:
            done = partial(_check_forwarded, self._forwarder, self._target.base, done)
        exchange.send(head, body, begun_s + self._timeout_s, attempt, done)

    def _render_head(self, path: str, own_headers: Mapping[str, str] | None = None) -> bytes:
        """Return the head up to the figure of Content-Length (RFC 9112 section 3), and keep it unless the line has
        headers of its own.
        """
        url = URL(self._target.url_of(path), encoded=self._signer is not None)
        # RFC 9112 section 3.2.2: a proxy is given the whole URL
        place = url.raw_path_qs if self._forwarder is None else str(url)
        lines = [f"POST {place} HTTP/1.1", f"Host: {url.host_port_subcomponent}"]
        if self._forwarder is not None and self._forwarder.authorization:
            lines.append(f"Proxy-Authorization: {self._forwarder.authorization}")
        headers = self._target.headers if own_headers is None else self._target.headers_for(own_headers)
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([*lines, _LENGTH]).encode("latin-1")
        if own_headers is None:
            self._heads[path] = head
        return head

    def _add_signature(self, signer: Signer, head: bytes, path: str, start: bytes, body: bytes | memoryview) -> bytes:
        """Return the head with the headers of the signature in front of the figure of Content-Length."""
        headers = signer.sign(self._target.url_of(path), start + body)
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        return b"%b%b" % (head.removesuffix(_LENGTH.encode()), f"{lines}{_LENGTH}".encode("latin-1"))


def _check_forwarded(proxy: Proxy, base: str, done: Done, attempt: Attempt, reply: Reply) -> None:
    """Hand over the reply to a request that a proxy has forwarded, unless it is the proxy's own."""
    url = URL(base)
    done(attempt, without_proxy_refusal(reply, proxy, place_of(url.host, url.port)))


def _resolve(replied: asyncio.Future[Reply], attempt: Attempt, reply: Reply) -> None:
    if not replied.done():
        replied.set_result(reply)
