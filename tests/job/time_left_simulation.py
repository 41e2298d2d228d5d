"""A run against a fake clock, with the real scheduler, the real allowance and the real estimate of the time left."""

import heapq
import math
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Unpack

from llmblast.job.allowance import allowance_of
from llmblast.models import Answer, Attempt, Tokens
from llmblast.scheduling import ANSWERED, Endpoint, Kind, Scheduler, SendOutcome
from llmblast.watching import Allowance, Counters, EndpointCounters
from llmblast.watching.rates import Pace
from tests.scheduling.scheduling_samples import EndpointOptions, Levels, make_attempt, make_scheduler

TICK_S = 0.25
START_S = 1000.0
PROMPT_BYTES = 400
Latency = Callable[[Random], float]
Waits = Callable[[int, float], float | None]
"""Seconds that a rate-limit reply asks to wait, by the sends so far and the time; None: there is an answer."""


class Run:
    """`lines` lines that are all read at once; `latency` and `tokens`, (prompt, answer), are drawn for each request."""

    def __init__(
        self,
        lines: int,
        endpoints: list[EndpointOptions] | None = None,
        *,
        latency: Latency = lambda random: random.uniform(0.2, 0.4),
        tokens: Callable[[Random], tuple[int, int]] = lambda random: (100, random.randint(10, 90)),
        failing: float = 0.0,
        pushes_back: Waits = lambda sends, now: None,
        max_tokens: int | None = None,
        burst_s: float = 0.0,
        skipped: int = 0,
        finished_before: int = 0,
        **levels: Unpack[Levels],
    ) -> None:
        self.now = START_S
        self.scheduler: Scheduler = make_scheduler(endpoints or [{}], burst_s=burst_s, **levels)
        for number in range(lines):
            attempt = make_attempt(number + 1, body=b"x" * PROMPT_BYTES, max_tokens=max_tokens)
            self.scheduler.queue.add(attempt)
        rows = [EndpointCounters(endpoint.name) for endpoint in self.scheduler.endpoints]
        self.counters = Counters(endpoints=rows, lines_read=lines + skipped, skipped=skipped, input_ended=True)
        self.etas: list[tuple[float, float, float | None, str]] = []
        """At each tick: the share of lines that is done, the moment, the ETA, and what holds the run back."""
        self._random = Random(7)
        self._latency, self._tokens = latency, tokens
        self._failing, self._pushes_back = failing, pushes_back
        self._finished_before = finished_before
        self._lines = lines
        self._flights: list[tuple[float, int, Attempt, Endpoint]] = []
        self._order = count()
        self._sends = 0
        self._pace = Pace(self.counters, lambda: self.now, self._allowance)

    def play(self) -> "Run":
        """Go on until all lines are done."""
        next_tick_s = self.now
        while self.scheduler.queue or self._flights:
            self._admit()
            next_s = min(self._flights[0][0] if self._flights else math.inf, self.scheduler.wake_at)
            while next_tick_s < next_s:
                self.now = max(self.now, next_tick_s)
                self._tick()
                # Long waits are looked at less often, or a day would take minutes.
                next_tick_s += max(TICK_S, (next_s - next_tick_s) / 200)
            self.now = max(self.now, next_s)
            while self._flights and self._flights[0][0] <= self.now:
                self._land()
        return self

    def worst_error_at(self, share: float) -> float:
        """How far the ETA was off while that share of lines was done, and 2 % more: as a share of the truth."""
        first = next(tick[0] for tick in self.etas if tick[0] >= share)
        ticks = [tick for tick in self.etas if first <= tick[0] <= first + 0.02]
        truths = [(eta_s, self.now - at) for _, at, eta_s, _ in ticks]
        return max(math.inf if eta_s is None else abs(eta_s - left_s) / left_s for eta_s, left_s in truths)

    def ratios(self, least_left_s: float = 2.0) -> list[float]:
        """All ETAs / the truth, where so much was left."""
        told = [(eta_s, self.now - at) for _, at, eta_s, _ in self.etas if eta_s is not None]
        return [eta_s / left_s for eta_s, left_s in told if left_s >= least_left_s]

    def _allowance(self) -> Allowance:
        return allowance_of(self.scheduler, self.counters, self._finished_before, self.now, lambda: self.now)

    def _tick(self) -> None:
        counters, scheduler = self.counters, self.scheduler
        counters.sent, counters.in_flight = self._sends, scheduler.in_flight
        snapshot = self._pace.snapshot()
        done = (counters.succeeded + counters.failed) / self._lines
        self.etas.append((done, self.now, snapshot.eta_s, snapshot.held_back))

    def _admit(self) -> None:
        while (dispatch := self.scheduler.next(self.now)) is not None:
            self._sends += 1
            reply_s = self.now + self._latency(self._random)
            heapq.heappush(self._flights, (reply_s, next(self._order), *dispatch))

    def _land(self) -> None:
        _, _, attempt, endpoint = heapq.heappop(self._flights)
        now, counters = self.now, self.counters
        wait_s = self._pushes_back(self._sends, now)
        is_failure = self._random.random() < self._failing
        if wait_s is not None or is_failure:
            self.scheduler.release(attempt, endpoint, (0.0, 0.0, 0.0), now)
            if wait_s is not None:
                self.scheduler.on_outcome(attempt, endpoint, SendOutcome(Kind.RATE_LIMITED, wait_s=wait_s), now)
            self.scheduler.queue.add_retry(attempt, now + (wait_s or 0.5))
            return
        prompt, output = self._tokens(self._random)
        counters.succeeded += 1
        mine = counters.endpoints[endpoint.index]
        mine.succeeded += 1
        mine.used.all.add(prompt, 0, output)
        mine.latency.add(now - attempt.sent_s)
        answer = Answer(prompt_tokens=prompt, completion_tokens=output)
        self.scheduler.on_outcome(attempt, endpoint, ANSWERED, now)
        charged: Tokens = endpoint.learned.estimator.count_tokens(attempt, answer)
        self.scheduler.release(attempt, endpoint, charged, now)
        endpoint.learned.learn_tokens(attempt.request, answer, now)
