"""Slot reserve: slots that deferred lines leave free, so that an immediate line that arrives finds one.

This is trunk reservation, as telephone networks keep lines of a route free for the calls that have a right to it
(Kelly, "Loss networks", Annals of Applied Probability 1, 1991). A few slots are enough for arrivals one by one, since
others end meanwhile; bursts need more.
"""

from math import ceil, exp, inf, sqrt
from typing import Final

from llmblast.scheduling.limits import Concurrency

QUANTILE: Final = 0.99
MAX_LEARNED_SHARE: Final = 0.5


class SlotReserve:
    """`fixed` is a share of the slots below 1, or a number of slots; None learns the number from the arrivals."""

    __slots__ = ("_fixed", "learned")

    def __init__(self, fixed: float | None = None) -> None:
        self._fixed = fixed
        self.learned = 0
        """Slots of the whole run."""

    @property
    def is_learned(self) -> bool:
        """Return whether the number is learned."""
        return self._fixed is None

    @property
    def is_set(self) -> bool:
        """Return whether any slot is kept."""
        return self.learned > 0 if self._fixed is None else self._fixed > 0.0

    def has_room(self, slots: Concurrency | None, parts: int = 1) -> bool:
        """Return whether a deferred line may take a slot. `parts` are the endpoints that share the reserve."""
        if slots is None:
            return True
        if self._fixed is None:
            kept = min(ceil(self.learned / parts), int(slots.slots * MAX_LEARNED_SHARE))
        elif self._fixed < 1.0:
            kept = ceil(slots.slots * self._fixed)
        else:
            kept = ceil(self._fixed / parts)
        return slots.free > min(kept, slots.slots - 1)

    def learn(self, per_second: float, burst: int, turnover_per_s: float, pace_per_s: float) -> None:
        """Learn from the arrivals of immediate lines. `turnover_per_s` are the requests that all slots serve each
        second, `pace_per_s` those that the rates allow.

        The reserve covers what arrives until the next slot is free, and as much of a burst as may go before others have
        ended. Where the rates hold requests back and not the slots, there are free ones anyway.
        """
        if not per_second or turnover_per_s == inf:
            self.learned = 0
            return
        burst_part = burst * (1.0 - min(turnover_per_s / pace_per_s, 1.0))
        self.learned = max(poisson_quantile(per_second / turnover_per_s), ceil(burst_part))


def poisson_quantile(mean: float) -> int:
    """Return the smallest number that a Poisson variable exceeds in one of a hundred cases at most."""
    if mean > 100.0:
        return ceil(mean + 2.33 * sqrt(mean))
    number, term = 0, exp(-mean)
    total = term
    while total < QUANTILE:
        number += 1
        term *= mean / number
        total += term
    return number
