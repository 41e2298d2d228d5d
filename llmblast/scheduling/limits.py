"""Limits: synchronous objects that say when a request may go, and are paid when it does.

Every limit answers the same three questions, so admission treats all alike:

    ready_at(cost, now) -> float        monotonic seconds; `now` or earlier means: now
    acquire(cost, now)
    settle(paid, real, now)             gives back or charges the difference

`Rate` is the generic cell rate algorithm (ITU-T I.371; the virtual scheduling form): its whole state is one number.
"""

import math
from collections import deque
from typing import ClassVar

from llmblast.scheduling.head_wait import Holder

PACING_MARGIN = 0.004
"""Share of a rate that is left unused. Timers and networks jitter by some milliseconds; a server that counts strictly
over any moving second would see one request too many when one is sent late and the next ones on time. The margin
and `CATCH_UP_S` belong together: in any window of a second or more there are never more sends than the rate allows,
and 2 ms are left for the network's own jitter."""

CATCH_UP_S = 0.002
"""Lateness that is made up for: event loops wake up to 1 ms late, which would cost 20 % at 200 requests a second."""


class Limit(Holder):
    """A limit as admission sees it."""

    is_learned: ClassVar[bool] = False
    """Whether the limit is not configured: a run goes on without it, and it is left out of reports of what was used."""

    def ready_at(self, cost: float, now: float) -> float:
        """Return when a request of that cost may go."""
        raise NotImplementedError

    def acquire(self, cost: float, now: float) -> None:
        """Charge the cost of a request."""
        raise NotImplementedError

    def settle(self, paid: float, real: float, now: float) -> None:
        """Give back or charge the difference once the request has ended."""
        raise NotImplementedError


class Rate(Limit):
    """At most `per_second` units each second, evenly paced, with `burst_s` seconds of credit after a pause.

    A cost that no credit can cover is admitted when the credit is full, and its followers wait: nothing deadlocks.
    Units that are given back stay usable up to the size of one request: token estimates are high on purpose, and units
    that come back while nothing is owed would be lost otherwise (a quarter of the rate where answers take half of their
    estimate).
    """

    def __init__(self, name: str, per_second: float, burst_s: float = 0.0) -> None:
        super().__init__(name)
        self.per_second = per_second
        self.used = 0.0
        """Units charged in all, settlements included."""
        self._seconds_per_unit = 1.0 / (per_second * (1.0 - PACING_MARGIN))
        self._burst_s = burst_s
        self._credit_s = self._max_credit_s = burst_s + CATCH_UP_S
        self._next_s = -math.inf

    @property
    def pace_per_s(self) -> float:
        """Return the units per second at present; infinite while nothing is held back."""
        return 1.0 / self._seconds_per_unit if self._seconds_per_unit else math.inf

    def ready_at(self, cost: float, now: float) -> float:
        """Return when the credit covers `cost`, or the burst is full; credit for lateness is never waited for."""
        needed_s = cost * self._seconds_per_unit
        return self._next_s + (needed_s if needed_s < self._burst_s else self._burst_s)

    def acquire(self, cost: float, now: float) -> None:
        """Charge `cost`; credit older than the burst is gone."""
        self.used += cost
        oldest_s = now - self._max_credit_s
        start_s = self._next_s if self._next_s > oldest_s else oldest_s
        self._next_s = start_s + cost * self._seconds_per_unit
        if self._max_credit_s > self._credit_s:
            self._keep_returned(self._max_credit_s, now)

    def settle(self, paid: float, real: float, now: float) -> None:
        """Move the schedule by the units paid too much or too little."""
        self.used += real - paid
        max_credit_s, credit_s = self._max_credit_s, self._credit_s
        oldest_s = now - max_credit_s
        start_s = self._next_s if self._next_s > oldest_s else oldest_s
        self._next_s = start_s + (real - paid) * self._seconds_per_unit
        if now - self._next_s > credit_s or max_credit_s > credit_s:
            returned_s = credit_s + paid * self._seconds_per_unit
            self._keep_returned(max_credit_s if max_credit_s > returned_s else returned_s, now)

    def delay(self, seconds: float) -> None:
        """Move the schedule."""
        self._next_s += seconds

    def record_late_departure(self, sent_s: float, left_s: float, behind_s: float) -> None:
        """Record that a request charged at `sent_s` left only at `left_s`: the schedule moves by `behind_s`."""
        if behind_s > 0:
            self.delay(behind_s)

    def _keep_returned(self, max_credit_s: float, now: float) -> None:
        """Keep credit above the burst that was given back: it only shrinks as it is used, no time adds to it."""
        kept_s = min(max_credit_s, now - self._next_s)
        self._max_credit_s = kept_s if kept_s > self._credit_s else self._credit_s


