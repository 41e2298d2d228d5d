"""Base of the policies of the mock provider: a rate, another client that uses it, too, and four questions."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

SLACK = 1e-6
"""Share of a unit by which float rounding may exceed a limit, so that exact pacing is admitted."""


@dataclass(frozen=True, slots=True)
class Rate:
    """`units` in `window_s` seconds; `largest` is the greatest cost of one request, `burst` None the policy's own."""

    units: float
    window_s: float
    burst: float | None = None
    largest: float = 1.0

    @property
    def per_s(self) -> float:
        """Units per second."""
        return self.units / self.window_s

    def whole(self, window_s: float) -> tuple[int, float]:
        """The units of `window_s` seconds and their window, stretched until they are whole: 0.5 in 1 s is 1 in 2 s.

        A window would waste its fraction each time otherwise.
        """
        exact = self.per_s * window_s
        units = max(1, math.ceil(exact - SLACK))
        return units, window_s * units / exact


@dataclass(slots=True, eq=False)
class Others:
    """Another client that takes `share` of each quota, evenly from `start_s` on, and whether it fits or not."""

    share: float = 0.0
    start_s: float = math.inf

    def taken(self, rate_per_s: float, until_s: float) -> float:
        """Units of a rate that they took until then."""
        return max(0.0, until_s - self.start_s) * self.share * rate_per_s

    def whole(self, rate_per_s: float, after_s: float, until_s: float) -> int:
        """The same in whole units, between two moments."""
        if until_s <= self.start_s:
            return 0
        return math.floor(self.taken(rate_per_s, until_s)) - math.floor(self.taken(rate_per_s, after_s))

    def reserved(self, rate_per_s: float, after_s: float, until_s: float, now: float) -> int:
        """Return the whole units of a window that belong to the other client; none before it begins."""
        return self.whole(rate_per_s, after_s, until_s) if now > self.start_s else 0


class Policy(ABC):
    """Base of the policies. `now` is monotonic seconds; it may go back by what an event loop is late, no more.

    What it tells takes into account what the others have taken, and not what they will take.
    """

    __slots__ = ("_others", "_per_s")

    def __init__(self, rate: Rate, others: Others | None = None) -> None:
        self._per_s = rate.per_s
        self._others = others or Others()

    def admit(self, cost: float, now: float) -> float:
        """Takes `cost` and returns 0.0, or takes nothing and returns the seconds until it would fit (inf: never)."""
        wait_s = self.wait_s(cost, now)
        if not wait_s:
            self.take(cost, now)
        return wait_s

    @abstractmethod
    def wait_s(self, cost: float, now: float) -> float:
        """Seconds until `cost` would be admitted; 0.0 is now, inf is never."""

    @abstractmethod
    def take(self, cost: float, now: float) -> None:
        """Counts `cost` as used, whether it fits or not."""

    @abstractmethod
    def remaining(self, now: float) -> float:
        """The cost that would be admitted right now; below 0 is debt."""

    @abstractmethod
    def reset_s(self, now: float) -> float:
        """Return the seconds until the quota is full again without further requests."""
