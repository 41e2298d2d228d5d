"""Rejections: measure for how long rate-limit replies come without an answer, at an endpoint or for one model there."""

import math


class RejectionStreak:
    """Rate-limit replies since the last answer. `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._began_s = math.inf
        self._last_s = -math.inf

    @property
    def span_s(self) -> float:
        """Return the time from the first rate-limit reply since the last answer to the latest; 0 or less if none."""
        return self._last_s - self._began_s

    def on_answer(self) -> None:
        """End the streak."""
        self._began_s = math.inf

    def on_rejected(self, now: float) -> None:
        """Record a rate-limit reply."""
        self._began_s = min(self._began_s, now)
        self._last_s = now
