"""Lanes: who goes next. Retries that are due come first, then what was read, then what may wait.

A retry holds nothing but its memory while it waits. The lanes are bounded by bytes through `size_bytes`, which counts
waiting retries too, so that an outage cannot draw the whole file into memory.
"""

import heapq
import math
from collections import deque
from itertools import count

from llmblast.records import Request


class Lanes:
    """Three lanes: retries by due time, immediate and deferred requests in the order of the file."""

    __slots__ = ("_deferred", "_immediate", "_order", "_retries", "size_bytes")

    def __init__(self) -> None:
        self._retries: list[tuple[float, int, Request]] = []
        self._immediate: deque[Request] = deque()
        self._deferred: deque[Request] = deque()
        self._order = count()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._retries) + len(self._immediate) + len(self._deferred)

    def add(self, request: Request) -> None:
        """Queues a request that was read."""
        (self._deferred if request.deferred else self._immediate).append(request)
        self.size_bytes += request.size_bytes

    def add_retry(self, request: Request, due_s: float) -> None:
        """Queues a request that goes again at `due_s` (monotonic seconds) or later."""
        heapq.heappush(self._retries, (due_s, next(self._order), request))
        self.size_bytes += request.size_bytes

    def peek(self, now: float) -> Request | None:
        """The request whose turn it is at `now`."""
        if self._retries and self._retries[0][0] <= now:
            return self._retries[0][2]
        if self._immediate:
            return self._immediate[0]
        return self._deferred[0] if self._deferred else None

    def pop(self, now: float) -> Request:
        """Takes out what `peek(now)` returned. Raises IndexError when nothing is due."""
        if self._retries and self._retries[0][0] <= now:
            request = heapq.heappop(self._retries)[2]
        else:
            request = (self._immediate or self._deferred).popleft()
        self.size_bytes -= request.size_bytes
        return request

    @property
    def next_due_s(self) -> float:
        """When the next retry is due; infinity when none waits."""
        return self._retries[0][0] if self._retries else math.inf
