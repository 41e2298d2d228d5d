"""Scheduler: the next request that may go, and where to; it pays every limit in the same breath.

All of it is synchronous: between the check of the limits and their payment nothing else can run. The cost of one
decision depends on the number of endpoints, never on how many requests wait or are in flight. Who asks sleeps
until `wake_at`, or until a slot, a settlement or new work changes the answer.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from itertools import chain

from llmblast.fence import Fence
from llmblast.records import NO_TOKENS, RateLimitInfo, Request, Tokens
from llmblast.scheduling.endpoints import Endpoint
from llmblast.scheduling.even_rate import EvenRate
from llmblast.scheduling.lanes import Lanes
from llmblast.scheduling.limit_set import LimitSet
from llmblast.scheduling.limits import Limit
from llmblast.scheduling.request_rate import RequestRate
from llmblast.scheduling.retry_budget import EARNED_PER_ANSWER
from llmblast.scheduling.routes import Route
from llmblast.scheduling.tokens import dearest

RECALLED_S = 0.05
"""How long rejected lines wait where a free slot is all that they need."""
PARKED_S = 0.02
MAX_PARKED_S = 1.0
"""How long a line waits aside, at least and at most, while others go that its endpoints do not hold back."""
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

    def __init__(
        self, run_limits: LimitSet, endpoints: Sequence[Endpoint], route: Route, fence: Fence | None = None
    ) -> None:
        self._fence = fence or Fence()
        self.lanes = Lanes()
        self.endpoints = tuple(endpoints)
        self.wake_at = math.inf
        """When the answer None may change by time alone; infinity: only an event changes it."""
        self.in_flight = 0
        self.unsendable: list[Request] = []
        self._run_limits = run_limits
        self._route = route
        self._enabled = self.endpoints
        self._slots = run_limits.concurrency
        self._output = _Output()
        self._held_by: Limit | _Output | None = None
        self._held_since = 0.0
        self._paced_until_s = -math.inf
        self._has_trouble = False
        self.counts_tokens = any(limits.counts_tokens for limits in (run_limits, *(e.limits for e in endpoints)))

    @property
    def run_limits(self) -> LimitSet:
        """The limits over all endpoints."""
        return self._run_limits

    @property
    def enabled(self) -> Sequence[Endpoint]:
        """Those that are not disabled."""
        return self._enabled

    @property
    def is_exhausted(self) -> bool:
        """Every endpoint is disabled: nothing can be sent any more."""
        return not self._enabled

    def next(self, now: float) -> tuple[Request, Endpoint] | None:
        """The request whose turn it is and its endpoint, with all limits paid; None when nothing may go at `now`.

        Requests that no endpoint takes in this run any more are put into `unsendable`.
        """
        if now < self._paced_until_s:
            return None
        if self._has_trouble:
            self._look_at_trouble()
        while True:
            request = self.lanes.peek(now)
            if request is None:
                self._hold(None, self.lanes.next_due_s(now), now)
                return None
            tokens = self._estimate(request) if self.counts_tokens else NO_TOKENS
            if not self._run_limits.is_ready(tokens, now):
                self._wait(*self._run_limits.last_ready(tokens, now), now)
                return None
            endpoint = self._find_endpoint(request, tokens, now)
            if endpoint is not None:
                break
            if request.refused_by or request.closed_to or request.model is not None:
                if all(endpoint.blocked for endpoint in self.usable_for(request)):
                    self.unsendable.append(self.lanes.pop(now))
                    continue
                if self._park(request, tokens, now):
                    continue
            self._wait_for_an_endpoint(request, tokens, now)
            return None
        if self._held_by is not None:
            self._hold(None, now, now)
        self.lanes.pop(now)
        self._pay(request, endpoint, tokens, now)
        if self._slots is not None and self._slots.is_full and self.lanes:
            self._held_by, self._held_since = self._slots, now  # at full load nobody asks before a slot is free again
        return request, endpoint

    def can_go(self, request: Request) -> bool:
        """Whether some endpoint has not refused the request and takes its model."""
        return bool(self.usable_for(request))

    def hedge(self, request: Request, endpoint: Endpoint, now: float) -> tuple[Request, Endpoint] | None:
        """A twin of a request that is in flight at `endpoint`, and another endpoint that can take it at this moment,
        with all limits paid; None when there is none that has not failed it.
        """
        tokens = self._estimate(request) if self.counts_tokens else NO_TOKENS
        if not self._run_limits.is_ready(tokens, now):
            return None
        tried = request.failed_on | endpoint.bit
        usable = [other for other in self.usable_for(request) if not tried & other.bit]
        ready = [other for other in usable if self._is_ready(other, request, tokens, now)]
        if not ready:
            return None
        twin, other = copy(request), self._route(ready, request, self._enabled)
        twin.resent = False
        self._pay(twin, other, tokens, now)
        return twin, other

    def release(self, request: Request, endpoint: Endpoint, tokens_real: Tokens, now: float) -> None:
        """The send has ended: frees its slots and charges the tokens that it really used."""
        self.in_flight -= 1
        endpoint.released(request, now)
        endpoint.limits.release(request.tokens_paid, tokens_real, now)
        self._run_limits.release(request.tokens_paid, tokens_real, now)

    def abandon(self) -> int:
        """Nothing of what is in flight comes back; returns how many those are."""
        abandoned, self.in_flight = self.in_flight, 0
        for endpoint in self.endpoints:
            endpoint.in_flight = 0
        return abandoned

    def on_answer(self, request: Request, endpoint: Endpoint, latency_s: float, now: float) -> bool:
        """Note a usable answer: the request has come to its end. Return what `Endpoint.on_answer` does."""
        clears = endpoint.on_answer(request, latency_s, now)
        self.lanes.held_bytes -= request.size_bytes
        self.lanes.budget.earned += EARNED_PER_ANSWER
        if self.lanes.is_outage:
            self.lanes.is_outage = endpoint.outage.is_open
        return clears

    def on_push_back(self, request: Request, endpoint: Endpoint, wait_s: float | None, now: float) -> bool:
        """Note a rate-limit reply; see `Endpoint.on_push_back`."""
        self._has_trouble = True
        is_explained = endpoint.on_push_back(request, wait_s, now)
        if is_explained:
            self.lanes.recall_all(now + RECALLED_S)
        return is_explained

    def on_refusal(self, request: Request, endpoint: Endpoint, signature: str, now: float, *, is_blamed: bool) -> None:
        """Note that a line was refused for good; see `Endpoint.on_refusal`."""
        self._has_trouble = True
        endpoint.on_refusal(request, signature, now, is_blamed=is_blamed)

    def failed(self, request: Request, endpoint: Endpoint, now: float, *, is_first: bool) -> None:
        """A send failed in a way that another may not; see `Endpoint.failed`."""
        endpoint.failed(request.sent_s, now, is_first=is_first)
        self.lanes.is_outage = all(other.outage.is_open for other in self._enabled)

    def gave_up(self, request: Request) -> None:
        """The request has come to its end without an answer."""
        self.lanes.held_bytes -= request.size_bytes

    def on_rate_limit_headers(
        self, request: Request, endpoint: Endpoint, infos: Sequence[RateLimitInfo], now: float
    ) -> None:
        """Follow the rate-limit headers of the reply to `request`."""
        endpoint.on_rate_limit_headers(infos, request.sent_s, now)
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

    def leave(self, endpoint: Endpoint, now: float, *, is_fresh: bool = False) -> None:
        """Record the departure of a request that was admitted, on a connection that was opened for it if `is_fresh`."""
        self._run_limits.leave(now, is_fresh=is_fresh)
        endpoint.limits.leave(now, is_fresh=is_fresh)

    def wait_for_output(self, now: float) -> None:
        """What waits now does so for the files, not for a limit."""
        if self.lanes and self._held_by is not self._output:
            self._paced_until_s = -math.inf
            self._hold(self._output, self.wake_at, now)

    def disable(self, endpoint: Endpoint, reason: str) -> None:
        """Sends nothing to this endpoint any more."""
        endpoint.disabled = reason
        self._enabled = tuple(e for e in self._enabled if e is not endpoint)

    def waited(self, now: float) -> Mapping[str, float]:
        """Seconds for which the head of the queue waited, by the name of the limit that held it, or for the output."""
        self.count_wait(now)
        return {limit.name: limit.waited_s for limit in self._limits()}

    def count_wait(self, now: float) -> None:
        """Add the present wait, so far, to what its limit held back."""
        if self._held_by is not None:
            self._hold(self._held_by, self.wake_at, now)

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
        self._run_limits.acquire(tokens, now)
        endpoint.limits.acquire(tokens, now)
        if not endpoint.sends:
            self._await_cold_start(endpoint)
        endpoint.sent(request, now)
        self.in_flight += 1
        request.tokens_paid = tokens
        request.sent_s = now
        request.lag_s = endpoint.lag_s

    def _await_cold_start(self, endpoint: Endpoint) -> None:
        """Move the endpoint's schedules, and at the first request of all the run's, which may be all there is."""
        endpoint.limits.delay_requests(COLD_START_S)
        if all(not other.sends for other in self.endpoints):
            self._run_limits.delay_requests(COLD_START_S)

    def _limits(self) -> Iterator[Limit | _Output]:
        return chain(self._run_limits.all(), *(endpoint.limits.all() for endpoint in self.endpoints), (self._output,))

    def _estimate(self, request: Request) -> Tokens:
        if len(self._enabled) == 1:
            return self._enabled[0].estimator.estimate(request)
        return dearest(endpoint.estimator.estimate(request) for endpoint in self._enabled)

    def usable_for(self, request: Request) -> Sequence[Endpoint]:
        """Return the endpoints that speak the request's API, have not refused it and take its model."""
        usable = self._enabled
        if barred := request.refused_by | request.closed_to:
            usable = tuple(endpoint for endpoint in usable if not barred & endpoint.bit)
        if request.model is not None:
            usable = tuple(endpoint for endpoint in usable if not endpoint.has_lost(request.model))
        return usable

    def _is_ready(self, endpoint: Endpoint, request: Request, tokens: Tokens, now: float) -> bool:
        if request.model is not None and endpoint.model_ready_at(request.model, now) > now:
            return False
        return endpoint.limits.is_ready(tokens, now)

    def _find_endpoint(self, request: Request, tokens: Tokens, now: float) -> Endpoint | None:
        is_plain = not (request.refused_by or request.closed_to) and request.model is None
        usable = self._enabled if is_plain else self.usable_for(request)
        if len(usable) == 1:
            (endpoint,) = usable
            return endpoint if self._is_ready(endpoint, request, tokens, now) else None
        ready = [endpoint for endpoint in usable if self._is_ready(endpoint, request, tokens, now)]
        if not ready:
            return None
        if request.failed_on:
            ready = [endpoint for endpoint in ready if not request.failed_on & endpoint.bit] or ready
        return self._route(ready, request, self._enabled)

    def _park(self, request: Request, tokens: Tokens, now: float) -> bool:
        """Put a line aside that waits for its model, or for the endpoints that have not refused it, where others may go
        at this moment. Return whether that was so.
        """
        if not any(endpoint.limits.is_ready(tokens, now) for endpoint in self._enabled):
            return False
        moments = (
            max(endpoint.limits.last_ready(tokens, now)[0], endpoint.model_ready_at(request.model, now))
            for endpoint in self.usable_for(request)
        )
        due_s = min(moments, default=now)
        self.lanes.park(min(max(due_s, now + PARKED_S), now + MAX_PARKED_S), now)
        return True

    def _look_at_trouble(self) -> None:
        held = [endpoint.is_held for endpoint in self._enabled]
        self._has_trouble = any(held)
        self.lanes.is_probing = bool(held) and all(held)

    def _wait_for_an_endpoint(self, request: Request, tokens: Tokens, now: float) -> None:
        waits = [endpoint.limits.last_ready(tokens, now) for endpoint in self.usable_for(request)]
        if not waits:
            self._hold(None, math.inf, now)
            return
        at, limit = min(waits, key=lambda wait: wait[0])
        if at <= now:  # the line's own model is held back
            at = min(endpoint.model_ready_at(request.model, now) for endpoint in self.usable_for(request))
            at = min(at, now + MAX_PARKED_S)
        self._wait(at, limit, now)

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
