"""Limits: synchronous objects that say when a request may go, and are paid when it does.

Every limit answers the same three questions, so admission treats all alike:

    ready_at(cost, now) -> float        monotonic seconds; `now` or earlier means: now
    take(cost, now)
    settle(paid, real, now)             gives back or charges the difference

`Rate` is the generic cell rate algorithm (ITU-T I.371; the virtual scheduling form): its whole state is one number.
"""

import math
from collections.abc import Sequence
from typing import Protocol

PACING_MARGIN = 0.004
"""Share of a rate that is left unused. Timers and networks jitter by some milliseconds; a server that counts strictly
over any moving second would see one request too many when one is sent late and the next ones on time. The margin
and `CATCH_UP_S` belong together: in any window of a second or more there are never more sends than the rate allows,
and 2 ms are left for the network's own jitter."""

CATCH_UP_S = 0.002
"""Lateness that is made up for. Event loops wake up to 1 ms late, which would cost 20 % at 200 requests a second."""


class Limit(Protocol):
    """What admission asks. `name` is for people; `waited_s` is how long the head of the queue waited for this limit."""

    name: str
    waited_s: float

    def ready_at(self, cost: float, now: float) -> float: ...

    def take(self, cost: float, now: float) -> None: ...

    def settle(self, paid: float, real: float, now: float) -> None: ...


class Rate:
    """At most `per_second` units each second, evenly paced, with `burst_s` seconds of credit after a pause.

    A cost that no credit can cover is admitted when the credit is full, and its followers wait: nothing deadlocks.
    What is given back stays usable up to the size of one request: token estimates are high on purpose, and what comes
    back while nothing is owed would be lost otherwise (a quarter of the rate when answers take half of their estimate).
    """

    __slots__ = ("_burst_s", "_credit_s", "_most_s", "_next_s", "_seconds_per_unit", "name", "waited_s")

    def __init__(self, name: str, per_second: float, burst_s: float = 0.0) -> None:
        self.name = name
        self.waited_s = 0.0
        self._seconds_per_unit = 1.0 / (per_second * (1.0 - PACING_MARGIN))
        self._burst_s = burst_s
        self._credit_s = self._most_s = burst_s + CATCH_UP_S
        self._next_s = -math.inf

    def ready_at(self, cost: float, now: float) -> float:
        """When the credit covers `cost`, or the burst is full; what is credited for lateness is never waited for."""
        needed_s = cost * self._seconds_per_unit
        return self._next_s + (needed_s if needed_s < self._burst_s else self._burst_s)

    def take(self, cost: float, now: float) -> None:
        """Charges `cost`; credit older than the burst is gone."""
        oldest_s = now - self._most_s
        start_s = self._next_s if self._next_s > oldest_s else oldest_s
        self._next_s = start_s + cost * self._seconds_per_unit
        if self._most_s > self._credit_s:
            self._keep_returned(self._most_s, now)

    def settle(self, paid: float, real: float, now: float) -> None:
        """Moves the schedule by what was paid too much or too little."""
        oldest_s = now - self._most_s
        start_s = self._next_s if self._next_s > oldest_s else oldest_s
        self._next_s = start_s + (real - paid) * self._seconds_per_unit
        if now - self._next_s > self._credit_s or self._most_s > self._credit_s:
            self._keep_returned(max(self._most_s, self._credit_s + paid * self._seconds_per_unit), now)

    def _keep_returned(self, most_s: float, now: float) -> None:
        """Credit above the burst is what was given back: it only shrinks as it is used, no time adds to it."""
        self._most_s = max(self._credit_s, min(most_s, now - self._next_s))


class Concurrency:
    """At most `slots` requests in flight; a slot comes back through `settle(1, 0, now)`."""

    __slots__ = ("_slots", "_taken", "name", "waited_s")

    def __init__(self, name: str, slots: int) -> None:
        self.name = name
        self.waited_s = 0.0
        self._slots = slots
        self._taken = 0.0

    @property
    def is_full(self) -> bool:
        """Every slot is taken."""
        return self._taken >= self._slots

    def ready_at(self, cost: float, now: float) -> float:
        """Now or never: nobody knows when a slot frees, its release wakes the queue."""
        return now if self._taken < self._slots else math.inf

    def take(self, cost: float, now: float) -> None:
        """Occupies slots."""
        self._taken += cost

    def settle(self, paid: float, real: float, now: float) -> None:
        """Frees what is no longer used."""
        self._taken += real - paid


