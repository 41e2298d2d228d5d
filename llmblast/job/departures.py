"""Departures: requests that were admitted leave one after the other, no closer together than their rate allows.

Admission pays the limits; but a connection may have to be opened first, which takes longer for some. So with an even
rate each request asks again once it has its connection, and waits until the last departure lets it follow.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence

from llmblast.job.wake_up import WakeUp
from llmblast.models import Attempt
from llmblast.scheduling import Endpoint, Scheduler

WRITING_S = 0.0002
"""A request leaves when its write begins, since each write takes as long. A longer one was held up, and its request may
have left as late as at its end."""


class Departures:
    """The requests of all endpoints that have a connection, fresh or not, and may not leave yet."""

    def __init__(self, scheduler: Scheduler, clock: Callable[[], float], wake_up: WakeUp) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._wake_up = wake_up
        self._loop = asyncio.get_running_loop()
        self.is_paced = scheduler.is_even
        """There is a rate to be kept evenly; else every request leaves at once."""
        self._waiting: Sequence[deque[tuple[asyncio.Future[None], bool]]] = [deque() for _ in scheduler.endpoints]
        self.next_s = math.inf
        """Moment at which one of the waiting requests may leave; infinity: none waits."""

    def ask(self, endpoint: Endpoint, attempt: Attempt, is_fresh: bool) -> asyncio.Future[None] | None:
        """Let a request that a task sends leave, or return a future that ends when the pace allows that."""
        if not self.is_paced:
            return None
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting[endpoint.index].append((future, is_fresh))
        self.let_leave(self._clock())
        return None if future.done() else future

    def start(self, start: Callable[[], bool], endpoint: Endpoint) -> bool:
        """Call `start`, which sends at once, where a request may leave now. Return whether it was sent."""
        now = self._clock()
        if self._waiting[endpoint.index] or self._scheduler.leaves_at(endpoint) > now or not start():
            return False
        self._scheduler.leave(endpoint, max(now, self._clock() - WRITING_S))
        return True

    def let_leave(self, now: float) -> None:
        """Let all waiting requests leave that may; wake up when the next one may."""
        self.next_s = math.inf
        for endpoint, waiting in zip(self._scheduler.endpoints, self._waiting, strict=True):
            while waiting:
                future, is_fresh = waiting[0]
                if not future.done():  # else it was cancelled
                    leaves_at = self._scheduler.leaves_at(endpoint)
                    if leaves_at > now:
                        self.next_s = min(self.next_s, leaves_at)
                        break
                    future.set_result(None)
                    self._depart(endpoint, now, is_fresh)
                waiting.popleft()
        if self.next_s < math.inf:
            self._wake_up.bring_forward(self.next_s, now)

    def on_delayed_send(self, endpoint: Endpoint, attempt: Attempt, is_fresh: bool) -> None:
        """Move the schedule: a request leaves later than it was admitted."""
        self._scheduler.on_delayed_send(attempt, endpoint, self._clock(), is_fresh=is_fresh)

    def _depart(self, endpoint: Endpoint, now: float, is_fresh: bool) -> None:
        """Record the departure of a request that a task sends: now, or when it was written, if that was held up. That
        is two turns of the loop later: aiohttp needs one of its own.
        """
        self._scheduler.leave(endpoint, now, is_fresh=is_fresh)
        self._loop.call_soon(self._loop.call_soon, self._on_written, endpoint, is_fresh)

    def _on_written(self, endpoint: Endpoint, is_fresh: bool) -> None:
        self._scheduler.correct_departure(endpoint, self._clock() - WRITING_S, is_fresh=is_fresh)
