"""Request rate: a steady pace, and never more than allowed in any moving second, counted as requests really leave.

For rates whose interval is too short to be kept, and for those with a burst; see `EvenRate` for all others.

A request leaves late when a connection has to be opened for it, and those behind it, on kept connections, do not. The
pace alone would let a second see too many then, or would have to be held up each time. So requests that left within
the last second are counted, too, and the pace may make up for more lateness of our own.
"""

import math
from collections import deque
from itertools import chain
from typing import Final

from llmblast.scheduling.limits import PACING_MARGIN, Rate

_MARGIN_PER_HZ: Final = 8e-7
_MAX_MARGIN: Final = 0.012
"""Of a rate of 10,000 a second 1.2 % are left unused, of one of 1,000 or less half a percent: at high rates neither end
is ever without a stall of some milliseconds, and what arrives after one arrives together.
"""
_MAX_CATCH_UP_S: Final = 0.004
"""Lateness of our own is made up for by as much as the margin leaves in a second, so that no stretch of a second or
more holds more than allowed; and by no more than this, since a bucket that leaks evenly takes it for a crowd.
"""
_PART_S: Final = 0.002
"""Sends are counted by such parts of a window, which bounds the memory and costs 0.2 % of a window that is full."""


class RequestRate(Rate):
    """At most `per_second` requests each second, evenly paced, with `burst_s` seconds of credit after a pause.

    Below 1 a second, the window is the interval between two requests.
    """

    def __init__(self, name: str, per_second: float, burst_s: float = 0.0) -> None:
        super().__init__(name, per_second, burst_s)
        margin = min(PACING_MARGIN + per_second * _MARGIN_PER_HZ, _MAX_MARGIN)
        self._seconds_per_unit = 1.0 / (per_second * (1.0 - margin))
        self._credit_s = self._max_credit_s = burst_s + min(margin, _MAX_CATCH_UP_S)
        self._window_s = max(1.0, 1.0 / per_second)
        self._max_counted = math.ceil(per_second * (self._window_s * (1.0 - margin) + burst_s))
        self._counted = 0
        """Requests in the window. `_part_count` of them are in the present part, which ends at `_part_end_s`."""
        self._part_count = 0
        self._part_end_s = -math.inf
        self._before: deque[tuple[float, int]] = deque()
        """The parts before that: the end of each, and the number of requests that left in it."""

    def ready_at(self, cost: float, now: float) -> float:
        """Return when the pace allows the next request, and fewer than the maximum left within the last window."""
        needed_s = cost * self._seconds_per_unit  # as in `Rate`: a call to it would cost as much as all this
        ready_s = self._next_s + (needed_s if needed_s < self._burst_s else self._burst_s)
        return ready_s if self._counted < self._max_counted else max(ready_s, self._room_at(now))

    def acquire(self, cost: float, now: float) -> None:
        """Charge a request that leaves now."""
        self.used += cost
        next_s, oldest_s = self._next_s, now - self._max_credit_s
        if next_s < oldest_s:
            next_s = oldest_s if next_s != -math.inf else now - self._burst_s  # the first one was not late
        self._next_s = next_s + cost * self._seconds_per_unit
        if now < self._part_end_s:
            self._counted += 1
            self._part_count += 1
        else:
            self._count(now)

    def record_late_departure(self, sent_s: float, left_s: float, behind_s: float) -> None:
        """Count a request that was charged at `sent_s` when it left."""
        super().record_late_departure(sent_s, left_s, behind_s)
        self._uncount(sent_s)
        self._count(left_s)

    def _count(self, now: float) -> None:
        self._counted += 1
        if now < self._part_end_s:
            self._part_count += 1
            return
        self._before.append((self._part_end_s, self._part_count))
        self._part_end_s, self._part_count = now + _PART_S, 1
        self._forget(now)

    def _uncount(self, sent_s: float) -> None:
        if self._part_end_s - _PART_S <= sent_s:
            self._counted -= 1
            self._part_count -= 1
            return
        for back, (end_s, count) in enumerate(reversed(self._before), start=1):
            if end_s - _PART_S <= sent_s:
                self._counted -= 1
                self._before[-back] = (end_s, count - 1)
                return

    def _room_at(self, now: float) -> float:
        self._forget(now)
        excess = self._counted + 1 - self._max_counted
        for end_s, count in chain(self._before, ((self._part_end_s, self._part_count),)):
            if excess <= 0:
                break
            excess -= count
            now = end_s + self._window_s
        return now

    def _forget(self, now: float) -> None:
        before = self._before
        while before and before[0][0] + self._window_s <= now:
            self._counted -= before.popleft()[1]