class CoolDown:
    """Nothing goes until the moment that the provider named."""

    __slots__ = ("_until_s", "name", "started_s", "waited_s")

    def __init__(self, name: str) -> None:
        self.name = name
        self.waited_s = 0.0
        self.started_s = -math.inf
        self._until_s = -math.inf

    def pause(self, until_s: float, now: float) -> None:
        """Pauses until then; a shorter pause never ends a longer one early."""
        if until_s > self._until_s:
            self._until_s = until_s
            self.started_s = now

    def is_on(self, now: float) -> bool:
        """Whether it holds requests back at this moment."""
        return self._until_s > now

    def ready_at(self, cost: float, now: float) -> float:
        """The end of the pause."""
        return self._until_s

    def take(self, cost: float, now: float) -> None:
        """Costs nothing."""

    def settle(self, paid: float, real: float, now: float) -> None:
        """Owes nothing."""


class Breaker:
    """Takes an endpoint out after `threshold` failures in a row and lets one request through at a time to probe it.

    The wait before a probe doubles from `first_wait_s` to `longest_wait_s` (Nygard, Release It!, "Circuit Breaker").
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
        return self._failures >= self._threshold

    def ready_at(self, cost: float, now: float) -> float:
        """Closed: always. Open: at the next probe, and never while one is under way."""
        return self._probe_at_s

    def take(self, cost: float, now: float) -> None:
        """An open breaker lets nobody follow until the probe's result is known."""
        if self._failures >= self._threshold:
            self._probe_at_s = math.inf
            self._probe_sent_s = now

    def settle(self, paid: float, real: float, now: float) -> None:
        """Owes nothing."""

    def failed(self, now: float, sent_s: float = math.inf) -> None:
        """One more failure in a row. Failures of requests sent before the probe do not lengthen the wait."""
        was_probe = self._is_probe(sent_s)
        self._failures += 1
        if not self.is_open or (self._failures > self._threshold and not was_probe):
            return
        self._probe_at_s = now + self._wait_s
        self._wait_s = min(self._wait_s * 2, self._longest_wait_s)

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

    def _is_probe(self, sent_s: float) -> bool:
        """A probe is under way, and what was sent at `sent_s` (admission time) is it."""
        return self._probe_at_s == math.inf and sent_s >= self._probe_sent_s


class LimitSet:
    """The limits of one level, the run or one endpoint: all are checked, then all are paid."""

    __slots__ = ("_per_request", "_per_token", "_slots")

    def __init__(
        self, *, per_request: Sequence[Limit] = (), per_token: Sequence[Limit] = (), slots: Sequence[Limit] = ()
    ) -> None:
        self._per_request = (*slots, *per_request)
        self._per_token = tuple(per_token)
        self._slots = tuple(slots)

    @property
    def concurrency(self) -> Concurrency | None:
        """The limit of requests in flight, if there is one."""
        return next((limit for limit in self._slots if isinstance(limit, Concurrency)), None)

    @property
    def counts_tokens(self) -> bool:
        """Whether a token estimate is needed at all."""
        return bool(self._per_token)

    def all(self) -> tuple[Limit, ...]:
        """Every limit, for reports."""
        return (*self._per_request, *self._per_token)

    def is_ready(self, tokens: float, now: float) -> bool:
        """Whether every limit lets a request of this size go now."""
        for limit in self._per_request:
            if limit.ready_at(1.0, now) > now:
                return False
        for limit in self._per_token:  # noqa: SIM110 -- a generator here costs more than all limits together
            if limit.ready_at(tokens, now) > now:
                return False
        return True

    def last_ready(self, tokens: float, now: float) -> tuple[float, Limit]:
        """The limit that lets go last, and when. Asked only while something is held back."""
        moments: list[tuple[float, Limit]] = [(limit.ready_at(1.0, now), limit) for limit in self._per_request]
        moments += [(limit.ready_at(tokens, now), limit) for limit in self._per_token]
        return max(moments, key=lambda moment: moment[0])

    def take(self, tokens: float, now: float) -> None:
        """Pays all limits."""
        for limit in self._per_request:
            limit.take(1.0, now)
        for limit in self._per_token:
            limit.take(tokens, now)

    def release(self, tokens_paid: float, tokens_real: float, now: float) -> None:
        """The request has ended: its slot is free, its tokens are charged as they were."""
        for limit in self._slots:
            limit.settle(1.0, 0.0, now)
        for limit in self._per_token:
            limit.settle(tokens_paid, tokens_real, now)
