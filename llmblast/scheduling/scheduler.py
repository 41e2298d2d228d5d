"""Scheduler: the next request that may go, and where to; it pays every limit in the same breath.

All of it is synchronous: between the check of the limits and their payment nothing else can run. The cost of one
decision depends on the number of endpoints, never on how many requests wait or are in flight. Who asks sleeps
until `wake_at`, or until a slot, a settlement or new work changes the answer.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from itertools import chain

from llmblast.records import NO_TOKENS, QuotaWord, Request, Tokens
from llmblast.scheduling.adaptive import OpeningWindow
from llmblast.scheduling.endpoints import Endpoint
from llmblast.scheduling.even_rate import EvenRate
from llmblast.scheduling.lanes import Lanes
from llmblast.scheduling.limit_set import LimitSet
from llmblast.scheduling.limits import Concurrency, Limit
from llmblast.scheduling.request_rate import RequestRate
from llmblast.scheduling.retry_budget import EARNED_PER_ANSWER, EARNED_PER_SEND
from llmblast.scheduling.routes import Route
from llmblast.scheduling.tokens import dearest

COLD_START_S = 0.02
"""Time by which the schedule moves after the first request to an endpoint. A server that has just started takes its
first request 5 to 8 ms later than the next ones (measured with uvicorn; more where the machine is busy), which would
come too close to it.
"""


class _Output:
    """The files, where nothing can be written for now: no limit, but it holds back like one."""

    __slots__ = ("name", "waited_s")

    def __init__(self) -> None:
        self.name = "output"
        self.waited_s = 0.0


class Scheduler:
    """Lanes in, (request, endpoint) out. `now` is always monotonic seconds, handed in by the caller."""

    def __init__(self, run_limits: LimitSet, endpoints: Sequence[Endpoint], route: Route) -> None:
        self.lanes = Lanes()
        self.endpoints = tuple(endpoints)
        self.wake_at = math.inf
        """When the answer None may change by time alone; infinity: only an event changes it."""
        self.in_flight = 0
        self._run_limits = run_limits
        self._route = route
        self._enabled = self.endpoints
        self._slots = run_limits.concurrency
        self._opening = self._slots if isinstance(self._slots, OpeningWindow) else None
        self._output = _Output()
        self._held_by: Limit | _Output | None = None
        self._held_since = 0.0
        self._paced_until_s = -math.inf
        self.counts_tokens = any(limits.counts_tokens for limits in (run_limits, *(e.limits for e in endpoints)))

    @property
    def is_exhausted(self) -> bool:
        """Every endpoint is disabled: nothing can be sent any more."""
        return not self._enabled

    def next(self, now: float) -> tuple[Request, Endpoint] | None:
        """The request whose turn it is and its endpoint, with all limits paid; None when nothing may go at `now`."""
        if now < self._paced_until_s:
            return None
        request = self.lanes.peek(now)
        if request is None:
            self._hold(None, self.lanes.next_due_s(now), now)
            return None
        tokens = self._estimate(request) if self.counts_tokens else NO_TOKENS
        if not self._run_limits.is_ready(tokens, now):
            self._wait(*self._run_limits.last_ready(tokens, now), now)
            return None
        endpoint = self._find_endpoint(request, tokens, now)
        if endpoint is None:
            self._wait_for_an_endpoint(tokens, now)
            return None
        if self._held_by is not None:
            self._hold(None, now, now)
        self.lanes.pop(now)
        self._pay(request, endpoint, tokens, now)
        if self._slots is not None and self._slots.is_full and self.lanes:
            self._held_by, self._held_since = self._slots, now  # at full load nobody asks before a slot is free again
        return request, endpoint

    def hedge(self, request: Request, endpoint: Endpoint, now: float) -> tuple[Request, Endpoint] | None:
        """A twin of a request that is in flight at `endpoint`, and another endpoint that can take it at this moment,
        with all limits paid; None when there is none that has not failed it.
        """
        tokens = self._estimate(request) if self.counts_tokens else NO_TOKENS
        if not self._run_limits.is_ready(tokens, now):
            return None
        tried = request.failed_on | endpoint.bit
        ready = [other for other in self._enabled if not tried & other.bit and other.limits.is_ready(tokens, now)]
        if not ready:
            return None
        twin, other = copy(request), self._route(ready, request, self._enabled)
        twin.resent = False
        self._pay(twin, other, tokens, now)
        return twin, other

    def release(self, request: Request, endpoint: Endpoint, tokens_real: Tokens, now: float) -> None:
        """The send has ended: frees its slots and charges the tokens that it really used."""
        self.in_flight -= 1
        endpoint.in_flight -= 1
        endpoint.limits.release(request.tokens_paid, tokens_real, now)
        self._run_limits.release(request.tokens_paid, tokens_real, now)

    def abandon(self) -> int:
        """Nothing of what is in flight comes back; returns how many those are."""
        abandoned, self.in_flight = self.in_flight, 0
        for endpoint in self.endpoints:
            endpoint.in_flight = 0
        return abandoned

    def answered(self, request: Request, endpoint: Endpoint, latency_s: float) -> None:
        """A usable answer came: the request has come to its end."""
        endpoint.answered(request.sent_s, latency_s)
        self.lanes.held_bytes -= request.size_bytes
        self.lanes.budget.earned += EARNED_PER_ANSWER
        if self.lanes.is_outage:
            self.lanes.is_outage = endpoint.outage.is_open
        if self._opening is not None:
            self._opening.answered()
            if self._opening.is_open:
                self._opening = None

    def failed(self, request: Request, endpoint: Endpoint, now: float, *, is_first: bool) -> None:
        """A send failed in a way that another may not; see `Endpoint.failed`."""
        endpoint.failed(request.sent_s, now, is_first=is_first)
        self.lanes.is_outage = all(other.outage.is_open for other in self._enabled)

    def gave_up(self, request: Request) -> None:
        """The request has come to its end without an answer."""
        self.lanes.held_bytes -= request.size_bytes

    def heard(self, request: Request, endpoint: Endpoint, words: Sequence[QuotaWord], now: float) -> None:
        """The reply to `request` told of the provider's limits."""
        endpoint.heard(words, request.sent_s, now)
        self.counts_tokens = self.counts_tokens or endpoint.limits.counts_tokens

    def left_late(self, request: Request, endpoint: Endpoint, left_s: float, *, is_fresh: bool = True) -> None:
        """The request went out at `left_s` only. Where a connection had to be opened for it, those behind it on kept
        connections would come too close, so the schedule moves as a whole.
        """
        behind_s = endpoint.left_late(request.sent_s, request.lag_s, left_s) if is_fresh else 0.0
        endpoint.limits.left_late(request.sent_s, left_s, behind_s)
        self._run_limits.left_late(request.sent_s, left_s, behind_s)
        self._paced_until_s = -math.inf

    @property
    def is_even(self) -> bool:
        """Whether there is a rate at which requests leave evenly, so that a wake-up has to be precise."""
        return any(limits.is_even for limits in (self._run_limits, *(e.limits for e in self.endpoints)))

    def leaves_at(self, endpoint: Endpoint) -> float:
        """Return the moment from which a request that was admitted may leave."""
        return max(self._run_limits.leaves_at, endpoint.limits.leaves_at)

    def leave(self, endpoint: Endpoint, now: float) -> None:
        """Record the departure of a request that was admitted. Rates that are even count from there."""
        self._run_limits.leave(now)
        endpoint.limits.leave(now)

    def may_lend(self, now: float) -> bool:
        """Whether nothing but slots can hold a request back: of one endpoint that is well and has no rate."""
        if len(self.endpoints) != 1 or self._opening is not None:
            return False
        (endpoint,) = self.endpoints
        return not (self._run_limits.has_rate or endpoint.limits.has_rate or endpoint.state(now))

    @property
    def free_slots(self) -> int:
        """How many may be lent, given `may_lend`."""
        return int(min(self._run_limits.free_slots, self.endpoints[0].limits.free_slots))

    def lend(self, slots: int, now: float) -> None:
        """Somebody else sends as many requests at a time to the one endpoint. They count as in flight until they come
        back by `give_back`, or with a request by `adopt`.
        """
        (endpoint,) = self.endpoints
        for _ in range(slots):
            self._run_limits.take(NO_TOKENS, now)
            endpoint.limits.take(NO_TOKENS, now)
            endpoint.sent(now)
        self.in_flight += slots

    def give_back(self, slots: int, now: float) -> None:
        """That many lent slots are free again."""
        (endpoint,) = self.endpoints
        for _ in range(slots):
            endpoint.limits.release(NO_TOKENS, NO_TOKENS, now)
            self._run_limits.release(NO_TOKENS, NO_TOKENS, now)
        endpoint.in_flight -= slots
        self.in_flight -= slots

    def adopt(self, request: Request, sent_s: float) -> Endpoint:
        """What was sent on a lent slot at `sent_s` is from now on in flight like any other request; says where to."""
        (endpoint,) = self.endpoints
        request.tokens_paid, request.sent_s, request.lag_s = NO_TOKENS, sent_s, endpoint.lag_s
        self.lanes.hold(request)
        self.lanes.budget.earned += EARNED_PER_SEND
        return endpoint

    def wait_for_slots(self, is_waiting: bool, now: float) -> None:
        """Whether lines wait elsewhere for lent slots, all of which are taken."""
        if is_waiting and self._held_by is None:
            levels = (self._run_limits.concurrency, self.endpoints[0].limits.concurrency)
            self._held_by = next((slots for slots in levels if slots is not None and slots.is_full), None)
            self._held_since = now
        elif not is_waiting and isinstance(self._held_by, Concurrency):
            self._hold(None, self.wake_at, now)

    def wait_for_output(self, now: float) -> None:
        """What waits now does so for the files, not for a limit."""
        if self.lanes and self._held_by is not self._output:
            self._paced_until_s = -math.inf
            self._hold(self._output, self.wake_at, now)

    def sent_on_lent_slots(self, sends: int) -> None:
        """So many were sent: a row of failures among them has to be long to be an outage."""
        self.endpoints[0].outage.sent_elsewhere(sends)

    def answered_on_lent_slots(self, answers: int, sent_s: float, slow: Iterable[tuple[float, float]]) -> None:
        """So many usable answers came, the latest to what was sent at `sent_s`. `slow` are the sends and latencies that
        tell of the endpoint's capacity.
        """
        (endpoint,) = self.endpoints
        endpoint.breaker.answered()
        endpoint.worked(answers, sent_s)
        if endpoint.capacity is not None:
            for slow_sent_s, latency_s in slow:
                endpoint.capacity.answered(slow_sent_s, latency_s, slow_sent_s + latency_s)
        self.lanes.budget.earned += answers * (EARNED_PER_SEND + EARNED_PER_ANSWER)
        if self.lanes.is_outage:
            self.lanes.is_outage = endpoint.outage.is_open

    def disable(self, endpoint: Endpoint, reason: str) -> None:
        """Sends nothing to this endpoint any more."""
        endpoint.disabled = reason
        self._enabled = tuple(e for e in self._enabled if e is not endpoint)

    def waited(self, now: float) -> Mapping[str, float]:
        """Seconds for which the head of the queue waited, by the name of the limit that held it, or for the output."""
        if self._held_by is not None:
            self._hold(self._held_by, self.wake_at, now)
        return {limit.name: limit.waited_s for limit in self._limits()}

    def used(self, sent: int, span_s: float) -> Mapping[str, float]:
        """The share of each set rate that `sent` requests used in the `span_s` seconds from the first to the last.

        There is one interval less than there are sends. A rate that is learned has no share: nobody knows the whole.
        """
        if sent < 2 or span_s <= 0:
            return {}
        in_span = (1 - 1 / sent) / span_s
        rates = chain(self._run_limits.used(), *(endpoint.limits.used() for endpoint in self.endpoints))
        return {rate.name: used * in_span / rate.per_second for rate, used in rates}

    def _pay(self, request: Request, endpoint: Endpoint, tokens: Tokens, now: float) -> None:
        self._run_limits.take(tokens, now)
        endpoint.limits.take(tokens, now)
        if endpoint.is_unused:
            self._await_cold_start(endpoint)
        endpoint.sent(now)
        self.in_flight += 1
        request.tokens_paid = tokens
        request.sent_s = now
        request.lag_s = endpoint.lag_s

    def _await_cold_start(self, endpoint: Endpoint) -> None:
        """Move the endpoint's schedules, and at the first request of all the run's, which may be all there is."""
        endpoint.limits.delay_requests(COLD_START_S)
        if all(other.is_unused for other in self.endpoints):
            self._run_limits.delay_requests(COLD_START_S)

    def _limits(self) -> Iterator[Limit | _Output]:
        return chain(self._run_limits.all(), *(endpoint.limits.all() for endpoint in self.endpoints), (self._output,))

    def _estimate(self, request: Request) -> Tokens:
        if len(self._enabled) == 1:
            return self._enabled[0].estimator.estimate(request)
        return dearest(endpoint.estimator.estimate(request) for endpoint in self._enabled)

    def _find_endpoint(self, request: Request, tokens: Tokens, now: float) -> Endpoint | None:
        if len(self._enabled) == 1:
            (endpoint,) = self._enabled
            return endpoint if endpoint.limits.is_ready(tokens, now) else None
        ready = [endpoint for endpoint in self._enabled if endpoint.limits.is_ready(tokens, now)]
        if not ready:
            return None
        if request.failed_on:
            ready = [endpoint for endpoint in ready if not request.failed_on & endpoint.bit] or ready
        return self._route(ready, request, self._enabled)

    def _wait_for_an_endpoint(self, tokens: Tokens, now: float) -> None:
        waits = [endpoint.limits.last_ready(tokens, now) for endpoint in self._enabled]
        if not waits:
            self._hold(None, math.inf, now)
            return
        self._wait(*min(waits, key=lambda wait: wait[0]), now)

    def _wait(self, at: float, limit: Limit, now: float) -> None:
        """A pace that holds whatever goes next is not asked again before its moment: nothing brings that forward."""
        if isinstance(limit, EvenRate | RequestRate) and len(self._enabled) == 1:
            self._paced_until_s = at
            self._hold(limit, at, now)
        else:
            self._hold(limit, self._until_another_head(at, now), now)

    def _until_another_head(self, at: float, now: float) -> float:
        """`at`, or earlier when a retry comes due that may cost fewer tokens than the request it goes before."""
        due_s = self.lanes.next_due_s(now)
        return due_s if self.counts_tokens and now < due_s < at else at

    def _hold(self, limit: Limit | _Output | None, wake_at: float, now: float) -> None:
        if self._held_by is not None:
            self._held_by.waited_s += now - self._held_since
        self._held_by, self._held_since, self.wake_at = limit, now, wake_at
