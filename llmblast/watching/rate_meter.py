"""Rate meter: measure how fast a total grows, from samples once a tick."""

from collections import deque
from collections.abc import Callable

Clock = Callable[[], float]
"""Monotonic seconds."""

_NOW_WINDOW_S = 5.0
_SAMPLES_PER_WINDOW = 20


class RateMeter:
    """Measure the rate of a growing total over the last `window_s` seconds (or since the last tick, if that is longer),
    and its average since it began to grow. Memory does not depend on the number of samples.
    """

    __slots__ = ("_clock", "_first", "_samples", "_spacing_s", "_window_s")

    def __init__(self, clock: Clock, window_s: float = _NOW_WINDOW_S) -> None:
        self._clock = clock
        self._window_s = window_s
        self._spacing_s = window_s / _SAMPLES_PER_WINDOW
        self._first = (clock(), 0.0)
        self._samples = deque([self._first])

    def feed(self, total: float) -> None:
        """Record the present total."""
        sample = (self._clock(), total)
        if total <= self._first[1]:
            self._first = sample
        samples = self._samples
        if len(samples) > 1 and sample[0] - samples[-2][0] < self._spacing_s:
            samples[-1] = sample
        else:
            samples.append(sample)
        while len(samples) > 2 and samples[1][0] <= sample[0] - self._window_s:
            samples.popleft()

    @property
    def now_per_s(self) -> float:
        """Rate of the last few seconds."""
        return _rate(self._samples[0], self._samples[-1])

    @property
    def average_per_s(self) -> float:
        """Rate since the total began to grow, up to the last tick."""
        return _rate(self._first, self._samples[-1])


def _rate(start: tuple[float, float], end: tuple[float, float]) -> float:
    span_s = end[0] - start[0]
    return (end[1] - start[1]) / span_s if span_s > 0 else 0.0
