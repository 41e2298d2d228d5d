"""Request rate: an even pace, and never more than allowed in any moving second, counted as requests really leave.

A request leaves late when a connection has to be opened for it, and those behind it, on kept connections, do not. The
pace alone would let a second see too many then, or would have to be held up each time. So what left within the last
second is counted, too, and the pace may make up for more lateness of our own.
"""

import math
from collections import deque
from dataclasses import dataclass

from llmblast.scheduling.limits import PACING_MARGIN, Rate

_MARGIN_PER_HZ = 8e-7
_MOST_MARGIN = 0.012
"""Of a rate of 10,000 a second 1.2 % are left unused, of one of 1,000 or less half a percent: at high rates neither end
is ever without a stall of some milliseconds, and what arrives after one arrives together.
"""
_MOST_CATCH_UP_S = 0.004
"""Lateness of our own is made up for by as much as the margin leaves in a second, so that no stretch of a second or
more holds more than allowed; and by no more than this, since a bucket that leaks evenly takes it for a crowd.
"""
_PART_S = 0.002
"""Sends are counted by such parts of a window, which bounds the memory and costs 0.2 % of a window that is full."""


@dataclass(slots=True)
class _Part:
    """A part of the window, and how many left in it."""

    end_s: float
    count: int


class RequestRate(Rate):
    """At most `per_second` requests each second, evenly paced, with `burst_s` seconds of credit after a pause.

    Of rates below 1 a second the window is the time that one request takes.
    """

    __slots__ = ("_counted", "_most", "_parts", "_window_s")

    def __init__(self, name: str, per_second: float, burst_s: float = 0.0) -> None:
        super().__init__(name, per_second, burst_s)
        margin = min(PACING_MARGIN + per_second * _MARGIN_PER_HZ, _MOST_MARGIN)
        self._seconds_per_unit = 1.0 / (per_second * (1.0 - margin))
        self._credit_s = self._most_s = burst_s + min(margin, _MOST_CATCH_UP_S)
        self._window_s = max(1.0, 1.0 / per_second)
        self._most = math.ceil(per_second * (self._window_s * (1.0 - margin) + burst_s))
        self._counted = 0
        self._parts: deque[_Part] = deque()

    def ready_at(self, cost: float, now: float) -> float:
        """When the pace allows the next one, and fewer than the most left within the last window."""
        ready_s = super().ready_at(cost, now)
        return ready_s if self._counted < self._most else max(ready_s, self._room_at(now))

    def take(self, cost: float, now: float) -> None:
        """Charges a request that leaves now."""
        if self._next_s == -math.inf:
            self._next_s = now - self._burst_s  # the first one was not late
        super().take(cost, now)
        self._count(now)

    def left_late(self, sent_s: float, left_s: float) -> None:
        """What was charged at `sent_s` left only now."""
        for part in reversed(self._parts):
            if part.end_s - _PART_S <= sent_s:
                part.count -= 1
                self._counted -= 1
                break
        self._count(left_s)

    def _count(self, now: float) -> None:
        self._counted += 1
        parts = self._parts
        if parts and now < parts[-1].end_s:
            parts[-1].count += 1
        else:
            self._forget(now)
            parts.append(_Part(now + _PART_S, 1))

    def _room_at(self, now: float) -> float:
        self._forget(now)
        excess = self._counted + 1 - self._most
        for part in self._parts:
            if excess <= 0:
                break
            excess -= part.count
            now = part.end_s + self._window_s
        return now

    def _forget(self, now: float) -> None:
        parts = self._parts
        while parts and parts[0].end_s + self._window_s <= now:
            self._counted -= parts.popleft().count
