"""Backoff: decide whether a failed request is sent again, and after how long, by tenacity's strategies.

Full jitter (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015): the wait is uniform between zero
and the exponential bound. tenacity draws from the global generator, so only the bound is from its strategies. Only
failures come here; `scheduling` decides on rate limits.
"""

from functools import cache
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tenacity.wait import wait_base

MAX_WAIT_S = 60.0


class Backoff:
    """The retry policy of a run. `random` is injected, `retry_bound` is 0.5 s, 1 s, 2 s ... 60 s by default."""

    __slots__ = ("_max_attempts", "_random", "_retry_bound")

    def __init__(self, max_attempts: int, random: Random, *, retry_bound: "wait_base | None" = None) -> None:
        self._max_attempts = max_attempts
        self._random = random
        self._retry_bound = retry_bound

    def gives_up(self, attempts: int) -> bool:
        """Return whether a request is not sent again after this number of failed attempts."""
        return max(attempts, 1) >= self._max_attempts

    def retry_wait_s(self, attempts: int, *, was_used: bool = False) -> float:
        """Return the seconds before the next attempt, after `attempts` failed ones (1 or more).

        A request that may have been billed is sent again only once or twice: it waits for at least half of the bound,
        so that those attempts are not spent in the first moments of an outage.
        """
        bound = _bound_s(self._retry_bound or _default_bound(), attempts)
        return self._random.uniform(bound / 2 if was_used else 0.0, bound)


@cache
def _default_bound() -> "wait_base":
    from tenacity import wait_exponential  # noqa: PLC0415 -- 5 ms that a run without failures does without

    return wait_exponential(multiplier=0.5, max=MAX_WAIT_S)


def _bound_s(strategy: "wait_base", attempts: int) -> float:
    from tenacity import RetryCallState  # noqa: PLC0415 -- see `_default_bound`

    state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type] # strategies read the number only
    state.attempt_number = max(attempts, 1)
    return strategy(state)
