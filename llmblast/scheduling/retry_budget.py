"""Retry budget: the number of failed requests that may go again, so that a struggling provider is not overloaded.

Each first send earns a fifth of a retry, each answer a whole one, and ten a second are free. While most sends succeed
it never binds; in a storm in which nothing succeeds, retries stay below 20 % of the traffic and 10 a second.
Sources: "Handling Overload", Site Reliability Engineering (Google, 2016), chapter 21; gRPC proposal A6.
"""

from typing import Final

EARNED_PER_SEND: Final = 0.2
EARNED_PER_ANSWER: Final = 1.0
FREE_PER_S: Final = 10.0
MAX_SAVED: Final = 10.0


class RetryBudget:
    """Credit for retries. Each send and each answer adds to `earned`: that addition is the whole cost for a request."""

    __slots__ = ("_counted_s", "_credit", "earned")

    def __init__(self) -> None:
        self.earned = 0.0
        self._credit = MAX_SAVED
        self._counted_s = 0.0

    def ready_at(self, now: float) -> float:
        """Return when the next retry is paid for, if nothing more is earned."""
        free = (now - self._counted_s) * FREE_PER_S
        self._credit = min(self._credit + self.earned + free, MAX_SAVED)
        self._counted_s, self.earned = now, 0.0
        return now if self._credit >= 1.0 else now + (1.0 - self._credit) / FREE_PER_S

    def acquire(self) -> None:
        """Pay for one retry."""
        self._credit -= 1.0
