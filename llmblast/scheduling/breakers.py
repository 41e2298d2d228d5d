"""Breakers: limits that take an endpoint out while it is of no use, and let single requests through to probe it.

Source: Nygard, Release It!, "Circuit Breaker".
"""

import math


class Breaker:
    """Opens after `threshold` failures in a row. The wait before a probe doubles from `first_wait_s` to
    `longest_wait_s`.
    """

    __slots__ = (
        "_failures",
        "_first_wait_s",
        "_longest_wait_s",
        "_probe_at_s",
        "_probe_sent_s",
        "_threshold",
        "_wait_s",
        "has_answered",
        "name",
        "waited_s",
    )

    def __init__(
        self, name: str, *, threshold: int = 3, first_wait_s: float = 1.0, longest_wait_s: float = 30.0
    ) -> None:
        self.name = name
        self.waited_s = 0.0
        self.has_answered = False
        """It did so at least once in this run."""
        self._threshold = threshold
        self._first_wait_s = first_wait_s
        self._longest_wait_s = longest_wait_s
        self._wait_s = first_wait_s
        self._failures = 0
        self._probe_at_s = -math.inf
        self._probe_sent_s = -math.inf

    @property
    def is_open(self) -> bool:
        """The endpoint is taken out; only probes go to it."""
        return self._probe_at_s != -math.inf

    def ready_at(self, cost: float, now: float) -> float:
        """Closed: always. Open: at the next probe, and never while one is under way."""
        return self._probe_at_s

    def acquire(self, cost: float, now: float) -> None:
        """An open breaker lets nobody follow until the probe's result is known."""
        if self._probe_at_s != -math.inf:
            self._probe_at_s = math.inf
            self._probe_sent_s = now

    def settle(self, paid: float, real: float, now: float) -> None:
        """Owes nothing."""

    def failed(self, now: float, sent_s: float = math.inf) -> None:
        """One more failure in a row. Failures of requests sent before the probe do not lengthen the wait."""
        self._failures += 1
        if self._is_probe(sent_s) or (not self.is_open and self._is_enough()):
            self._open(now)

    def trip(self, now: float) -> None:
        """Opens at once: something showed before the first request that nobody is there."""
        self._failures = self._threshold
        self._open(now)

    def answered(self) -> None:
        """The endpoint lives."""
        self.has_answered = True
        if self._failures:
            self._failures = 0
            self._wait_s = self._first_wait_s
            self._probe_at_s = -math.inf

    def probe_abandoned(self, now: float, sent_s: float = math.inf) -> None:
        """The probe ended without telling anything about the endpoint; another one may go."""
        if self._is_probe(sent_s):
            self._probe_at_s = now

    def _is_enough(self) -> bool:
        return self._failures >= self._threshold

    def _open(self, now: float) -> None:
        self._probe_at_s = now + self._wait_s
        self._wait_s = min(self._wait_s * 2, self._longest_wait_s)

    def _is_probe(self, sent_s: float) -> bool:
        """A probe is under way, and what was sent at `sent_s` (admission time) is it."""
        return self._probe_at_s == math.inf and sent_s >= self._probe_sent_s


class Outage(Breaker):
    """Opens when lines in a row fail at an endpoint that can be reached.

    Errors come fast and answers slowly, so a row may only seem to have no answer in it: it counts when a quarter of
    what was sent since it began has failed. For the same reason an answer to what was sent before says nothing, and a
    failure says nothing when what was sent later has its answer: lines that always time out are no outage.
    """

    __slots__ = ("_began_s", "_sends", "_worked_s")

    def __init__(self, name: str, *, threshold: int) -> None:
        super().__init__(name, threshold=threshold)
        self._began_s = self._worked_s = -math.inf
        self._sends = 0

    def acquire(self, cost: float, now: float) -> None:
        """Counts what is sent during a row of failures."""
        if self._failures:
            self._sends += 1
            super().acquire(cost, now)

    def failed(self, now: float, sent_s: float = math.inf) -> None:
        """One more line in a row."""
        if sent_s < self._worked_s:
            self.probe_abandoned(now, sent_s)
            return
        if not self._failures:
            self._began_s, self._sends = sent_s, 0
        super().failed(now, sent_s)

    def probe_abandoned(self, now: float, sent_s: float = math.inf) -> None:
        """A send that told nothing is none of those of which a quarter has to fail: kept connections that are found
        closed, by the hundred, would hide an outage.
        """
        super().probe_abandoned(now, sent_s)
        if self._sends and sent_s >= self._began_s:
            self._sends -= 1

    def worked(self, sent_s: float) -> None:
        """There is an answer to what was sent at that time."""
        self._worked_s = max(self._worked_s, sent_s)
        if self._failures and sent_s >= self._began_s:
            self.answered()

    def _is_enough(self) -> bool:
        return self._failures >= max(self._threshold, self._sends / 4)
