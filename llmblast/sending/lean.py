"""The lean transport: exchanges on kept connections, the last one used goes first, so that surplus ones can age out."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from math import inf

from yarl import URL

from llmblast.records import Attempt, Cause, Reply
from llmblast.sending.connections import new_connector
from llmblast.sending.exchange import MAX_REPLY_BYTES, Done, Exchange
from llmblast.sending.files import FileShortage, shortage
from llmblast.sending.listener import NO_LISTENER, ChannelListener
from llmblast.sending.opening import IDLE_S, place_of
from llmblast.sending.proxies import Proxy, forwarder
from llmblast.sending.proxy_replies import without_proxy_refusal
from llmblast.sending.target import Target

AWAY_S = 5.0
"""A sweep that comes so much later than the one before it: the process was stopped, or the machine slept."""
OPENED_AT_ONCE = 32
"""Connections that are opened ahead: more would be a crowd at the server's door."""
LATE_S = 0.001
"""This process was busy when a request leaves so much after its admission."""


class LeanChannel:
    """One endpoint's connections. `timeout_s` covers a send from its admission to the last byte of its reply."""

    def __init__(
        self,
        target: Target,
        timeout_s: float,
        connect_timeout_s: float,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._target = target
        self._kind = target.provider.kind
        self._timeout_s = timeout_s
        self._connector = new_connector(
            target.base, min(connect_timeout_s, timeout_s), max_reply_bytes, target.proxy, target.tls
        )
        self._forwarder = forwarder(target.proxy, target.base)
        self._passes_on = None if self._forwarder is None else partial(_pass_on, self._forwarder, target.base)
        self._idle: list[Exchange] = []
        self._open: set[Exchange] = set()
        self._heads: dict[str, bytes] = {}
        self._shortage: FileShortage[Exchange] = FileShortage()
        self._wall_clock = wall_clock
        self._swept_s = self._swept_wall_s = inf

    @property
    def is_busy(self) -> bool:
        """Whether a request is under way."""
        return any(not exchange.is_idle for exchange in self._open)

    async def warm_up(self, connections: int = 1) -> Reply | None:
        """Opens connections ahead: else the first requests leave a handshake later than the limits think, and come too
        close to those that follow on kept connections.
        """
        opened = await self._connect()
        if not isinstance(opened, Exchange):
            return opened
        self._idle.append(opened)
        for start in range(1, connections, OPENED_AT_ONCE):
            more = [self._connect() for _ in range(start, min(start + OPENED_AT_ONCE, connections))]
            self._idle += [opened for opened in await asyncio.gather(*more) if isinstance(opened, Exchange)]
        return None

    def start(self, attempt: Attempt, listener: ChannelListener) -> bool:
        """Send on a kept connection, if there is one; the listener gets the reply."""
        exchange = None if attempt.resent else self._take_idle()
        if exchange is None:
            return False
        if time.monotonic() - attempt.sent_s > LATE_S:
            listener.on_delayed_send(attempt, False)
        self._send_on(exchange, attempt, attempt.sent_s, listener.on_reply)
        return True

    async def send(self, attempt: Attempt, listener: ChannelListener = NO_LISTENER) -> Reply:
        """Make one exchange, on a kept connection where there is one."""
        begun_s, is_fresh = attempt.sent_s, False
        exchange = None if attempt.resent else self._take_idle()
        if exchange is None:
            opened = await self._connect()
            if opened is None:
                opened, begun_s = await self._connect_in_turn()
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
        if is_fresh or time.monotonic() - attempt.sent_s > LATE_S:
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
        """Send later requests with this API key; those on the wire keep theirs."""
        self._target = self._target.with_key(key)
        self._heads.clear()

    def abandon(self) -> None:
        """Ends what is under way without its reply."""
        for exchange in list(self._open):
            if not exchange.is_idle:
                exchange.abandon()

    def sweep(self, now: float) -> None:
        """One look at every connection, instead of a timer for every request.

        After a stop or a suspend, replies may lie unread in their sockets: they have until the next sweep. Idle
        connections are not trusted any more.
        """
        was_away = self._was_away(now)
        aged: list[Exchange] = []
        late: list[Exchange] = []
        for exchange in self._open:
            if exchange.deadline_s == inf:
                exchange.deadline_s = now + IDLE_S
            if exchange.is_idle if was_away else exchange.deadline_s <= now:
                (aged if exchange.is_idle else late).append(exchange)
        for exchange in aged:
            exchange.close()
        for exchange in late:  # after the idle ones, since what comes of this may be sent on one that is idle
            exchange.cut_off(Cause.TIMED_OUT, f"no complete reply within {self._timeout_s:g} s")
        if aged or late:
            self._idle = [exchange for exchange in self._idle if exchange.is_kept]
        self._shortage.relieve()

    async def close(self) -> None:
        """Closes all connections."""
        for exchange in list(self._open):
            exchange.close()
        await self._connector.close()

    async def _connect(self) -> Exchange | Reply | None:
        """A fresh connection, the Reply that says why there is none, or None where no file is left for it."""
        if self._shortage.waiting:
            return None
        opened = await self._connector.open(self._forget)
        if isinstance(opened, Exchange):
            self._adopt(opened)
        return opened

    async def _connect_in_turn(self) -> tuple[Exchange | Reply, float]:
        """A connection once there is a file for it, and when that was. As long as other exchanges are under way one of
        them will end; without any, the timeout ends the wait.
        """
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        has_tried = False
        while True:
            opened: Exchange | Reply | None = self._take_idle()  # it may have come free while a connection was tried
            opened = opened or await self._shortage.wait(again=has_tried)
            has_tried = True
            if opened is None:
                opened = await self._connector.open(self._forget)
            now = loop.time()
            if opened is None and not self._open and now >= begun_s + self._timeout_s:
                opened = Reply(cause=Cause.NOT_SENT, detail=shortage())
            if opened is not None:
                if isinstance(opened, Exchange):
                    self._adopt(opened)
                    self._shortage.relieve()
                return opened, now

    def _was_away(self, now: float) -> bool:
        """The monotonic clock stands still while a machine sleeps, the wall clock does not; it may be set, though."""
        wall_now_s = self._wall_clock()
        passed_s = max(now - self._swept_s, wall_now_s - self._swept_wall_s)
        self._swept_s, self._swept_wall_s = now, wall_now_s
        return passed_s > AWAY_S

    def _take_idle(self) -> Exchange | None:
        while self._idle:
            exchange = self._idle.pop()
            if exchange.is_kept:
                return exchange
        return None

    def _send_on(self, exchange: Exchange, attempt: Attempt, begun_s: float, done: Done) -> None:
        request = attempt.request
        rendering = request if request.kind == self._kind else self._target.rendering_of(request)
        start, body = self._target.parts_of(rendering)
        head = self._heads.get(rendering.path) or self._render_head(rendering.path)
        head = b"%b%d\r\n\r\n%b" % (head, len(start) + len(body), start)
        if self._passes_on is not None:
            done = partial(self._passes_on, done)
        exchange.send(head, body, begun_s + self._timeout_s, attempt, done)

    def _adopt(self, exchange: Exchange) -> None:
        self._open.add(exchange)
        exchange.on_free = self._free

    def _free(self, exchange: Exchange) -> None:
        if not (self._shortage.waiting and self._shortage.relieve(exchange)):
            self._idle.append(exchange)

    def _forget(self, exchange: Exchange) -> None:
        self._open.discard(exchange)
        self._shortage.relieve()

    def _render_head(self, path: str) -> bytes:
        """Request line and headers up to the figure of Content-Length (RFC 9112 section 3), once for each path."""
        url = URL(self._target.url_of(path))
        place = (
            url.raw_path_qs if self._forwarder is None else str(url)
        )  # RFC 9112 section 3.2.2: a proxy takes it whole
        lines = [f"POST {place} HTTP/1.1", f"Host: {url.host_port_subcomponent}"]
        if self._forwarder is not None and self._forwarder.authorization:
            lines.append(f"Proxy-Authorization: {self._forwarder.authorization}")
        lines += [f"{name}: {value}" for name, value in self._target.headers.items()]
        head = self._heads[path] = "\r\n".join([*lines, "Content-Length: "]).encode("latin-1")
        return head


def _pass_on(proxy: Proxy, base: str, done: Done, attempt: Attempt, reply: Reply) -> None:
    url = URL(base)
    done(attempt, without_proxy_refusal(reply, proxy, place_of(url.host, url.port)))


def _resolve(replied: asyncio.Future[Reply], attempt: Attempt, reply: Reply) -> None:
    if not replied.done():
        replied.set_result(reply)
