"""Backoff: whether a failed request goes again, and after how long; policy as data, composed of tenacity's strategies.

Full jitter (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015): the wait is uniform between zero
and the exponential bound. tenacity draws from the global generator, so only the bound is from its strategies.
Only failures come here; what follows from rate limits is decided in `scheduling`.
"""

from random import Random

from tenacity import RetryCallState, stop_after_attempt, wait_exponential
from tenacity.stop import stop_base
from tenacity.wait import wait_base

RETRY_BOUND = wait_exponential(multiplier=0.5, max=60)
"""0.5 s, 1 s, 2 s, ... 60 s for the first, second, third attempt that failed."""


class Backoff:
    """The retry policy of a run. `random` is injected."""

    __slots__ = ("_random", "_retry_bound", "_stop")

    def __init__(
        self,
        max_attempts: int,
        random: Random,
        *,
        retry_bound: wait_base = RETRY_BOUND,
    ) -> None:
        self._stop: stop_base = stop_after_attempt(max_attempts)
        self._random = random
        self._retry_bound = retry_bound

    def gives_up(self, attempts: int) -> bool:
        """Whether a request that has failed so often is not sent again."""
        return bool(self._stop(_state(attempts)))

    def retry_wait_s(self, attempts: int, *, was_used: bool = False) -> float:
        """Seconds before the next attempt, after `attempts` failed ones (1 or more).

        What may have been paid for goes again only once or twice: it waits for half of the bound at least, not to spend
        that in the first moments of an outage.
        """
        bound = self._retry_bound(_state(attempts))
        return self._random.uniform(bound / 2 if was_used else 0.0, bound)


def _state(attempts: int) -> RetryCallState:
    state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type] # strategies read the number only
    state.attempt_number = max(attempts, 1)
    return state
