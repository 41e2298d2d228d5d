"""Lateness: which lines can no longer make their deadline, from how long answers take."""

from collections.abc import Callable
from math import inf


class Lateness:
    """Deadlines are in wall clock, `now` is monotonic; `expect` tells how far they are apart."""

    __slots__ = ("_answered_after_s", "_average_s", "_usual_max_s", "_wall_clock")

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._answered_after_s = -inf
        self._average_s = 0.0
        self._usual_max_s = 0.0

    def wall_s(self) -> float:
        """Return the wall clock."""
        return self._wall_clock()

    def expect(self, now: float, average_s: float, usual_max_s: float) -> None:
        """Record how long answers take on average, and at most as a rule."""
        self._average_s, self._usual_max_s = average_s, usual_max_s
        self._answered_after_s = self._wall_clock() - now + usual_max_s

    def answered_s(self, now: float) -> float:
        """Return when a line that is sent now will have its answer, in wall clock; minus infinity before `expect`."""
        return now + self._answered_after_s

    def hopeless_before_s(self, now: float) -> float:
        """Return the deadline before which an answer would come too late even if it is no later than the average."""
        return self.answered_s(now) - self._usual_max_s + self._average_s

    def grace_s(self, deadline_s: float) -> float:
        """Return by how much later than others a line counts as late: one that comes with little time has a chance."""
        if deadline_s == inf or deadline_s >= self._wall_clock() + self._usual_max_s:
            return 0.0
        return self._usual_max_s - self._average_s
