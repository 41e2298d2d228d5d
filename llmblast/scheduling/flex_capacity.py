"""Flex capacity: whether the flex tier of an endpoint takes requests, by the replies to all lines that ask for it.

Such a tier refuses what it has no capacity for. After some refusals in a row lines wait, and single ones try again, at
intervals that double. Each answer lets two more go, so that a tier with little capacity is not met by a crowd.
"""

from math import inf
from typing import Final

MIN_REFUSALS: Final = 5
"""So many refusals in a row say that there is no capacity: single ones say so of a moment."""
NEAR_S: Final = 120.0
"""So long before its deadline a line does not ask for a flex tier any more."""
FIRST_WAIT_S: Final = 1.0
MAX_WAIT_S: Final = 60.0
ENOUGH: Final = 16
"""With room for so many requests, lines go freely again."""


class FlexCapacity:
    """`ready_at` says when the next line may ask for the tier. Lines that have waited `max_wait_s` go without it."""

    __slots__ = ("_closed_s", "_due_s", "_full_since_s", "_max_wait_s", "_room", "_wait_s", "refusals")

    def __init__(self, max_wait_s: float) -> None:
        self._max_wait_s = max_wait_s
        self.refusals = 0
        """In a row."""
        self._room = inf
        """So many requests may go before the next pause."""
        self._wait_s = FIRST_WAIT_S
        self._due_s = self._closed_s = -inf
        self._full_since_s = inf

    def ready_at(self, now: float) -> float:
        """Return when the next line may ask for the tier."""
        return now if self._room >= 1.0 else self._due_s

    def is_given_up(self, now: float) -> bool:
        """Return whether lines should wait no longer: nothing was answered in all that time."""
        return now - self._full_since_s >= self._max_wait_s

    def on_send(self, now: float) -> None:
        """Count a request that asks for the tier."""
        if self._room == inf:
            return
        self._room = max(self._room, 1.0) - 1.0
        if self._room < 1.0:
            self._due_s = now + self._wait_s

    def on_answer(self) -> None:
        """Record that the tier has answered a line."""
        self.refusals, self._full_since_s = 0, inf
        self._room += 2.0
        self._wait_s = max(self._wait_s / 2.0, FIRST_WAIT_S)
        if self._room >= ENOUGH:
            self._room = inf

    def on_refusal(self, sent_s: float, now: float, jitter: float) -> None:
        """Record that the tier had no capacity for a request that was sent at `sent_s`; `jitter` is from 0 to 1."""
        self.refusals += 1
        self._full_since_s = min(self._full_since_s, now)
        if self.refusals < MIN_REFUSALS or sent_s <= self._closed_s:
            return
        self._room, self._closed_s = 0.0, now
        self._due_s = now + self._wait_s * (0.5 + 0.5 * jitter)
        self._wait_s = min(2.0 * self._wait_s, MAX_WAIT_S)
