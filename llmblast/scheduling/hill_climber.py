"""Hill climber: search the number in flight that serves an endpoint best.

A bracketing search (Kiefer 1953) for the best power (Kleinrock, ICC 1979): throughput, by Little's law in flight /
latency, less a price for each request in flight.
"""

import math

from llmblast.scheduling.latency_sample import LatencySample

PRICE, DOUBT = 0.05, 0.5
"""Twice as many in flight have to bring 3.5 % more throughput, and half of a standard error."""
LINEAR = 0.25
"""Elasticity of latency, d log latency / d log in flight: 1 and more where a server is full, 0 where it scales."""
MIN_SENDS, MAX_SENDS, ERRORS_PER_STEP = 100, 1000, 8.0
MIN_STEP, LOOK_STEP, MAX_STEP = 1.09, 1.41, 2.0
SEARCH_SHARE = 0.01
"""Share of the throughput that searches may cost."""
FIRST_PATIENCE, MAX_PATIENCE, MAX_PATIENCE_BOUND = 0.36, 4.0, 1.0
"""Factors of the pause between searches; the last one is the highest where fewer than the maximum are in flight."""


class HillClimber:
    """A search for the best number in flight up to `max_slots`, by samples of latency at one number after another."""

    def __init__(self, max_slots: int) -> None:
        self.best = self._max_slots = max_slots
        self.level = LatencySample(0, 0)
        """Latencies at the best number."""
        self._floor, self._ceiling, self._step = 0.0, math.inf, MAX_STEP
        self._patience = FIRST_PATIENCE

    @property
    def is_bounded(self) -> bool:
        """Return whether fewer than the maximum serve the endpoint best."""
        return self.best < self._max_slots

    def start_at(self, best: int) -> None:
        """Begin with an estimate of the best number, which the next search follows at once."""
        self.best, self._patience = min(best, self._max_slots), 0.0

    def begin(self) -> int:
        """Forget the bracket of the last search. Return for how many answers to hold the best number before the next
        one, so that it is paid for.
        """
        step = MAX_STEP if self._patience == 0 else MIN_STEP
        self._floor, self._ceiling = 0.0, math.inf
        self._step = self._finest(step if self.is_bounded else LOOK_STEP)
        cost = (1.0 - 1.0 / self._step) * (self.sends() + self.best)
        return int(self._patience * cost / SEARCH_SHARE)

    def record_trial(self, trial: int, sample: LatencySample) -> None:
        """Narrow the bracket by a sample at `trial`, which becomes the best number if it is better."""
        growth, rise, error = sample.compare(self.level)
        best, is_above = self.best, trial > self.best
        if (1.0 - PRICE) * growth - rise > (DOUBT * error if is_above else 0.0):
            self._floor, self._ceiling = (float(best), self._ceiling) if is_above else (self._floor, float(best))
            self.best, self.level, self._step = trial, sample, min(self._step**2, MAX_STEP)
        elif is_above:
            self._ceiling = float(trial)
        else:
            self._floor = float(best if rise + 2 * error > LINEAR * growth else trial)

    def next_trial(self) -> int | None:
        """Return the number farthest from the best one within the bracket; None when the search has ended."""
        best, step = self.best, self._step
        below = round(math.sqrt(best * self._floor) if self._floor else min(best / step, best - 1))
        above = round(math.sqrt(best * self._ceiling) if self._ceiling < math.inf else max(best * step, best + 1))
        above = self._max_slots if above * MIN_STEP > self._max_slots else above
        down, up = max(below, 1) if below > self._floor else best, above if above < self._ceiling else best
        trial = down if best / down >= up / best else up
        step = self._distance(trial)
        if step > 1 and step >= self._finest(MIN_STEP):
            return trial
        longest = MAX_PATIENCE_BOUND if self.is_bounded else MAX_PATIENCE
        self._patience = min(max(4 * self._patience, FIRST_PATIENCE), longest)
        return None

    def sends(self, trial: int | None = None) -> float:
        """Return how many requests it takes to judge the step to `trial`, or the next one."""
        step = self._step if trial is None else self._distance(trial)
        return max(min((ERRORS_PER_STEP * self.level.deviation / math.log(step)) ** 2, MAX_SENDS), MIN_SENDS)

    def _distance(self, trial: int) -> float:
        return max(trial / self.best, self.best / trial)

    def _finest(self, step: float) -> float:
        """Return that step, or the smallest one that latencies so spread out let us judge."""
        return max(step, math.exp(ERRORS_PER_STEP * self.level.deviation / math.sqrt(MAX_SENDS)))
