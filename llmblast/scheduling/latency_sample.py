"""Latency sample: the latencies that a number of requests in flight leads to, without the bias of quick answers."""

import math
from dataclasses import dataclass

MIN_ERROR = 0.005
"""Floor of the standard error: latencies from one queue are correlated."""
ANSWERED = 0.95
"""Share of a sample that must be answered: the slowest request of a skewed distribution takes ages."""


@dataclass(slots=True)
class LatencySample:
    """Log latencies of `size` requests sent in a row. A sample of answers in a row would have the quick ones first.

    It ends after `patience` answers at the latest: others may have failed.
    """

    size: float
    patience: float
    sends: int = 0
    answers: int = 0
    load: float = 0.0
    """Mean number of requests in flight."""
    log_latency: float = 0.0
    _squares: float = 0.0
    _from_s: float = math.inf
    _until_s: float = -math.inf

    @property
    def has_begun(self) -> bool:
        """Return whether a request was sent."""
        return self._from_s < math.inf

    @property
    def is_complete(self) -> bool:
        """Return whether nearly all requests are answered."""
        return self.sends >= self.size and self.answers >= ANSWERED * self.sends

    @property
    def deviation(self) -> float:
        """Return the standard deviation of log latency; 0 before the first answer."""
        return math.sqrt(self._squares / max(self.answers, 1))

    def on_send(self, in_flight: float, now: float) -> None:
        """Count a request sent after the first one; all that leave in one moment belong together."""
        if self._from_s == math.inf:
            self._from_s = now
        elif now > self._from_s and (self.sends < self.size or now == self._until_s):
            self._until_s = now
            self.sends += 1
            self.load += (in_flight - self.load) / self.sends

    def on_answer(self, sent_s: float, latency_s: float) -> bool:
        """Record a latency by Welford's method (Technometrics 4(3), 1962); return whether the sample has ended."""
        self.patience -= 1
        if self._from_s < sent_s <= self._until_s:
            self.answers += 1
            log_latency = math.log(latency_s)
            distance = log_latency - self.log_latency
            self.log_latency += distance / self.answers
            self._squares += distance * (log_latency - self.log_latency)
        return self.is_complete or self.patience < 0

    def compare(self, other: "LatencySample") -> tuple[float, float, float]:
        """Return by how much log load and log latency exceed those of `other`, and the standard error of the latter."""
        error = math.hypot(self.deviation / math.sqrt(self.answers), other.deviation / math.sqrt(other.answers))
        return math.log(self.load / other.load), self.log_latency - other.log_latency, error + MIN_ERROR
