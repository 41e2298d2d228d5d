"""Retry budget: how many failed requests may go again, so that a struggling provider is not buried in repetitions.

Each first send earns a fifth of a retry, each answer a whole one, and ten a second are free. While most sends succeed
it never binds; in a storm in which nothing succeeds, retries stay below 20 % of the traffic and 10 a second.
Sources: "Handling Overload", Site Reliability Engineering (Google, 2016), chapter 21; gRPC proposal A6.
"""

EARNED_PER_SEND = 0.2
EARNED_PER_ANSWER = 1.0
FREE_PER_S = 10.0
MOST_SAVED = 10.0


class RetryBudget:
    """Credit for retries. `earned` is added to by whoever sends and answers: one addition a request is all it costs."""

    __slots__ = ("_counted_s", "_credit", "earned")

    def __init__(self) -> None:
        self.earned = 0.0
        self._credit = MOST_SAVED
        self._counted_s = 0.0

    def ready_at(self, now: float) -> float:
        """When the next retry is paid for, if nothing more is earned."""
        free = (now - self._counted_s) * FREE_PER_S
        self._credit = min(self._credit + self.earned + free, MOST_SAVED)
        self._counted_s, self.earned = now, 0.0
        return now if self._credit >= 1.0 else now + (1.0 - self._credit) / FREE_PER_S

    def take(self) -> None:
        """Pays for one."""
        self._credit -= 1.0
