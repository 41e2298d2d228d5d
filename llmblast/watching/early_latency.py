"""Early latency: the mean latency of requests, most of which have not come back yet.

Early answers are the fast ones, so requests without an answer count, too. Latency is taken for a shifted exponential
distribution, whose mean is estimated by the least latency + the time at risk beyond that / requests that ended
(Lawless, Statistical Models and Methods for Lifetime Data, chapter 4). A request in flight for less than the
least latency is not at risk; so two counts at each moment are enough: requests sent, and requests ended.
"""

from bisect import bisect_right
from collections import deque

MAX_SAMPLES = 4096


class EarlyLatency:
    """Estimate the mean latency from counters of sends and ends, which `observe` gets a few times a second."""

    __slots__ = ("_ended", "_ended_integral", "_now_s", "_sends")

    def __init__(self) -> None:
        self._now_s = 0.0
        self._sends: deque[tuple[float, int, float]] = deque([(0.0, 0, 0.0)], maxlen=MAX_SAMPLES)
        """Time, sends so far, and the integral of these over time."""
        self._ended, self._ended_integral = 0, 0.0

    def observe(self, now_s: float, sent: int, ended: int) -> None:
        """Record the totals at `now_s`. New sends and ends count from the middle of the time since the last call."""
        step_s, self._now_s = now_s - self._now_s, now_s
        _, sent_before, integral = self._sends[-1]
        self._sends.append((now_s, sent, integral + step_s * (sent_before + sent) / 2))
        self._ended_integral += step_s * (self._ended + ended) / 2
        self._ended = ended

    def mean_s(self, least_s: float | None) -> float | None:
        """Return the mean latency; None before the first answer, or if the least one is not known."""
        if not least_s or not self._ended:
            return None
        at_risk_s = self._sends_integral(self._now_s - least_s) - self._ended_integral
        return least_s + max(at_risk_s, 0.0) / self._ended

    def _sends_integral(self, at_s: float) -> float:
        index = max(bisect_right(self._sends, at_s, key=lambda sample: sample[0]) - 1, 0)
        since_s, sends, integral = self._sends[index]
        return integral + sends * max(at_s - since_s, 0.0)
