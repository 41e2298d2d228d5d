"""Deferral: when deferred lines may go beside immediate ones. It knows the reserve of slots, and promotes lines whose
deadline comes near at the present rate.

All of it is looked at a few times a second, and only while the queue holds more than plain lines.
"""

from collections.abc import Sequence
from math import inf
from typing import Final

from llmblast.scheduling.answer_time import AnswerTime
from llmblast.scheduling.endpoints import Endpoint
from llmblast.scheduling.immediate_arrivals import ImmediateArrivals
from llmblast.scheduling.limit_set import LimitSet
from llmblast.scheduling.request_queue import RequestQueue
from llmblast.scheduling.slot_reserve import SlotReserve

LOOK_INTERVAL_S: Final = 0.05
RATE_INTERVAL_S: Final = 1.0
"""The send rate is measured over at least this time."""
RATE_GAIN: Final = 0.3


class Deferral:
    """Call `look` when `next_look_s` has come, before the queue is asked."""

    def __init__(self, queue: RequestQueue, run_limits: LimitSet, reserve: SlotReserve) -> None:
        self.answer_time = AnswerTime()
        self.next_look_s = -inf
        self.expects_immediate = True
        """More immediate lines may come."""
        self._queue = queue
        self._run_limits = run_limits
        self._reserve = reserve
        self._arrivals = ImmediateArrivals()
        self._per_second = 0.0
        self._immediate_per_second = 0.0
        self._counted = (0, 0, -inf)
        """Sends, those of immediate lines, and the moment at which they were counted last."""

    @property
    def keeps_slots(self) -> bool:
        """Return whether deferred lines have to leave some slots free."""
        return self.expects_immediate and self._reserve.is_set

    def look(self, endpoints: Sequence[Endpoint], now: float) -> None:
        """Bring up to date what depends on the clock, the arrivals and the rate."""
        self.next_look_s = now + LOOK_INTERVAL_S
        self._measure_rate(now)
        self._look_at_deadlines(endpoints, now)
        if self._reserve.is_learned:
            self._learn_reserve(endpoints, now)

    def _look_at_deadlines(self, endpoints: Sequence[Endpoint], now: float) -> None:
        """Tell the queue which lines are late by now, and which are urgent."""
        queue, usual_max_s = self._queue, self.answer_time.usual_max_s
        queue.lateness.expect(now, self.answer_time.average_s, usual_max_s)
        if queue.deadlines:
            per_second = self._rate_for_deferred(endpoints)
            before_s = queue.deadlines.urgent_before_s(queue.lateness.wall_s() + usual_max_s, per_second)
            queue.promote(before_s, 1 + int(min(per_second * LOOK_INTERVAL_S, 1e6)), now)

    def spare_endpoints(self, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        """Return the endpoints at which a deferred line leaves the reserve; none where the run has no such slot."""
        if not self.keeps_slots:
            return endpoints
        if not self._reserve.has_room(self._run_limits.concurrency):
            return ()
        return [e for e in endpoints if self._reserve.has_room(e.limits.concurrency, len(endpoints))]

    def _measure_rate(self, now: float) -> None:
        queue = self._queue
        sent, immediate_sent, since_s = self._counted
        passed_s = now - since_s
        if passed_s < RATE_INTERVAL_S:
            return
        if passed_s < inf:
            gain = RATE_GAIN if self._per_second else 1.0
            self._per_second += gain * ((queue.flow.sent - sent) / passed_s - self._per_second)
            immediate = (queue.flow.immediate_sent - immediate_sent) / passed_s
            self._immediate_per_second += gain * (immediate - self._immediate_per_second)
        self._counted = queue.flow.sent, queue.flow.immediate_sent, now

    def _rate_for_deferred(self, endpoints: Sequence[Endpoint]) -> float:
        """Return the sends per second that promoted lines get: what immediate ones leave, or every second send."""
        if not self._per_second:
            return pace_of(self._run_limits, endpoints)
        return max(self._per_second - self._immediate_per_second, self._per_second / 2)

    def _learn_reserve(self, endpoints: Sequence[Endpoint], now: float) -> None:
        self._arrivals.record(self._queue.flow.immediate_added, now)
        slots, average_s = slots_of(self._run_limits, endpoints), self.answer_time.average_s
        self._reserve.learn(
            self._arrivals.per_second(now),
            self._arrivals.largest_burst,
            slots / average_s if average_s else inf,  # Little's law
            pace_of(self._run_limits, endpoints),
        )


def slots_of(run_limits: LimitSet, endpoints: Sequence[Endpoint]) -> float:
    """Return how many requests may be in flight; infinity without a limit."""
    of_run, of_endpoints = run_limits.concurrency, 0.0
    for endpoint in endpoints:
        slots = endpoint.limits.concurrency
        of_endpoints += inf if slots is None else slots.slots
    return of_endpoints if of_run is None else min(of_run.slots, of_endpoints)


def pace_of(run_limits: LimitSet, endpoints: Sequence[Endpoint]) -> float:
    """Return the requests per second that the rates of the run and of the endpoints allow; infinity without a rate."""
    sends = sum(endpoint.traffic.sends for endpoint in endpoints)
    per_endpoint = sum(_requests_per_s(endpoint.limits, endpoint.traffic.sends) for endpoint in endpoints)
    return min(_requests_per_s(run_limits, sends), per_endpoint)


def _requests_per_s(limits: LimitSet, sends: int) -> float:
    """Return the lowest rate in requests; tokens count by the average of those that were sent."""
    lowest = inf
    for rate, kind in limits.rates_with_kinds:
        if kind is None:
            lowest = min(lowest, rate.pace_per_s)
        elif rate.used and sends:
            lowest = min(lowest, rate.pace_per_s * sends / rate.used)
    return lowest
