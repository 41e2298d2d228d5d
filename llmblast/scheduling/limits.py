"""Limits: synchronous objects that say when a request may go, and are paid when it does.

Every limit answers the same three questions, so admission treats all alike:

    ready_at(cost, now) -> float        monotonic seconds; `now` or earlier means: now
    acquire(cost, now)
    settle(paid, real, now)             gives back or charges the difference

`Rate` is the generic cell rate algorithm (ITU-T I.371; the virtual scheduling form): its whole state is one number.
"""

import math
from collections import deque
from typing import ClassVar, Protocol

PACING_MARGIN = 0.004
"""Share of a rate that is left unused. Timers and networks jitter by some milliseconds; a server that counts strictly
over any moving second would see one request too many when one is sent late and the next ones on time. The margin
and `CATCH_UP_S` belong together: in any window of a second or more there are never more sends than the rate allows,
and 2 ms are left for the network's own jitter."""

CATCH_UP_S = 0.002
"""Lateness that is made up for. Event loops wake up to 1 ms late, which would cost 20 % at 200 requests a second."""


class Limit(Protocol):
    """What admission asks. `name` is for people; `waited_s` is how long the head of the queue waited for this limit.
    A class whose `is_learned` is True has limits that nobody has set: a run goes on without them.
    """

    name: str
    waited_s: float

    def ready_at(self, cost: float, now: float) -> float: ...

    def acquire(self, cost: float, now: float) -> None: ...

    def settle(self, paid: float, real: float, now: float) -> None: ...


class Rate:
    """At most `per_second` units each second, evenly paced, with `burst_s` seconds of credit after a pause.

    A cost that no credit can cover is admitted when the credit is full, and its followers wait: nothing deadlocks.
    What is given back stays usable up to the size of one request: token estimates are high on purpose, and what comes
    back while nothing is owed would be lost otherwise (a quarter of the rate when answers take half of their estimate).
    """

    is_learned: ClassVar[bool] = False
    """Nobody has set it, so nobody knows the whole of which a share is used."""
    __slots__ = (
        "_burst_s",
        "_credit_s",
        "_most_s",
        "_next_s",
        "_seconds_per_unit",
        "name",
        "per_second",
        "used",
        "waited_s",
    )

    def __init__(self, name: str, per_second: float, burst_s: float = 0.0) -> None:
        self.name = name
        self.waited_s = 0.0
        self.per_second = per_second
        self.used = 0.0
        """Units charged in all, settlements included."""
        self._seconds_per_unit = 1.0 / (per_second * (1.0 - PACING_MARGIN))
        self._burst_s = burst_s
        self._credit_s = self._most_s = burst_s + CATCH_UP_S
        self._next_s = -math.inf

    @property
    def pace_per_s(self) -> float:
        """Units per second at present; infinite while nothing is held back."""
        return 1.0 / self._seconds_per_unit if self._seconds_per_unit else math.inf

    def ready_at(self, cost: float, now: float) -> float:
        """When the credit covers `cost`, or the burst is full; what is credited for lateness is never waited for."""
        needed_s = cost * self._seconds_per_unit
        return self._next_s + (needed_s if needed_s < self._burst_s else self._burst_s)

    def acquire(self, cost: float, now: float) -> None:
        """Charges `cost`; credit older than the burst is gone."""
        self.used += cost
        oldest_s = now - self._most_s
        start_s = self._next_s if self._next_s > oldest_s else oldest_s
        self._next_s = start_s + cost * self._seconds_per_unit
        if self._most_s > self._credit_s:
            self._keep_returned(self._most_s, now)

    def settle(self, paid: float, real: float, now: float) -> None:
        """Moves the schedule by what was paid too much or too little."""
        self.used += real - paid
        most_s, credit_s = self._most_s, self._credit_s
        oldest_s = now - most_s
        start_s = self._next_s if self._next_s > oldest_s else oldest_s
        self._next_s = start_s + (real - paid) * self._seconds_per_unit
        if now - self._next_s > credit_s or most_s > credit_s:
            returned_s = credit_s + paid * self._seconds_per_unit
            self._keep_returned(most_s if most_s > returned_s else returned_s, now)

    def delay(self, seconds: float) -> None:
        """Move the schedule."""
        self._next_s += seconds

    def left_late(self, sent_s: float, left_s: float, behind_s: float) -> None:
        """Record that what was charged at `sent_s` left only at `left_s`: the schedule moves by `behind_s`."""
        if behind_s > 0:
            self.delay(behind_s)

    def _keep_returned(self, most_s: float, now: float) -> None:
        """Credit above the burst is what was given back: it only shrinks as it is used, no time adds to it."""
        behind_s = now - self._next_s
        most_s = min(most_s, behind_s)
        self._most_s = most_s if most_s > self._credit_s else self._credit_s


