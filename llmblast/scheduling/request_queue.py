"""Request queue: the order in which requests go. Due retries come first, then new requests, then deferred ones.

A retry after a failure needs the retry budget, too; one after a rejection by a rate limit does not.
A retry holds nothing but its memory while it waits. That is bounded by two counts of bytes: `size_bytes` are those of
queued requests, retries too, so that an outage cannot draw the whole file into memory; `held_bytes` are those of all
requests that were added and have not come to their end, since those in flight are kept as well.
"""

import heapq
import math
from collections import deque
from itertools import count

from llmblast.models import Attempt
from llmblast.scheduling.retry_budget import EARNED_PER_SEND, RetryBudget


class RequestQueue:
    """Retries by due time, those on the budget apart; immediate and deferred requests in the order of the file."""

    __slots__ = (
        "_deferred",
        "_failed",
        "_immediate",
        "_order",
        "_retries",
        "budget",
        "held",
        "held_bytes",
        "is_outage",
        "is_probing",
        "retried",
        "size_bytes",
    )

    def __init__(self) -> None:
        self.budget = RetryBudget()
        self._retries: list[tuple[float, int, Attempt]] = []
        self._failed: list[tuple[float, int, Attempt]] = []
        self._immediate: deque[Attempt] = deque()
        self._deferred: deque[Attempt] = deque()
        self._order = count()
        self.size_bytes = 0
        self.held_bytes = 0
        """The caller subtracts a request's bytes when it comes to its end."""
        self.held = 0
        """Requests that wait for a reply to another one, outside of the queue; see `hold`."""
        self.retried = 0
        """Requests that were sent again."""
        self.is_outage = False
        """All endpoints fail: requests that have not failed yet go first, so that probes use up no line's attempts."""
        self.is_probing = False
        """Every endpoint is held back: new requests go first, and the one that was read last before all."""

    def __len__(self) -> int:
        return self.held + len(self._retries) + len(self._failed) + len(self._immediate) + len(self._deferred)

    def __bool__(self) -> bool:
        """Return whether anything may be sent, now or later; requests that are held do not count."""
        return bool(self._immediate or self._retries or self._failed or self._deferred)

    def add(self, attempt: Attempt) -> None:
        """Queue a request that was read."""
        request = attempt.request
        (self._deferred if request.terms.is_deferred else self._immediate).append(attempt)
        size_bytes = len(request.text) + len(request.body)
        if request.image_bytes and request.content is not None:
            size_bytes += 2 * request.image_bytes  # in the prompt, and rendered for another kind of provider
        attempt.size_bytes = size_bytes
        self.size_bytes += size_bytes
        self.held_bytes += size_bytes

    def add_next(self, attempt: Attempt) -> None:
        """Queue a request that goes before those that were read, such as one that asks again for an answer."""
        request = attempt.request
        (self._deferred if request.terms.is_deferred else self._immediate).appendleft(attempt)
        attempt.size_bytes = size_bytes = len(request.text) + len(request.body)
        self.size_bytes += size_bytes
        self.held_bytes += size_bytes

    def hold(self, attempt: Attempt) -> None:
        """Count a request that waits outside of the queue as queued, until `add_held` brings it back."""
        request = attempt.request
        attempt.size_bytes = size_bytes = len(request.text) + len(request.body)
        self.held += 1
        self.size_bytes += size_bytes
        self.held_bytes += size_bytes

    def add_held(self, attempt: Attempt) -> None:
        """Queue a request that was held: it goes before those of its class that were read."""
        self.held -= 1
        self.size_bytes -= attempt.size_bytes
        self.held_bytes -= attempt.size_bytes
        self.add_next(attempt)

    def add_retry(self, attempt: Attempt, due_s: float, *, has_failed: bool = False) -> None:
        """Queue a request that goes again at `due_s` (monotonic seconds) or later."""
        heapq.heappush(self._failed if has_failed else self._retries, (due_s, next(self._order), attempt))
        self.size_bytes += attempt.size_bytes

    def peek(self, now: float) -> Attempt | None:
        """Return the request whose turn it is at `now`."""
        if self.is_probing and (unsent := self._immediate or self._deferred):
            return unsent[-1]
        if self._retries and self._retries[0][0] <= now:
            return self._retries[0][2]
        if self._failed and self._is_failed_next(now):
            return self._failed[0][2]
        if self._immediate:
            return self._immediate[0]
        return self._deferred[0] if self._deferred else None

    def pop(self, now: float) -> Attempt:
        """Remove and return the request that `peek(now)` returned. Raises IndexError where none is due."""
        if self.is_probing and (unsent := self._immediate or self._deferred):
            attempt = unsent.pop()
            self.budget.earned += EARNED_PER_SEND
        elif self._retries and self._retries[0][0] <= now:
            attempt = heapq.heappop(self._retries)[2]
            self.retried += 1
        elif self._failed and self._is_failed_next(now):
            attempt = heapq.heappop(self._failed)[2]
            self.budget.acquire()
            self.retried += 1
        else:
            attempt = (self._immediate or self._deferred).popleft()
            self.budget.earned += EARNED_PER_SEND
        self.size_bytes -= attempt.size_bytes
        return attempt

    def park(self, due_s: float, now: float) -> None:
        """Queue the request that `peek(now)` returned for `due_s`: others may go meanwhile."""
        retried, earned = self.retried, self.budget.earned
        self.add_retry(self.pop(now), due_s)
        self.retried, self.budget.earned = retried, earned

    def recall(self, model: str, now: float) -> None:
        """Make retries for a model due at once."""
        self._retries = [
            (now if attempt.request.model == model else due_s, order, attempt)
            for due_s, order, attempt in self._retries
        ]
        heapq.heapify(self._retries)

    def recall_all(self, due_s: float) -> None:
        """Make retries due at that moment at the latest."""
        if any(at_s > due_s for at_s, _, _ in self._retries):
            self._retries = [(min(at_s, due_s), order, attempt) for at_s, order, attempt in self._retries]
            heapq.heapify(self._retries)

    def next_due_s(self, now: float) -> float:
        """Return when the next retry is due and paid for; infinity where none waits."""
        due_s = self._retries[0][0] if self._retries else math.inf
        return min(due_s, max(self._failed[0][0], self.budget.ready_at(now))) if self._failed else due_s

    def _is_failed_next(self, now: float) -> bool:
        if self._failed[0][0] > now or self.budget.ready_at(now) > now:
            return False
        return not (self.is_outage and (self._immediate or self._deferred))