class RollingQuota(Limit):
    """At most `units` in any `window_s` seconds, without a pace: a day's quota need not last evenly for the day.

    Units are counted in `slots` parts of the window, which bounds the memory; a part leaves the count as a whole, which
    errs by one part on the safe side.
    """

    def __init__(self, name: str, units: float, window_s: float, slots: int = 1440) -> None:
        super().__init__(name)
        self.units = units
        self._window_s = window_s
        self._part_s = window_s / slots
        self._parts: deque[tuple[float, float]] = deque()
        self._counted = 0.0

    def ready_at(self, cost: float, now: float) -> float:
        """Return when enough of the oldest sends have left the window."""
        if self._counted + cost <= self.units:
            return now
        self._forget(now)
        missing = self._counted + min(cost, self.units) - self.units
        for end_s, count in self._parts:
            if missing <= 0:
                break
            missing -= count
            now = end_s
        return now

    def free_at(self, units: float, now: float) -> float:
        """Return when that many more units can have been acquired, where nothing else holds them back."""
        self._forget(now)
        missing = self._counted + units - self.units
        if missing <= 0:
            return now
        windows = max(math.ceil(missing / self.units) - 1, 0)
        missing -= windows * self.units
        for end_s, count in self._parts:
            missing -= count
            if missing <= 0:
                return end_s + windows * self._window_s
        return now + (windows + 1) * self._window_s  # the units that are free now go before

    def acquire(self, cost: float, now: float) -> None:
        """Count `cost` in the present part of the window."""
        self._counted += cost
        if self._parts and now < self._parts[-1][0] - self._window_s:
            end_s, count = self._parts[-1]
            self._parts[-1] = (end_s, count + cost)
        else:
            self._forget(now)
            self._parts.append((now + self._part_s + self._window_s, cost))

    def settle(self, paid: float, real: float, now: float) -> None:
        """Charge the newest part, or give back to the oldest: it is not known which one was paid, and units counted too
        long err on the safe side.
        """
        self._forget(now)
        if real > paid and self._parts:
            end_s, count = self._parts[-1]
            self._parts[-1] = (end_s, count + real - paid)
            self._counted += real - paid
        returned = paid - real
        while returned > 0 and self._parts:
            end_s, count = self._parts.popleft()
            self._counted -= min(count, returned)
            if count > returned:
                self._parts.appendleft((end_s, count - returned))
            returned -= count

    def _forget(self, now: float) -> None:
        while self._parts and self._parts[0][0] <= now:
            self._counted -= self._parts.popleft()[1]


class Concurrency(Limit):
    """At most `slots` requests in flight; a slot comes back through `settle(1, 0, now)`."""

    def __init__(self, name: str, slots: int) -> None:
        super().__init__(name)
        self.max_slots = slots
        self._slots = slots
        self._taken = 0.0

    @property
    def is_full(self) -> bool:
        """Return whether every slot is taken."""
        return self._taken >= self._slots

    @property
    def slots(self) -> int:
        """Return how many requests may be in flight at present."""
        return self._slots

    @property
    def free(self) -> float:
        """Return the slots that are not taken."""
        return self._slots - self._taken

    def to_fixed(self, in_flight: int) -> "Concurrency":
        """Return a plain limit at the configured number, with that many slots taken."""
        plain = Concurrency(self.name, self.max_slots)
        plain.waited_s, plain._taken = self.waited_s, float(in_flight)
        return plain

    def ready_at(self, cost: float, now: float) -> float:
        """Return now or never: the release of a slot wakes the queue."""
        return now if self._taken < self._slots else math.inf

    def acquire(self, cost: float, now: float) -> None:
        """Occupy slots."""
        self._taken += cost

    def settle(self, paid: float, real: float, now: float) -> None:
        """Free slots."""
        self._taken += real - paid
