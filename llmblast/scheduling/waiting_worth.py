"""Waiting worth: whether lines should wait for a warm prefix, by what they share, and by what answers say of caches."""

from collections.abc import Callable
from math import inf
from typing import Final

MIN_SHARED_BYTES: Final = 500_000
"""What held lines share, in all, for slots to stay free: about 125,000 tokens. For these, caches save some cents."""
GRACE_S: Final = 0.05
"""More lines may come within this time: files are read in parts."""
MIN_ANSWERS: Final = 50
"""Where so many answers to lines with a warm prefix have no cached tokens, there is no cache."""


class WaitingWorth:
    """`cached_tokens` returns how many tokens the providers had in their caches so far. Where a person has named the
    groups, waiting is always worthwhile.
    """

    __slots__ = (
        "_cached_tokens",
        "_idle_since_s",
        "_is_asked_for",
        "_warm_answers",
        "is_proven_useless",
        "shared_bytes",
    )

    def __init__(self, cached_tokens: Callable[[], int], *, is_asked_for: bool) -> None:
        self._cached_tokens = cached_tokens
        self._is_asked_for = is_asked_for
        self._warm_answers = 0
        self._idle_since_s = inf
        self.shared_bytes = 0
        """What the lines share that are held, in all."""
        self.is_proven_useless = False
        """Answers show that nothing is cached."""

    def set_idle(self, is_idle: bool, now: float) -> None:
        """Record whether slots stay free while lines are held."""
        if not is_idle:
            self._idle_since_s = inf
        elif self._idle_since_s == inf:
            self._idle_since_s = now

    @property
    def due_s(self) -> float:
        """Return when the lines that are held go, since they share little in all."""
        return inf if self._is_asked_for or self.shared_bytes >= MIN_SHARED_BYTES else self._idle_since_s + GRACE_S

    def learn(self) -> None:
        """Learn from an answer to a line whose prefix was warm."""
        self._warm_answers += 1
        if self._warm_answers >= MIN_ANSWERS and not self._is_asked_for:
            self.is_proven_useless = self._cached_tokens() == 0
