"""Rejections: how long rate-limit replies have come without one answer, at an endpoint or for one model there."""

import math


class RejectionStreak:
    """Rate-limit replies since the last answer. `now` is monotonic seconds."""

    __slots__ = ("_began_s", "_last_s")

    def __init__(self) -> None:
        self._began_s = math.inf
        self._last_s = -math.inf

    @property
    def span_s(self) -> float:
        """The time from the first rate-limit reply since the last answer to the latest one; 0 or less where there is
        none.
        """
        return self._last_s - self._began_s

    def on_answer(self) -> None:
        """End the streak."""
        self._began_s = math.inf

    def on_rejected(self, now: float) -> None:
        """Note one more rate-limit reply."""
        self._began_s = min(self._began_s, now)
        self._last_s = now
