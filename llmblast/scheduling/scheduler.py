"""Scheduler: the next request that may go, and where to; it pays every limit in the same breath.

All of it is synchronous: between the check of the limits and their payment nothing else can run. The cost of one
decision depends on the number of endpoints, never on how many requests wait or are in flight. The caller sleeps
until `wake_at`, or until a slot, a settlement or new work changes the answer.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain

from llmblast.fence import Fence
from llmblast.models import NO_TOKENS, Attempt, RateLimitInfo, Request, Tokens
from llmblast.scheduling.affinity import choose_for, record_send
from llmblast.scheduling.counted_requests import count_requests
from llmblast.scheduling.deferral import Deferral
from llmblast.scheduling.endpoint_pool import EndpointPool
from llmblast.scheduling.endpoints import Endpoint
from llmblast.scheduling.even_rate import EvenRate
from llmblast.scheduling.head_wait import HeadWait, Holder
from llmblast.scheduling.limit_set import LimitSet
from llmblast.scheduling.limits import Limit
from llmblast.scheduling.outcomes import ANSWERED, Finding, Kind, SendOutcome
from llmblast.scheduling.request_queue import DEFAULT_FLOOR, NO_SHARES, RequestQueue
from llmblast.scheduling.request_rate import RequestRate
from llmblast.scheduling.retry_budget import EARNED_PER_ANSWER
from llmblast.scheduling.routes import Route
from llmblast.scheduling.setting_aside import MAX_PARKED_S, SettingAside
from llmblast.scheduling.slot_reserve import SlotReserve
from llmblast.scheduling.tokens import max_tokens_of

RECALLED_S = 0.05
"""How long rejected lines wait where a free slot is all that they need."""
COLD_START_S = 0.02
"""Time by which the schedule moves after the first request to an endpoint. A server that has just started takes its
first request 5 to 8 ms later than the next ones (measured with uvicorn; more where the machine is busy), which would
come too close to it.
"""


class Scheduler:
    """Takes requests from the queue, returns (attempt, endpoint). `now` is always monotonic seconds.

    `shares` are the weights of tenants; `deferred_floor` is the share of all sends that deferred lines get at least.
    `reserve` are the slots that these leave to immediate ones: a share below 1, or a number; None learns it.
    """

    def __init__(
        self,
        run_limits: LimitSet,
        endpoints: Sequence[Endpoint],
        route: Route,
        *,
        shares: Mapping[str, float] = NO_SHARES,
        deferred_floor: float = DEFAULT_FLOOR,
        reserve: float | None = None,
        wall_clock: Callable[[], float] = time.time,
        fence: Fence | None = None,
    ) -> None:
        self.queue = RequestQueue(shares, deferred_floor, wall_clock)
        self.pool = EndpointPool(endpoints)
        self.endpoints = self.pool.all
        self.run_limits = run_limits
        """The limits over all endpoints."""
        self.wake_at = math.inf
        """When the answer None may change by time alone; infinity: only an event changes it."""
        self.in_flight = 0
        self.unsendable: deque[Attempt] = deque()
        """Requests that no endpoint accepts in this run any more; the caller takes them."""
        self._aside = SettingAside(self.queue, self.pool, self.unsendable)
        self.counts_tokens = any(limits.counts_tokens for limits in (run_limits, *(e.limits for e in endpoints)))
        self._route = route
        self._slots = run_limits.concurrency
        self._wait = HeadWait()
        self._has_trouble = False
        self._deferral = Deferral(self.queue, run_limits, SlotReserve(reserve), fence or Fence())

    def __repr__(self) -> str:
        return f"Scheduler({len(self.queue)} queued, {self.in_flight} in flight, {self._wait})"

    def next(self, now: float) -> tuple[Attempt, Endpoint] | None:
        """Return the request whose turn it is and its endpoint, with all limits paid; None where nothing may go at
        `now`.
        """
        if now < self._wait.paced_until_s:
            return None
        if self._has_trouble or not self.queue.is_plain:
            self._look(now)
        while True:
            attempt = self.queue.peek(now)
            if attempt is None:
                self._hold(None, self.queue.next_due_s(now), now)
                return None
            tokens = self._estimate(attempt.request) if self.counts_tokens else NO_TOKENS
            if not self.run_limits.is_ready(tokens, now):
                self._wait_for(*self.run_limits.last_ready(tokens, now), now)
                return None
            if not self.queue.is_plain and self._waits_for_spare_slot(attempt, now):
                return None
            endpoint = self._find_endpoint(attempt, tokens, now)
            if endpoint is None:
                if self._aside.take_out(attempt, tokens, now):
                    continue
                self._wait_for_an_endpoint(attempt, tokens, now)
                return None
            if attempt.prefix is None or not self._aside.await_cache(attempt, attempt.prefix, endpoint, now):
                break
        if self._wait.holder is not None:
            self._hold(None, now, now)
        self.queue.pop(now, tokens[0] if self.counts_tokens else 1.0)
        self._pay(attempt, endpoint, tokens, now)
        if self._slots is not None and self._slots.is_full and self.queue:
            self._wait.hold(self._slots, now)  # at full load nothing asks before a slot is free again
        return attempt, endpoint

    def hedge(self, attempt: Attempt, endpoint: Endpoint, now: float) -> tuple[Attempt, Endpoint] | None:
        """Return a second attempt at a request that is in flight at `endpoint`, and another endpoint that can take it
        at this moment, with all limits paid; None where there is none that has not failed it.
        """
        tokens = self._estimate(attempt.request) if self.counts_tokens else NO_TOKENS
        if not self.run_limits.is_ready(tokens, now):
            return None
        tried = attempt.failed_on | endpoint.bit
        usable = [other for other in self.pool.usable_for(attempt) if not tried & other.bit]
        if attempt.request.terms.is_deferred:
            usable = list(self._spare(usable))
        ready = [other for other in usable if _is_ready(other, attempt, tokens, now)]
        if not ready:
            return None
        hedge, other = attempt.hedge(), self._route(ready, attempt.request, self.pool.enabled)
        self._pay(hedge, other, tokens, now)
        return hedge, other

    def release(self, attempt: Attempt, endpoint: Endpoint, tokens_real: Tokens, now: float) -> None:
        """Free the slots of a send that has ended, and charge the tokens that it really used."""
        self.in_flight -= 1
        endpoint.record_return(attempt, now)
        endpoint.limits.release(attempt.tokens_paid, tokens_real, now)
        self.run_limits.release(attempt.tokens_paid, tokens_real, now)
        if self.queue.parked.endpoints:
            self.queue.recall_parked(endpoint.bit, now)

    def abandon(self) -> int:
        """Forget all requests in flight: no reply comes any more. Return their number."""
        abandoned, self.in_flight = self.in_flight, 0
        for endpoint in self.endpoints:
            endpoint.traffic.in_flight = 0
        return abandoned

    def on_outcome(self, attempt: Attempt, endpoint: Endpoint, outcome: SendOutcome, now: float) -> Finding | None:
        """Record how a send ended; see `Endpoint.on_outcome`."""
        finding = endpoint.on_outcome(attempt, outcome, now)
        if outcome is ANSWERED:
            if not self.queue.is_plain:
                self._deferral.answer_time.record(now - attempt.sent_s, attempt.in_flight)
            self.queue.held_bytes -= attempt.size_bytes
            self.queue.budget.earned += EARNED_PER_ANSWER
            if self.queue.is_outage:
                self.queue.is_outage = endpoint.health.outage.is_open
            return finding
        if outcome.kind is Kind.FAILED:
            self.queue.is_outage = all(other.health.outage.is_open for other in self.pool.enabled)
        elif outcome.kind in (Kind.RATE_LIMITED, Kind.REFUSED):
            self._has_trouble = True
            if outcome.kind is Kind.RATE_LIMITED and endpoint.traffic.count.on_rejected(attempt.sent_s):
                self._count_requests(endpoint)
        if finding is Finding.TOO_MANY_IN_FLIGHT:
            self.queue.recall_all(now + RECALLED_S)
        return finding

    def record_end(self, attempt: Attempt) -> None:
        """Record that a line has come to its end: its memory is free."""
        self.queue.held_bytes -= attempt.size_bytes

    def on_rate_limit_headers(
        self, attempt: Attempt, endpoint: Endpoint, infos: Sequence[RateLimitInfo], now: float
    ) -> None:
        """Follow the rate-limit headers of the reply to `attempt`."""
        endpoint.learned.on_rate_limit_headers(infos, attempt.sent_s, now)
        is_even = endpoint.limits.is_even or self.run_limits.is_even
        if is_even and endpoint.traffic.count.learn(infos, attempt.sent_s):
            self._count_requests(endpoint)
        self.counts_tokens = self.counts_tokens or endpoint.limits.counts_tokens

    def on_delayed_send(self, attempt: Attempt, endpoint: Endpoint, left_s: float, *, is_fresh: bool = True) -> None:
        """Record that a request left at `left_s` only. Where a connection had to be opened for it, those behind it on
        kept connections would come too close, so the schedule moves as a whole.
        """
        behind_s = endpoint.delay.add(attempt.sent_s, attempt.schedule_delay_s, left_s) if is_fresh else 0.0
        endpoint.limits.record_late_departure(attempt.sent_s, left_s, behind_s)
        self.run_limits.record_late_departure(attempt.sent_s, left_s, behind_s)
        self._wait.paced_until_s = -math.inf

    @property
    def is_even(self) -> bool:
        """There is a rate at which requests leave evenly, so that a wake-up has to be precise."""
        return any(limits.is_even for limits in (self.run_limits, *(e.limits for e in self.endpoints)))

    def leaves_at(self, endpoint: Endpoint) -> float:
        """Return the moment from which a request that was admitted may leave."""
        return max(self.run_limits.leaves_at, endpoint.limits.leaves_at)

    def leave(self, endpoint: Endpoint, now: float, *, is_fresh: bool = False) -> None:
        """Record the departure of a request that was admitted, on a connection that was opened for it if `is_fresh`."""
        self.run_limits.record_departure(now, is_fresh=is_fresh)
        endpoint.limits.record_departure(now, is_fresh=is_fresh)

    def correct_departure(self, endpoint: Endpoint, now: float, *, is_fresh: bool = False) -> None:
        """Record that the request that left last was written at `now` only."""
        self.run_limits.correct_departure(now, is_fresh=is_fresh)
        endpoint.limits.correct_departure(now, is_fresh=is_fresh)

    def wait_for_output(self, now: float) -> None:
        """Count the present wait for the output files, not for a limit."""
        if self.queue and self._wait.holder is not self._wait.output:
            self._wait.paced_until_s = -math.inf
            self._wait.hold(self._wait.output, now)

    def end_immediate(self) -> None:
        """Keep no slots for immediate lines any more: all of them were read."""
        self._deferral.expects_immediate = False

    def waited(self, now: float) -> Mapping[str, float]:
        """Return the seconds for which the head of the queue waited, by the name of the limit that held it, or of the
        output.
        """
        self.count_wait(now)
        return {holder.name: holder.waited_s for holder in self._holders()}

    def count_wait(self, now: float) -> None:
        """Add the present wait, so far, to its limit."""
        if self._wait.holder is not None:
            self._wait.hold(self._wait.holder, now)

    def used(self, sent: int, span_s: float) -> Mapping[str, float]:
        """Return the share of each set rate that `sent` requests used in the `span_s` seconds from first to last.

        There is one interval less than there are sends. A rate that is learned has no share: the whole is not known.
        """
        if sent < 2 or span_s <= 0:
            return {}
        in_span = (1 - 1 / sent) / span_s
        rates = chain(self.run_limits.used(), *(endpoint.limits.used() for endpoint in self.endpoints))
        return {rate.name: used * in_span / rate.per_second for rate, used in rates}

    def _pay(self, attempt: Attempt, endpoint: Endpoint, tokens: Tokens, now: float) -> None:
        self.run_limits.acquire(tokens, now)
        endpoint.limits.acquire(tokens, now)
        if not endpoint.traffic.sends:
            self._await_cold_start(endpoint)
        endpoint.record_send(attempt, now)
        if attempt.flex_at and attempt.flex_at & endpoint.bit and endpoint.flex is not None:
            endpoint.flex.on_send(now)
        if attempt.prefix is not None:
            record_send(attempt.prefix, endpoint, now)
        self.in_flight += 1
        attempt.tokens_paid = tokens
        attempt.sent_s = now
        attempt.schedule_delay_s = endpoint.delay.total_s

    def _count_requests(self, endpoint: Endpoint) -> None:
        """Follow what has become known of how an endpoint counts requests."""
        count_requests(endpoint.limits, [endpoint.traffic.count])
        count_requests(self.run_limits, [other.traffic.count for other in self.endpoints])

    def _await_cold_start(self, endpoint: Endpoint) -> None:
        """Move the endpoint's schedules, and at the first request of all the run's, which may be all there is."""
        endpoint.limits.delay_requests(COLD_START_S)
        if all(not other.traffic.sends for other in self.endpoints):
            self.run_limits.delay_requests(COLD_START_S)

    def _holders(self) -> Iterator[Holder]:
        limits = (self.run_limits, *(endpoint.limits for endpoint in self.endpoints))
        return chain(*(each.all() for each in limits), (self._wait.output,))

    def _estimate(self, request: Request) -> Tokens:
        if len(self.pool.enabled) == 1:
            return self.pool.enabled[0].learned.estimator.estimate(request)
        return max_tokens_of(endpoint.learned.estimator.estimate(request) for endpoint in self.pool.enabled)

    def _find_endpoint(self, attempt: Attempt, tokens: Tokens, now: float) -> Endpoint | None:
        request = attempt.request
        is_plain = not (attempt.refused_by or request.closed_to) and request.model is None
        usable = self.pool.enabled if is_plain and self.queue.is_plain else self._candidates(attempt)
        if len(usable) == 1:
            (endpoint,) = usable
            return endpoint if _is_ready(endpoint, attempt, tokens, now) else None
        ready = [endpoint for endpoint in usable if _is_ready(endpoint, attempt, tokens, now)]
        if not ready:
            return None
        if attempt.failed_on:
            ready = [endpoint for endpoint in ready if not attempt.failed_on & endpoint.bit] or ready
        if attempt.prefix is not None:
            return choose_for(attempt.prefix, request, ready, self.pool.enabled, self._route)
        return self._route(ready, attempt.request, self.pool.enabled)

    def _candidates(self, attempt: Attempt) -> Sequence[Endpoint]:
        """Return the endpoints that may take the head of the queue, which leaves room to others if it can wait."""
        usable = self.pool.usable_for(attempt)
        return self._spare(usable) if self.queue.is_spare else usable

    def _spare(self, usable: Sequence[Endpoint]) -> Sequence[Endpoint]:
        """Return the endpoints of which a deferred line leaves nothing less to immediate ones: neither a reserve of
        slots nor the room that a parked line waits for.
        """
        if claimed := self.queue.parked.claimed:
            usable = [endpoint for endpoint in usable if not claimed & endpoint.bit]
        return self._deferral.spare_endpoints(usable)

    def _waits_for_spare_slot(self, attempt: Attempt, now: float) -> bool:
        """Return whether a deferred line has to wait until more slots are free than the reserve. An immediate one that
        arrives meanwhile is the head at once.
        """
        if not (self.queue.is_spare and self._deferral.keeps_slots):
            return False
        usable = self.pool.usable_for(attempt)
        if not usable or self._deferral.spare_endpoints(usable):
            return False
        due_s = self.queue.next_due_s(now)
        wake_at = self._deferral.next_look_s
        self._hold(self._slots or usable[0].limits.concurrency, min(wake_at, due_s) if due_s > now else wake_at, now)
        return True

    def _look(self, now: float) -> None:
        """Bring up to date what the order in the queue depends on."""
        if not self.queue.is_plain and now >= self._deferral.next_look_s:
            self._deferral.look(self.pool.enabled, now)
        if self._has_trouble:
            self._look_at_trouble()

    def _look_at_trouble(self) -> None:
        held = [endpoint.is_held for endpoint in self.pool.enabled]
        self._has_trouble = any(held)
        self.queue.is_probing = bool(held) and all(held)

    def _wait_for_an_endpoint(self, attempt: Attempt, tokens: Tokens, now: float) -> None:
        usable = self._candidates(attempt)
        waits = [endpoint.limits.last_ready(tokens, now) for endpoint in usable]
        if not waits:
            due_s = self.queue.next_due_s(now)
            self._hold(None, due_s if due_s > now else math.inf, now)
            return
        at, limit = min(waits, key=lambda wait: wait[0])
        if at <= now:  # the line's own model is held back
            at = min(endpoint.model_ready_at(attempt.request.model, now) for endpoint in usable)
            at = min(at, now + MAX_PARKED_S)
        self._wait_for(at, limit, now)

    def _wait_for(self, at: float, limit: Limit, now: float) -> None:
        """Wait for a limit. Do not ask a pace that holds back every request before its moment: no event brings that
        forward.
        """
        if isinstance(limit, EvenRate | RequestRate) and len(self.pool.enabled) == 1 and not self.pool.reserve:
            self._wait.paced_until_s = at
            self._hold(limit, at, now)
        else:
            self._hold(limit, self._until_another_head(at, now), now)

    def _until_another_head(self, at: float, now: float) -> float:
        """Return `at`, or an earlier moment at which a retry comes due that may cost fewer tokens than the request that
        it goes before.
        """
        due_s = self.queue.next_due_s(now)
        return due_s if self.counts_tokens and now < due_s < at else at

    def _hold(self, holder: Holder | None, wake_at: float, now: float) -> None:
        self._wait.hold(holder, now)
        self.wake_at = wake_at


def _is_ready(endpoint: Endpoint, attempt: Attempt, tokens: Tokens, now: float) -> bool:
    model = attempt.request.model
    if model is not None and endpoint.model_ready_at(model, now) > now:
        return False
    if attempt.flex_at and endpoint.flex_ready_at(attempt, now) > now:
        return False
    return endpoint.limits.is_ready(tokens, now)
