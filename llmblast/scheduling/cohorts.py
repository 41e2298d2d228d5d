"""Cohorts: what latency a number of requests in flight leads to, measured on requests sent one after the other."""

import math
from dataclasses import dataclass

ANSWERED_SHARE = 0.95
"""A cohort is measured when so much of it is answered: the last straggler of a skewed distribution takes ages."""
LEAST_ANSWERED_SHARE = 0.8
LONGEST_ROUNDS = 8
"""After so many times its size in answers a cohort is taken as it is, or given up: something else holds sends back."""
LEAST_ERROR = 0.005
"""Nothing is known better than that: requests that waited in one queue tell the same."""
_SHORTEST_S = 1e-6


@dataclass(frozen=True, slots=True)
class Level:
    """What a number in flight leads to. `deviation` is that of log latency, `error` the standard error of its mean."""

    in_flight: float
    log_latency: float
    deviation: float
    error: float

    @property
    def log_throughput(self) -> float:
        """Answers per second, but for a factor that all levels share: the geometric mean of latencies is the lower."""
        return math.log(self.in_flight) - self.log_latency


class Cohort:
    """Latencies of `size` requests sent one after the other while from `low` to `high` were in flight.

    A cohort is what was sent in a stretch of time, followed until it is answered: the first answers to come would be
    the quick ones. What is late counts as late as it is by then. How many were sent is known without counting sends:
    as many as were answered meanwhile, and as many more as the number in flight has grown by.
    """

    __slots__ = (
        "_answers",
        "_count",
        "_high",
        "_load",
        "_low",
        "_since_s",
        "_squares",
        "_start",
        "_sum",
        "_until_s",
        "seen",
        "size",
    )

    def __init__(self, size: int, low: float = 1.0, high: float = math.inf) -> None:
        self.size = size
        self.seen = 0
        """Answers since it was made, to whatever request."""
        self._low = low
        self._high = high
        self._since_s = self._until_s = math.inf
        self._start = self._load = self._sum = self._squares = 0.0
        self._answers = self._count = 0

    def add(self, in_flight: float, sent_s: float, latency_s: float, now: float) -> bool:
        """One answer, which still counts as in flight; True when there is nothing more to wait for."""
        self.seen += 1
        if not self._low <= in_flight <= self._high:
            self._since_s = math.inf
            return self._is_late(in_flight)
        if self._since_s == math.inf:
            self._begin(in_flight, now)
        elif self._since_s <= sent_s < self._until_s:
            log_latency = math.log(latency_s + _SHORTEST_S)
            self._count += 1
            self._sum += log_latency
            self._squares += log_latency * log_latency
        if self._until_s != math.inf:
            return self._count >= ANSWERED_SHARE * self.size or self._is_late(in_flight)
        if self._answers + in_flight - self._start >= self.size:
            self._close(in_flight, now)
            return self._count >= ANSWERED_SHARE * self.size
        self._answers += 1
        self._load += in_flight
        return False

    def level(self, now: float) -> Level | None:
        """What was measured; None when the number in flight did not stay, or too many answers are missing."""
        is_open = math.inf in (self._until_s, self._since_s)
        if is_open or self._count < LEAST_ANSWERED_SHARE * self.size:
            return None
        late = max(self.size - self._count, 0)
        late_log = max(self._sum / self._count, math.log(now - self._until_s + _SHORTEST_S))
        count = self._count + late
        mean = (self._sum + late * late_log) / count
        deviation = math.sqrt(max((self._squares + late * late_log**2) / count - mean**2, 0.0))
        error = math.hypot(deviation / math.sqrt(count), LEAST_ERROR)
        return Level(self._load, mean, deviation, error)

    def _begin(self, in_flight: float, now: float) -> None:
        self.size = max(self.size, int(in_flight))
        self._since_s, self._until_s = now, math.inf
        self._start = in_flight
        self._load = self._sum = self._squares = 0.0
        self._answers = self._count = 0

    def _close(self, in_flight: float, now: float) -> None:
        """What is sent from now on is none of it. The load becomes the mean of all sends: growth made two an answer."""
        self.size = int(self._answers + in_flight - self._start)
        more = max(in_flight - self._start, 0.0)
        self._load = (self._load + more * (self._start + in_flight) / 2) / (self._answers + more)
        self._until_s = now

    def _is_late(self, in_flight: float) -> bool:
        return self.seen > LONGEST_ROUNDS * max(self.size, in_flight)
