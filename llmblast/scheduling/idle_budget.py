"""Idle budget: how much of the run's slots may stay free for the sake of warm prefixes."""

from math import inf
from typing import Final

SHARE: Final = 0.05
"""Share of the time of the run."""
FIRST_WAITS: Final = 1.5
"""Times of one request that come on top: at its start a run may have nothing but followers."""


class IdleBudget:
    """Counts the time for which slots stay free, in proportion to how many; `max_in_flight` are all of them."""

    __slots__ = ("_counted_s", "_free", "_idle_s", "_latency_s", "_max_in_flight", "_started_s", "is_spent")

    def __init__(self, max_in_flight: int) -> None:
        self._max_in_flight = max_in_flight
        self._started_s = self._counted_s = inf
        self._free = 0.0
        self._idle_s = 0.0
        self._latency_s = inf
        self.is_spent = False

    def learn(self, latency_s: float) -> None:
        """Learn how long the reply to a leader takes; before the first one nothing is known, and nothing spent."""
        self._latency_s = min(self._latency_s, latency_s)

    def count(self, now: float, in_flight: int) -> None:
        """Count the time since the last call; from now on so many are in flight, as many as may be if others wait."""
        if self._started_s == inf:
            self._started_s = self._counted_s = now
        self._idle_s += self._free * (now - self._counted_s)
        self._counted_s = now
        self._free = 1.0 - in_flight / self._max_in_flight
        self.is_spent = self._idle_s >= self._allowed(now)

    def spent_at(self, now: float) -> float:
        """Return when the budget is spent if all stays as it is."""
        left_s = self._allowed(now) - self._idle_s - self._free * (now - self._counted_s)
        if left_s <= 0.0:
            return now
        return now + left_s / (self._free - SHARE) if self._free > SHARE else inf

    def _allowed(self, now: float) -> float:
        return FIRST_WAITS * self._latency_s + SHARE * (now - self._started_s)