class RollingQuota:
    """At most `units` in any `window_s` seconds, as soon as you like: a day's quota need not last evenly for the day.

    Counted in `slots` parts of the window, so the memory is bounded; a part leaves the count as a whole, which errs by
    one part on the safe side.
    """

    __slots__ = ("_counted", "_part_s", "_parts", "_window_s", "name", "units", "waited_s")

    def __init__(self, name: str, units: float, window_s: float, slots: int = 1440) -> None:
        self.name = name
        self.waited_s = 0.0
        self.units = units
        self._window_s = window_s
        self._part_s = window_s / slots
        self._parts: deque[tuple[float, float]] = deque()
        self._counted = 0.0

    def ready_at(self, cost: float, now: float) -> float:
        """When enough of the oldest sends have left the window."""
        self._forget(now)
        missing = self._counted + min(cost, self.units) - self.units
        for end_s, count in self._parts:
            if missing <= 0:
                break
            missing -= count
            now = end_s
        return now

    def free_at(self, units: float, now: float) -> float:
        """Return when so many more units will have been let go, where nothing else holds them back."""
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
        return now + (windows + 1) * self._window_s  # what is still free is let go before long

    def acquire(self, cost: float, now: float) -> None:
        """Counts it in the present part of the window."""
        self._counted += cost
        if self._parts and now < self._parts[-1][0] - self._window_s:
            end_s, count = self._parts[-1]
            self._parts[-1] = (end_s, count + cost)
        else:
            self._parts.append((now + self._part_s + self._window_s, cost))

    def settle(self, paid: float, real: float, now: float) -> None:
        """Charges the newest part, gives back to the oldest: it is not known which one was paid, and what is counted
        too long errs on the safe side.
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


class Concurrency:
    """At most `slots` requests in flight; a slot comes back through `settle(1, 0, now)`."""

    is_learned: ClassVar[bool] = False
    """The number is adapted, up to `max_slots`, which is the user's."""
    __slots__ = ("_slots", "_taken", "max_slots", "name", "waited_s")

    def __init__(self, name: str, slots: int) -> None:
        self.name = name
        self.waited_s = 0.0
        self.max_slots = slots
        self._slots = slots
        self._taken = 0.0

    @property
    def is_full(self) -> bool:
        """Every slot is taken."""
        return self._taken >= self._slots

    def fixed(self, in_flight: int) -> "Concurrency":
        """Return a plain limit at the user's number, with that many slots taken."""
        plain = Concurrency(self.name, self.max_slots)
        plain.waited_s, plain._taken = self.waited_s, float(in_flight)
        return plain

    def ready_at(self, cost: float, now: float) -> float:
        """Now or never: nobody knows when a slot frees, its release wakes the queue."""
        return now if self._taken < self._slots else math.inf

    def acquire(self, cost: float, now: float) -> None:
        """Occupies slots."""
        self._taken += cost

    def settle(self, paid: float, real: float, now: float) -> None:
        """Frees what is no longer used."""
        self._taken += real - paid
