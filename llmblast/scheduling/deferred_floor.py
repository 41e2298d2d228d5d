"""Deferred floor: the share of all sends that deferred lines get even where immediate ones never end.

It is a token bucket: each send adds the share, each deferred send takes 1, and with a whole token a deferred line goes
before immediate ones. What deferred lines got in the last minute counts, so that a burst of immediate lines does not
meet one deferred line while these have had more than their share anyway.
"""

from typing import Final

HALF_S: Final = 30.0
MIN_DEBT: Final = 25.0


class DeferredFloor:
    """Call `on_send` for each send while deferred lines wait."""

    __slots__ = ("_before", "_credit", "_half_ends_s", "_share", "_this_half")

    def __init__(self, share: float) -> None:
        self._share = share
        self._credit = -MIN_DEBT
        self._this_half = 0
        self._before = 0
        """Sends of the present half minute and of the one before."""
        self._half_ends_s = HALF_S

    @property
    def is_due(self) -> bool:
        """Return whether the next send is a deferred one."""
        return self._credit >= 1.0

    def on_send(self, now: float, *, is_deferred: bool) -> None:
        """Count a send."""
        if now >= self._half_ends_s:
            self._before = self._this_half if now < self._half_ends_s + HALF_S else 0
            self._this_half, self._half_ends_s = 0, now + HALF_S
        self._this_half += 1
        max_debt = max(MIN_DEBT, self._share * (self._before + self._this_half))
        credit = self._credit + self._share - is_deferred
        self._credit = min(max(credit, -max_debt), 1.0)
