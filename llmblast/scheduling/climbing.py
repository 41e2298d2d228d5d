"""Climbing: the search for the number in flight with the best throughput, one measured level after the other."""

import math

from llmblast.scheduling.cohorts import Level

DOUBTFUL = 0.25
"""An elasticity, less two standard errors: below it throughput grows as the number does, and nothing between two
levels is better than both.
"""
FIRST_STEP = 2.0
TOLERANCE = 0.03
TOLERANCE_PER_STEP = 0.12
"""Log throughput that is given up for fewer in flight: at most, and of the step in log in flight."""


class Climb:
    """The search for the best number in flight: steps to one side while they are good, then halfway to the bounds.

    `loss` is the log throughput by which the start is known to be short of the best.
    """

    __slots__ = ("_ceiling", "_floor", "_most", "_peak", "_step", "best", "has_moved", "level")

    def __init__(self, best: int, level: Level, step: float, *, upward: bool, most: int, loss: float = 0.0) -> None:
        self.best = best
        self.level = level
        self.has_moved = False
        self._step = step
        self._most = most
        self._floor = float(best) if upward else 0.0
        self._ceiling = math.inf if upward else float(best)
        self._peak = level.log_throughput - level.error + loss
        """What some level has at least: the highest of many that are not quite known is mostly luck."""

    @property
    def loss(self) -> float:
        """Log throughput that was given up for fewer in flight."""
        return self._peak - (self.level.log_throughput - self.level.error)

    def ratio(self, in_flight: int) -> float:
        """The step from the best so far, 1 or more."""
        return max(in_flight / self.best, self.best / in_flight)

    def candidate(self) -> int:
        """The next number to measure, on the side where more is open; the best itself when nothing is."""
        best = self.best
        below = round(math.sqrt(best * self._floor) if self._floor else min(best / self._step, best - 1))
        above = round(math.sqrt(best * self._ceiling) if self._ceiling < math.inf else max(best * self._step, best + 1))
        down = below if below > self._floor else best
        up = min(above, self._most) if above < self._ceiling else best
        return down if self.ratio(down) >= self.ratio(up) else up

    def judge(self, in_flight: int, level: Level) -> None:
        """Goes there or takes it as a bound. Fewer in flight are preferred unless more bring clearly more."""
        if in_flight == self.best:
            self._confirm(level)
            return
        step = math.log(self.ratio(in_flight))
        gain = level.log_throughput - self.level.log_throughput
        tolerance = min(TOLERANCE, TOLERANCE_PER_STEP * step)
        if in_flight > self.best:
            if gain > tolerance:
                self._floor = self.best
                self._go(in_flight, level)
            else:
                self._ceiling = in_flight
        elif level.log_throughput + level.error >= self._peak - tolerance:
            self._ceiling = self.best
            self._go(in_flight, level)
        else:
            doubt = 2 * math.hypot(level.error, self.level.error)
            is_linear = gain + doubt < (DOUBTFUL - 1.0) * step
            self._floor = self.best if is_linear else in_flight
        self._peak = max(self._peak, level.log_throughput - level.error)

    def _confirm(self, level: Level) -> None:
        """The best so far was measured again, and better."""
        if self.loss <= 0.0:
            self._peak = -math.inf
        self.level = level
        self._peak = max(self._peak, level.log_throughput - level.error)

    def _go(self, in_flight: int, level: Level) -> None:
        self.best, self.level, self.has_moved = in_flight, level, True
        self._step = min(self._step**2, FIRST_STEP)
