"""Immediate arrivals: how often immediate lines come, and how many at once, over the last minute."""

from collections import deque
from typing import Final

MEMORY_S: Final = 60.0
BURST_S: Final = 0.1
"""Arrivals within this time are one burst."""


class ImmediateArrivals:
    """Counts in steps of `BURST_S`, which bounds the memory. Steps without an arrival are not kept."""

    __slots__ = ("_counted", "_since_s", "_steps")

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int]] = deque()
        self._counted = -1
        self._since_s = 0.0

    def record(self, added: int, now: float) -> None:
        """Record that `added` lines have come since the start of the run."""
        if self._counted < 0:
            self._counted, self._since_s = added, now
        arrived, self._counted = added - self._counted, added
        steps = self._steps
        while steps and steps[0][0] <= now - MEMORY_S:
            steps.popleft()
        if not arrived:
            return
        if steps and now < steps[-1][0] + BURST_S:
            steps[-1] = (steps[-1][0], steps[-1][1] + arrived)
        else:
            steps.append((now, arrived))

    def per_second(self, now: float) -> float:
        """Return the lines per second in the last minute, or since the start."""
        arrived = sum(count for _, count in self._steps)
        return arrived / min(max(now - self._since_s, 1.0), MEMORY_S)

    @property
    def largest_burst(self) -> int:
        """Return the most lines that came at once in the last minute."""
        return max((count for _, count in self._steps), default=0)
