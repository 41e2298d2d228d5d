"""Circuit breakers: limits that take an endpoint out while it is of no use, and probe it with single requests.

Source: Nygard, Release It!, "Circuit Breaker".
"""

import math
from enum import Enum

from llmblast.scheduling.limits import Limit

FIRST_WAIT_S, MAX_WAIT_S = 1.0, 30.0


class BreakerState(Enum):
    """State of a `Breaker`."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"


class Breaker(Limit):
    """Open after `threshold` failures in a row. The wait before a probe doubles each time."""

    def __init__(self, name: str, *, threshold: int = 3) -> None:
        super().__init__(name)
        self.has_answered = False
        """The endpoint answered at least once in this run."""
        self._threshold = threshold
        self._wait_s = FIRST_WAIT_S
        self._failures = 0
        self._probe_at_s = -math.inf
        """When the next probe may go: minus infinity while closed, infinity while a probe is under way."""
        self._probe_sent_s = -math.inf

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.state.value}, {self._failures} failures in a row)"

    @property
    def state(self) -> BreakerState:
        """Return whether requests go, none does, or a probe is under way."""
        if not self.is_open:
            return BreakerState.CLOSED
        return BreakerState.PROBING if self._probe_at_s == math.inf else BreakerState.OPEN

    @property
    def is_open(self) -> bool:
        """Return whether the endpoint is taken out: only probes go to it."""
        return self._probe_at_s != -math.inf

    def ready_at(self, cost: float, now: float) -> float:
        """Return the past while closed, or when the next probe may go: never while one is under way."""
        return self._probe_at_s

    def acquire(self, cost: float, now: float) -> None:
        """Count a send: while open it is a probe, and the breaker stays open until its result is known."""
        if self._probe_at_s != -math.inf:
            self._probe_at_s = math.inf
            self._probe_sent_s = now

    def settle(self, paid: float, real: float, now: float) -> None:
        """Owe nothing."""

    def record_failure(self, now: float, sent_s: float = math.inf) -> None:
        """Record one more failure in a row. Failures of requests sent before the probe do not lengthen the wait."""
        self._failures += 1
        if self._is_probe(sent_s) or (not self.is_open and self._is_enough()):
            self._open(now)

    def trip(self, now: float) -> None:
        """Open at once: the endpoint was found unreachable before the first request."""
        self._failures = self._threshold
        self._open(now)

    def record_success(self, sent_s: float = math.inf) -> None:
        """Record that the endpoint answered a request sent at `sent_s`: close."""
        self.has_answered = True
        if self._failures:
            self._failures = 0
            self._wait_s = FIRST_WAIT_S
            self._probe_at_s = -math.inf

    def record_inconclusive(self, now: float, sent_s: float = math.inf) -> None:
        """Record that a send said nothing about the endpoint; if it was the probe, another one may go."""
        if self._is_probe(sent_s):
            self._probe_at_s = now

    def _is_enough(self) -> bool:
        return self._failures >= self._threshold

    def _open(self, now: float) -> None:
        self._probe_at_s = now + self._wait_s
        self._wait_s = min(self._wait_s * 2, MAX_WAIT_S)

    def _is_probe(self, sent_s: float) -> bool:
        """Return whether a probe is under way, and the request admitted at `sent_s` is that."""
        return self._probe_at_s == math.inf and sent_s >= self._probe_sent_s


class Outage(Breaker):
    """Open when lines in a row fail at an endpoint that can be reached.

    Errors come fast and answers slowly, so a row may only seem to have no answer in it: it counts when a quarter of
    the requests sent since it began have failed. For the same reason an answer to a request sent before says nothing,
    and a failure says nothing when a request sent later has its answer: lines that always time out are no outage.
    """

    def __init__(self, name: str, *, threshold: int) -> None:
        super().__init__(name, threshold=threshold)
        self._began_s = self._last_success_sent_s = -math.inf
        self._sends = 0
        """Requests sent since the row of failures began."""

    def acquire(self, cost: float, now: float) -> None:
        """Count a send during a row of failures."""
        if self._failures:
            self._sends += 1
            super().acquire(cost, now)

    def record_failure(self, now: float, sent_s: float = math.inf) -> None:
        """Record one more failed line in a row."""
        if sent_s < self._last_success_sent_s:
            self.record_inconclusive(now, sent_s)
            return
        if not self._failures:
            self._began_s, self._sends = sent_s, 0
        super().record_failure(now, sent_s)

    def record_inconclusive(self, now: float, sent_s: float = math.inf) -> None:
        """Do not count the send among those of which a quarter has to fail: hundreds of kept connections that are found
        closed would hide an outage.
        """
        super().record_inconclusive(now, sent_s)
        if self._sends and sent_s >= self._began_s:
            self._sends -= 1

    def record_success(self, sent_s: float = math.inf) -> None:
        """Record an answer to a request sent at `sent_s`: close, unless that was before the row of failures."""
        self._last_success_sent_s = max(self._last_success_sent_s, sent_s)
        if self._failures and sent_s >= self._began_s:
            super().record_success(sent_s)

    def _is_enough(self) -> bool:
        return self._failures >= max(self._threshold, self._sends / 4)
