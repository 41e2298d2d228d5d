"""Lanes: who goes next. Retries that are due come first, then what was read, then what may wait.

What goes again after a failure needs the retry budget, too; what was turned away before anybody worked on it does not.
A retry holds nothing but its memory while it waits. That is bounded by two counts of bytes: `size_bytes` are those of
what waits, retries too, so that an outage cannot draw the whole file into memory; `held_bytes` are those of all that
was added and has not come to its end, since what is in flight is kept as well.
"""

import heapq
import math
from collections import deque
from itertools import count

from llmblast.records import Request
from llmblast.scheduling.retry_budget import EARNED_PER_SEND, RetryBudget


class Lanes:
    """Retries by due time, those on the budget apart; immediate and deferred requests in the order of the file."""

    __slots__ = (
        "_deferred",
        "_failed",
        "_immediate",
        "_order",
        "_retries",
        "budget",
        "held_bytes",
        "is_outage",
        "is_probing",
        "retried",
        "size_bytes",
    )

    def __init__(self) -> None:
        self.budget = RetryBudget()
        self._retries: list[tuple[float, int, Request]] = []
        self._failed: list[tuple[float, int, Request]] = []
        self._immediate: deque[Request] = deque()
        self._deferred: deque[Request] = deque()
        self._order = count()
        self.size_bytes = 0
        self.held_bytes = 0
        """Whoever brings a request to its end takes it off."""
        self.retried = 0
        """Requests that went again."""
        self.is_outage = False
        """Nobody answers: what has not failed yet goes first, so that probes use up no line's attempts."""

        self.is_probing = False
        """Every endpoint is held back: what was not sent yet goes first, and the line that was read last before all."""

    def __len__(self) -> int:
        return len(self._retries) + len(self._failed) + len(self._immediate) + len(self._deferred)

    def __bool__(self) -> bool:
        return bool(self._immediate or self._retries or self._failed or self._deferred)

    def add(self, request: Request) -> None:
        """Queues a request that was read."""
        (self._deferred if request.deferred else self._immediate).append(request)
        request.size_bytes = size_bytes = len(request.text) + len(request.body)
        self.size_bytes += size_bytes
        self.held_bytes += size_bytes

    def add_retry(self, request: Request, due_s: float, *, has_failed: bool = False) -> None:
        """Queues a request that goes again at `due_s` (monotonic seconds) or later."""
        heapq.heappush(self._failed if has_failed else self._retries, (due_s, next(self._order), request))
        self.size_bytes += request.size_bytes

    def peek(self, now: float) -> Request | None:
        """The request whose turn it is at `now`."""
        if self.is_probing and (unsent := self._immediate or self._deferred):
            return unsent[-1]
        if self._retries and self._retries[0][0] <= now:
            return self._retries[0][2]
        if self._failed and self._is_failed_next(now):
            return self._failed[0][2]
        if self._immediate:
            return self._immediate[0]
        return self._deferred[0] if self._deferred else None

    def pop(self, now: float) -> Request:
        """Takes out what `peek(now)` returned. Raises IndexError when nothing is due."""
        if self.is_probing and (unsent := self._immediate or self._deferred):
            request = unsent.pop()
            self.budget.earned += EARNED_PER_SEND
        elif self._retries and self._retries[0][0] <= now:
            request = heapq.heappop(self._retries)[2]
            self.retried += 1
        elif self._failed and self._is_failed_next(now):
            request = heapq.heappop(self._failed)[2]
            self.budget.take()
            self.retried += 1
        else:
            request = (self._immediate or self._deferred).popleft()
            self.budget.earned += EARNED_PER_SEND
        self.size_bytes -= request.size_bytes
        return request

    def park(self, due_s: float, now: float) -> None:
        """Put what `peek(now)` returned back until `due_s`: others may go meanwhile."""
        retried, earned = self.retried, self.budget.earned
        self.add_retry(self.pop(now), due_s)
        self.retried, self.budget.earned = retried, earned

    def recall(self, model: str, now: float) -> None:
        """Make retries for a model due at once."""
        self._retries = [
            (now if request.model == model else due_s, order, request) for due_s, order, request in self._retries
        ]
        heapq.heapify(self._retries)

    def recall_all(self, due_s: float) -> None:
        """Make retries due at that moment at the latest."""
        if any(at_s > due_s for at_s, _, _ in self._retries):
            self._retries = [(min(at_s, due_s), order, request) for at_s, order, request in self._retries]
            heapq.heapify(self._retries)

    def next_due_s(self, now: float) -> float:
        """When the next retry is due and paid for; infinity when none waits."""
        due_s = self._retries[0][0] if self._retries else math.inf
        return min(due_s, max(self._failed[0][0], self.budget.ready_at(now))) if self._failed else due_s

    def _is_failed_next(self, now: float) -> bool:
        if self._failed[0][0] > now or self.budget.ready_at(now) > now:
            return False
        return not (self.is_outage and (self._immediate or self._deferred))
