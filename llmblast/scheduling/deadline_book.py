"""Deadline book: how many deferred lines have to be answered by when, to know whether they can still wait.

The lines with a deadline up to some moment need their number over the send rate. The first moment for which that is
more than the time left tells that those lines cannot wait any longer (the processor-demand test for earliest deadline
first: Baruah, Rosier and Howell, Real-Time Systems 2, 1990).
"""

from math import frexp, inf
from typing import Final

SAFETY: Final = 1.2
"""The rate may drop a little, and retries take sends, too."""
_PARTS_BITS: Final = 6
"""A deadline is rounded down by at most 1/64 of the time that its line had left when it was added."""
_MIN_BITS: Final = -3
_MAX_BITS: Final = 30


class DeadlineBook:
    """Counts of lines by their deadlines in wall clock, in steps that are longer for what is farther away, so that the
    size is bounded.
    """

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[tuple[int, int], int] = {}
        """By the step's length, as a power of 2 in seconds, and its number."""

    def __len__(self) -> int:
        return sum(self._counts.values())

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, deadline_s: float, wall_s: float) -> None:
        """Count a line that waits."""
        bits = frexp(max(deadline_s - wall_s, 0.0))[1] - _PARTS_BITS
        bits = min(max(bits, _MIN_BITS), _MAX_BITS)
        step = bits, int(deadline_s // 2.0**bits)
        self._counts[step] = self._counts.get(step, 0) + 1

    def discard(self, deadline_s: float) -> None:
        """Stop counting a line: one in a step that holds this deadline."""
        for bits in range(_MIN_BITS, _MAX_BITS + 1):
            step = bits, int(deadline_s // 2.0**bits)
            count = self._counts.get(step, 0)
            if count > 1:
                self._counts[step] = count - 1
                return
            if count:
                del self._counts[step]
                return

    def urgent_before_s(self, answered_s: float, per_second: float) -> float:
        """Return the deadline before which lines have to go now, at that many sends a second; minus infinity where all
        can wait. `answered_s` is when a line that is sent now has its answer; what is later than that is not urgent.
        """
        urgent_s, ahead = -inf, 0
        for begin_s, end_s, count in sorted(self.steps()):
            if end_s > answered_s:
                ahead += count
                if answered_s + ahead / per_second * SAFETY >= begin_s:
                    urgent_s = max(urgent_s, end_s)
        return urgent_s

    def steps(self) -> list[tuple[float, float, int]]:
        """Return the begin and the end of each step, with the number of deadlines between them."""
        return [(number * 2.0**bits, (number + 1) * 2.0**bits, count) for (bits, number), count in self._counts.items()]
