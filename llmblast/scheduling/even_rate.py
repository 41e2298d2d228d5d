"""Even rate: no two requests leave closer together than the rate's interval, measured from departure to departure.

Strict servers count intervals, not seconds: at 20 a second, nginx's `limit_req` without `burst` rejects what comes 49
ms after the request before it. So a late request moves those behind it. Lateness is made up for only within the margin:
the schedule runs at `1 - MARGIN` of the rate; requests behind a late one may come closer together than that, but never
closer than the rate's own interval.

Other servers count requests, see `counted_requests`. With these no interval is kept: lateness is made up for at once,
and the departures within the last second are counted here, too.
"""

import math
from collections import deque

from llmblast.scheduling.limits import Rate

MAX_EVEN_PER_S = 400.0
"""Rates up to this one are even. Above it an interval is shorter than what timers and networks jitter by, so no client
can keep it; see `RequestRate`."""
MARGIN = 0.007
"""Share of the rate that is left unused. A server sees one request later after its departure than the next one: by some
tenths of a millisecond, or by some milliseconds where it is busy, which these 7 ms of each second cover."""
FORGIVEN_S = 0.00008
"""Part of an interval's margin that lateness may use up: more than precise wake-ups take on average. At 20 a second,
0.54 % of the interval is left then, as the margin for what happens on the way."""
MIN_MARGIN = 0.001
"""Margin of an interval that is always left: a clock is read some microseconds before the bytes are written."""
MAX_CATCH_UP_S = 0.004
"""Lateness that is made up for, in the course of some dozens of requests. What is later moves the schedule."""
MAX_CATCH_UP_AT_ONCE_S = 0.01
"""The same where no interval is kept."""


def is_even(per_second: float, burst_s: float) -> bool:
    """Return whether requests leave evenly at this rate: it is not too high, and no burst may save up a request."""
    return per_second <= MAX_EVEN_PER_S and burst_s * per_second < 1.0


class EvenRate(Rate):
    """At most `per_second` requests each second, the next one never earlier than `1 / per_second` after the last.

    Admission and departure are two moments, though mostly the same. `acquire` charges the schedule for an admission.
    The request may leave from `leaves_at` on; `record_departure` tells that it does. A departure holds back the next
    admission, too, unless it was on a fresh connection: of these, as many are opened at a time as the rate needs.
    """

    def __init__(self, name: str, per_second: float) -> None:
        super().__init__(name, per_second)
        self._seconds_per_unit = 1.0 / (per_second * (1.0 - MARGIN))
        self._credit_s = self._max_credit_s = MAX_CATCH_UP_S
        self._min_interval_s = (1.0 + max(MARGIN - FORGIVEN_S * per_second, MIN_MARGIN)) / per_second
        self._spare_s: float | None = None
        """How much longer than a window as many requests take as the rate allows in it; None: the interval is kept."""
        self._window_s = max(1.0, 1.0 / per_second)
        self._left: deque[float] = deque(maxlen=max(1, int(per_second * self._window_s)))
        """When the last requests left, as many as the rate allows in a window of a second or more."""
        self.leaves_at = -math.inf
        """Moment from which the last departure lets another one follow."""
        self._admits_at = -math.inf

    def ready_at(self, cost: float, now: float) -> float:
        """Return when both the schedule and the last departure on a kept connection admit the next one."""
        return self._next_s if self._next_s > self._admits_at else self._admits_at

    def acquire(self, cost: float, now: float) -> None:
        """Charge a request that is admitted now. The first one is not late."""
        self.used += cost
        catch_up_s = MAX_CATCH_UP_S if self._spare_s is None else MAX_CATCH_UP_AT_ONCE_S
        start_s = now if self._next_s == -math.inf else max(self._next_s, now - catch_up_s)
        self._next_s = start_s + cost * self._seconds_per_unit

    def spare_time(self, spare_s: float | None) -> None:
        """Keep no interval from now on, but count requests, with so much time to spare in each window; None keeps it.

        On the way, requests may come closer together than they left: the spare time is for that.
        """
        self._spare_s = spare_s
        if spare_s is not None:
            self.leaves_at = self._admits_at = self._counted_until_s(spare_s)

    def record_departure(self, now: float, *, is_fresh: bool = False) -> None:
        """Record a departure, on a connection that had to be opened for it if `is_fresh`."""
        self._left.append(now)
        self._hold_next(now, is_fresh)

    def correct_departure(self, now: float, *, is_fresh: bool = False) -> None:
        """Record that the request that left last was written at `now` only, if that is later."""
        self._left[-1] = max(self._left[-1], now)
        self._hold_next(now, is_fresh)

    def record_late_departure(self, sent_s: float, left_s: float, behind_s: float) -> None:
        """Leave the schedule as it is: departures keep apart by themselves, or are counted."""

    def _hold_next(self, now: float, is_fresh: bool) -> None:
        """Set when the next request may leave after one that leaves now."""
        if self._spare_s is None:
            self.leaves_at = max(self.leaves_at, now + self._min_interval_s)
        else:
            self.leaves_at = self._counted_until_s(self._spare_s)
        if not is_fresh:
            self._admits_at = self.leaves_at

    def _counted_until_s(self, spare_s: float) -> float:
        """Return when the first of the last requests is counted no longer; the past if these are fewer than allowed."""
        is_full = len(self._left) == self._left.maxlen
        return self._left[0] + self._window_s + spare_s if is_full else -math.inf
