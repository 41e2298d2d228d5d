"""Back-pressure: how much may be read ahead, by the number and the bytes of requests that are queued or in flight."""

import asyncio
from typing import Final, Protocol

from llmblast.models import Line, Outcome
from llmblast.scheduling import RequestQueue

MAX_QUEUED_BYTES: Final = 8 * 1024 * 1024
MAX_HELD_BYTES: Final = 256 * 1024 * 1024
"""Of all requests that were read and have no record yet. Those in flight are bounded here, where lines come in, since
that costs the sends nothing: with so much under way none is read, and none goes, until another one ends.
"""
QUEUED_PER_SLOT: Final = 4
MIN_QUEUED: Final = 64
"""Lines read ahead for each request that may be in flight: a burst of replies must not find the queue empty."""


class Sink(Protocol):
    """Takes the outcomes."""

    @property
    def is_full(self) -> bool: ...

    def put(self, outcome: Outcome) -> None: ...

    def leave_out(self, line: Line) -> None:
        """Expect no record of a line in this run."""


class BackPressure:
    """Holds the reader back while the sink is full, the queue is long or memory is short."""

    def __init__(self, sink: Sink, queue: RequestQueue, max_in_flight: int) -> None:
        self._sink = sink
        self._queue = queue
        self.max_in_flight = max_in_flight
        self._max_queued = max(max_in_flight * QUEUED_PER_SLOT, MIN_QUEUED)
        self._has_room = asyncio.Event()
        self.reader_waiting = False
        """The reader waits for `wake_reader`; asked for each request."""
        self._is_lifted = False

    @property
    def is_full(self) -> bool:
        """The reader should wait."""
        return self._sink.is_full or len(self._queue) >= self._max_queued or self._over_memory_budget()

    async def wait_for_room(self) -> None:
        """Wait until the queue is half empty and there is memory for more, or the pressure is lifted."""
        while self.is_full and not self._is_lifted:
            self._has_room.clear()
            self.reader_waiting = True
            await self._has_room.wait()
        self.reader_waiting = False

    def wake_reader(self) -> None:
        """Let the reader go on where there is room."""
        queue = self._queue
        is_half_empty = len(queue) * 2 <= self._max_queued and queue.size_bytes * 2 <= MAX_QUEUED_BYTES
        if is_half_empty and queue.held_bytes < MAX_HELD_BYTES:
            self._has_room.set()

    def lift(self) -> None:
        """Hold the reader back no more: the run stops."""
        self._is_lifted = True
        self._has_room.set()

    def _over_memory_budget(self) -> bool:
        return self._queue.size_bytes >= MAX_QUEUED_BYTES or self._queue.held_bytes >= MAX_HELD_BYTES
