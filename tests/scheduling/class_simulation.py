"""A run with immediate and deferred lines against a fake clock: lines arrive at their moments, each send is noted."""

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random

from llmblast.models import IMMEDIATE, NO_TOKENS, Attempt, Request, Terms
from llmblast.scheduling import ANSWERED, Endpoint, Scheduler

WALL_S = 1_700_000_000.0
"""The wall clock is ahead of the fake one by so much."""


def line(number: int, terms: Terms = IMMEDIATE, body: bytes = b"", closed_to: int = 0) -> Attempt:
    """A line with these terms."""
    return Attempt(Request(number, f"{number:016x}", b"x", number, body=body, terms=terms, closed_to=closed_to))


def poisson(random: Random, per_second: float, from_s: float, until_s: float) -> list[float]:
    """Moments of arrivals that know nothing of each other."""
    moments, now = [], from_s
    while (now := now + random.expovariate(per_second)) < until_s:
        moments.append(now)
    return moments


@dataclass
class ClassSimulation:
    """Play `arrivals`, (moment, line), ascending. `refill` is called before each admission: it may add lines."""

    scheduler: Scheduler
    arrivals: Sequence[tuple[float, Attempt]] = ()
    refill: Callable[[], None] = lambda: None
    latency: Callable[[], float] = lambda: 0.5
    now: float = 1000.0
    sends: list[tuple[float, Attempt]] = field(default_factory=list)
    answers: dict[int, float] = field(default_factory=dict)
    """Moments of the answers by line number."""
    fails: Callable[[Attempt], bool] = lambda attempt: False
    """Whether a send is answered with an error; the line goes again half a second later."""
    _flights: list[tuple[float, int, Attempt, Endpoint]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=count)
    _arrived: int = 0

    def wall_clock(self) -> float:
        """The moment as a person would name it."""
        return self.now + WALL_S

    def run(self, until_s: float = math.inf) -> None:
        """Go on until nothing is left, or until that moment."""
        flights, arrived = self._flights, self._arrived
        while self.now < until_s:
            while arrived < len(self.arrivals) and self.arrivals[arrived][0] <= self.now:
                self.scheduler.queue.add(self.arrivals[arrived][1])
                arrived += 1
            self.refill()
            while (dispatch := self.scheduler.next(self.now)) is not None:
                attempt, endpoint = dispatch
                self.sends.append((self.now, attempt))
                heapq.heappush(flights, (self.now + self.latency(), next(self._order), attempt, endpoint))
                self.refill()
            next_s = min(
                self.scheduler.wake_at,
                flights[0][0] if flights else math.inf,
                self.arrivals[arrived][0] if arrived < len(self.arrivals) else math.inf,
            )
            self._arrived = arrived
            if next_s == math.inf or next_s > until_s:
                break
            assert next_s >= self.now
            self.now = next_s
            while flights and flights[0][0] <= self.now:
                self._land(*heapq.heappop(flights)[2:])

    def _land(self, attempt: Attempt, endpoint: Endpoint) -> None:
        if self.fails(attempt):
            self.scheduler.release(attempt, endpoint, NO_TOKENS, self.now)
            self.scheduler.queue.add_retry(attempt, self.now + 0.5)
            return
        self.scheduler.on_outcome(attempt, endpoint, ANSWERED, self.now)
        self.scheduler.release(attempt, endpoint, attempt.tokens_paid, self.now)
        self.answers[attempt.request.number] = self.now
