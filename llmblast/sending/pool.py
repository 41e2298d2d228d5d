"""Connection pool: the exchanges of one endpoint. The last one used goes first, so that surplus ones can age out."""

import asyncio
import time
from collections.abc import Callable
from math import inf

from llmblast.models import Cause, Reply
from llmblast.sending.connections import Connector
from llmblast.sending.exchange import Exchange
from llmblast.sending.fd_waiters import FdWaiters, shortage
from llmblast.sending.keep_alive import MAX_IDLE_S

MIN_SUSPENDED_S = 5.0
"""A sweep that comes this much later than the one before it: the process was stopped, or the machine was suspended."""
MAX_OPENED_AT_ONCE = 32
"""Connections that are opened ahead at once: more would be a burst at the server's door."""


class ConnectionPool:
    """Opens, lends and sweeps the connections of one endpoint. `timeout_s` covers one request."""

    def __init__(self, connector: Connector, timeout_s: float, wall_clock: Callable[[], float] = time.time) -> None:
        self.has_replied = False
        self._connector = connector
        self._timeout_s = timeout_s
        self._idle: list[Exchange] = []
        self._open: set[Exchange] = set()
        self._waiters: FdWaiters[Exchange] = FdWaiters()
        self._suspends = _SuspendDetector(wall_clock)

    @property
    def is_busy(self) -> bool:
        """Return whether a request is under way."""
        return any(not exchange.is_idle for exchange in self._open)

    def take_idle(self) -> Exchange | None:
        """Return the exchange that was used last, if one is idle."""
        while self._idle:
            exchange = self._idle.pop()
            if exchange.is_kept:
                return exchange
        return None

    async def open_ahead(self, connections: int) -> Reply | None:
        """Open connections, and return the Reply that says why the first one failed, if it did."""
        opened = await self._open_now()
        if not isinstance(opened, Exchange):
            return opened
        self._idle.append(opened)
        for start in range(1, connections, MAX_OPENED_AT_ONCE):
            more = [self._open_now() for _ in range(start, min(start + MAX_OPENED_AT_ONCE, connections))]
            self._idle += [opened for opened in await asyncio.gather(*more) if isinstance(opened, Exchange)]
        return None

    async def open(self, begun_s: float) -> tuple[Exchange | Reply, float]:
        """Return a new connection or the Reply that says why there is none, and the start of the request's timeout:
        `begun_s`, or the end of the wait for a file descriptor.
        """
        opened = await self._open_now()
        return (opened, begun_s) if opened is not None else await self._open_in_turn()

    def close_idle(self) -> None:
        """Close the connections without a request: a server with one thread for each connection, such as llama.cpp's,
        may read a request on another one only then.
        """
        idle, self._idle = self._idle, []
        for exchange in idle:
            if exchange.is_idle:
                exchange.close()

    def abandon(self) -> None:
        """End all requests under way without their replies."""
        for exchange in list(self._open):
            if not exchange.is_idle:
                exchange.abandon()

    def sweep(self, now: float) -> None:
        """Cut off late requests and close old idle connections, without a timer for each.

        After a suspend, replies may lie unread in their sockets: they have until the next sweep. Idle connections are
        closed then.
        """
        was_suspended = self._suspends.was_suspended(now)
        aged: list[Exchange] = []
        late: list[Exchange] = []
        for exchange in self._open:
            if exchange.deadline_s == inf:
                exchange.deadline_s = now + MAX_IDLE_S
            if exchange.is_idle if was_suspended else exchange.deadline_s <= now:
                (aged if exchange.is_idle else late).append(exchange)
        for exchange in aged:
            exchange.close()
        for exchange in late:  # after the idle ones, since a retry may be sent on one that is idle
            exchange.cut_off(Cause.TIMED_OUT, f"no complete reply within {self._timeout_s:g} s")
        if aged or late:
            self._idle = [exchange for exchange in self._idle if exchange.is_kept]
        self._waiters.wake_next()

    async def close(self) -> None:
        """Close all connections."""
        for exchange in list(self._open):
            exchange.close()
        await self._connector.close()

    def on_free(self, exchange: Exchange) -> None:
        """Keep the connection for the next request, or hand it to a send that waits for one."""
        if not (self._waiters.waiting and self._waiters.wake_next(exchange)):
            self._idle.append(exchange)

    def on_lost(self, exchange: Exchange) -> None:
        """Forget the exchange: its file descriptor is free."""
        self._open.discard(exchange)
        self._waiters.wake_next()

    async def _open_now(self) -> Exchange | Reply | None:
        """Return a new connection, a Reply that says why there is none, or None if no file descriptor is left."""
        return None if self._waiters.waiting else await self._connect()

    async def _connect(self) -> Exchange | Reply | None:
        opened = await self._connector.open(self)
        if isinstance(opened, Exchange):
            self._open.add(opened)
        return opened

    async def _open_in_turn(self) -> tuple[Exchange | Reply, float]:
        """Wait until a connection is idle or there is a file for a new one; return that moment, too.

        As long as other requests are under way one of them will end; without any, the timeout ends the wait.
        """
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        has_tried = False
        while True:
            opened: Exchange | Reply | None = self.take_idle()  # one may have become idle during the last attempt
            opened = opened or await self._waiters.wait(again=has_tried) or await self._connect()
            has_tried = True
            now = loop.time()
            if opened is None and not self._open and now >= begun_s + self._timeout_s:
                opened = Reply(cause=Cause.NOT_SENT, detail=shortage())
            if opened is not None:
                if isinstance(opened, Exchange):
                    self._waiters.wake_next()
                return opened, now


class _SuspendDetector:
    """Detects from the time between two sweeps that the process or the machine was suspended."""

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._swept_s = self._swept_wall_s = inf

    def was_suspended(self, now: float) -> bool:
        """Record a sweep, and return whether it comes late by either clock.

        The monotonic clock stands still while a machine sleeps. The wall clock does not, but may be set.
        """
        wall_now_s = self._wall_clock()
        passed_s = max(now - self._swept_s, wall_now_s - self._swept_wall_s)
        self._swept_s, self._swept_wall_s = now, wall_now_s
        return passed_s > MIN_SUSPENDED_S
