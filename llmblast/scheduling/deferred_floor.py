"""Deferred floor: the share of all sends that deferred lines get even where immediate ones never end.

It is a token bucket: each send adds the share of its cost, each deferred send takes its cost, and with the cost of an
average send in it a deferred line goes before immediate ones. The cost is 1, or the tokens of a line where these are
limited: large lines would else get far more than the share. What deferred lines got in the last minute counts, so that
a burst of immediate lines does not meet one deferred line while these have had more than their share anyway.
"""

from typing import Final

HALF_S: Final = 30.0
MIN_DEBT: Final = 25.0
"""In average sends."""
AVERAGE_GAIN: Final = 1 / 64


class DeferredFloor:
    """Call `on_send` for each send while deferred lines wait."""

    __slots__ = ("_average", "_before", "_credit", "_half_ends_s", "_last", "_share", "_this_half")

    def __init__(self, share: float) -> None:
        self._share = share
        self._average = 0.0
        """Cost of a send; 0 before the first one."""
        self._last = 0.0
        """Cost of the last deferred send: that is a debt however large it is."""
        self._credit = 0.0
        self._this_half = 0.0
        self._before = 0.0
        """Costs of the present half minute and of the one before."""
        self._half_ends_s = HALF_S

    @property
    def is_due(self) -> bool:
        """Return whether the next send is a deferred one."""
        return self._credit >= self._average > 0.0

    def on_send(self, now: float, cost: float, *, is_deferred: bool) -> None:
        """Count a send."""
        if now >= self._half_ends_s:
            self._before = self._this_half if now < self._half_ends_s + HALF_S else 0.0
            self._this_half, self._half_ends_s = 0.0, now + HALF_S
        self._this_half += cost
        if not self._average:
            self._average, self._credit = cost, -MIN_DEBT * cost
        self._average += AVERAGE_GAIN * (cost - self._average)
        credit = self._credit + self._share * cost
        if is_deferred:
            credit, self._last = credit - cost, cost
        max_debt = max(MIN_DEBT * self._average, self._share * (self._before + self._this_half), self._last)
        self._credit = min(max(credit, -max_debt), self._average)
