"""Back-pressure: how much may be read ahead, by the number and the bytes of requests that are queued or in flight."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from llmblast.models import Line, Outcome, Request
from llmblast.scheduling import RequestQueue

MAX_QUEUED_BYTES: Final = 8 * 1024 * 1024
MAX_GROUPED_BYTES: Final = 4 * MAX_QUEUED_BYTES
"""Once lines wait for others with the same long prefix: those with the next prefixes have to be found behind them."""
MAX_HELD_BYTES: Final = 256 * 1024 * 1024
"""Of all requests that were read and have no record yet. Those in flight are bounded here, where lines come in, since
that costs the sends nothing: with so much under way none is read, and none goes, until another one ends. Deferred lines
may use half of it.
"""
QUEUED_PER_SLOT: Final = 4
MIN_QUEUED: Final = 64
"""Lines read ahead for each request that may be in flight: a burst of replies must not find the queue empty."""


def max_queued(max_in_flight: int) -> int:
    """Return how many lines of each class are read ahead into the queue, at most."""
    return max(max_in_flight * QUEUED_PER_SLOT, MIN_QUEUED)


class Sink(Protocol):
    """Takes the outcomes."""

    @property
    def is_full(self) -> bool: ...

    def put(self, outcome: Outcome) -> None: ...

    def leave_out(self, line: Line) -> None:
        """Expect no record of a line in this run."""


class BackPressure:
    """Holds readers back while the sink is full, the queue is long or memory is short.

    Immediate and deferred lines have a part of the queue each, so that none is read later because of the others.
    """

    def __init__(self, sink: Sink, queue: RequestQueue, max_in_flight: int) -> None:
        self._sink = sink
        self._queue = queue
        self.max_in_flight = max_in_flight
        self._max_queued = max_queued(max_in_flight)
        self._max_bytes = MAX_QUEUED_BYTES
        self._has_room = asyncio.Event()
        self._has_room_deferred = asyncio.Event()
        self._has_room.set()
        self._has_room_deferred.set()
        self.reader_waiting = False
        """Some reader waits for `wake_reader`; asked for each request."""
        self.on_sent: Callable[[Request], None] | None = None
        """Called for each request that is sent, once lines wait elsewhere."""
        self._is_lifted = False

    @property
    def is_full(self) -> bool:
        """The reader of immediate lines should wait."""
        return self._is_full(is_deferred=False)

    @property
    def is_full_of_deferred(self) -> bool:
        """No more deferred lines should come, be it from a reader or from elsewhere."""
        return self._is_full(is_deferred=True)

    async def wait_for_room(self, *, is_deferred: bool = False) -> None:
        """Wait until the queue is half empty and there is memory for more, or the pressure is lifted."""
        has_room = self._has_room_deferred if is_deferred else self._has_room
        while self._is_full(is_deferred=is_deferred) and not self._is_lifted:
            has_room.clear()
            self.reader_waiting = True
            await has_room.wait()

    def wake_reader(self) -> None:
        """Let the readers go on where there is room."""
        if not self._has_room.is_set() and self._is_half_empty(is_deferred=False):
            self._has_room.set()
        if not self._has_room_deferred.is_set() and self._is_half_empty(is_deferred=True):
            self._has_room_deferred.set()
        self.reader_waiting = not (self._has_room.is_set() and self._has_room_deferred.is_set())

    def lift(self) -> None:
        """Hold the readers back no more: the run stops, or lines wait elsewhere."""
        self._is_lifted = True
        self._has_room.set()
        self._has_room_deferred.set()

    def _is_full(self, *, is_deferred: bool) -> bool:
        count, size_bytes = self._queue.size_of(is_deferred)
        if self._queue.held:
            self._max_bytes = MAX_GROUPED_BYTES
        if self._sink.is_full or count >= self._max_queued or size_bytes >= self._max_bytes:
            return True
        return self._queue.held_bytes >= (MAX_HELD_BYTES // 2 if is_deferred else MAX_HELD_BYTES)

    def _is_half_empty(self, *, is_deferred: bool) -> bool:
        count, size_bytes = self._queue.size_of(is_deferred)
        if count * 2 > self._max_queued or size_bytes * 2 > self._max_bytes:
            return False
        return self._queue.held_bytes < (MAX_HELD_BYTES // 2 if is_deferred else MAX_HELD_BYTES)
