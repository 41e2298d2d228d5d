"""Ways: choose the cheapest way for lines that can wait, which still makes their deadline.

A batch is worth a try as long as there is time to cancel it and to send the rest directly: what a cancelled batch did
not finish is not billed. So it need not be likely that it ends in time, only possible. All forecasts are taken with a
margin, so that a choice changes a little earlier than they say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, Literal

Way = Literal["batch", "flex", "direct"]
WAYS: Final[tuple[Way, ...]] = ("batch", "flex", "direct")
"""At the same price the first one is chosen: a batch leaves the limits to other lines."""
SAFETY: Final = 1.5
"""Lines that are sent one by one get so many times the time that they need at the present rate."""
MIN_CANCEL_S: Final = 3.0
"""Time for a cancellation to be done, and to be noticed."""
MAX_CANCEL_S: Final = 600.0
CANCEL_SHARE: Final = 0.1
"""Time for a cancellation: OpenAI names up to ten minutes; at most this share of the time that the batch has."""
USUAL_LINES_PER_S: Final = 10.0
"""Taken for the rate of direct requests while nothing is known of it."""
SHORTEST_BATCH_S: Final = 300.0
"""Taken for the shortest time of a batch while none has ended."""
SLOW_FLEX_S: Final = 900.0
"""Longest time of a request in the flex tier: OpenAI advises a timeout of 15 minutes, Gemini names as much."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """The facts that the choice of a way depends on. `batches_s` has the durations of the batches of this run."""

    left_s: float
    """Seconds until the deadline."""
    lines: int
    """Lines that are not answered yet."""
    lines_per_s: float | None = None
    """The rate at which they can go directly, None while it is not known."""
    batches_s: Sequence[float] = ()


def cheapest_way(prices: Mapping[Way, float], outlook: Outlook) -> Way:
    """Return the cheapest of the ways with a price that makes the deadline; where none does, the fastest.

    `prices` are in any unit, such as shares of the normal price. A way without one is not there.
    """
    usable = [way for way in WAYS if way in prices and (way == "direct" or makes_deadline(way, outlook))]
    return min(usable, key=lambda way: prices[way], default="direct")


def makes_deadline(way: Way, outlook: Outlook) -> bool:
    """Return whether lines may go that way and make their deadline, with the margin."""
    if outlook.left_s == inf:
        return True
    if way == "batch":
        shortest_s = min(outlook.batches_s, default=SHORTEST_BATCH_S)
        return batch_wait_s(outlook.left_s, outlook.lines, outlook.lines_per_s) >= shortest_s
    wait_s = SLOW_FLEX_S if way == "flex" else 0.0
    return outlook.left_s >= wait_s + _direct_s(outlook.lines, outlook.lines_per_s)


def batch_wait_s(in_all_s: float, lines: int, lines_per_s: float | None) -> float:
    """Return for how long a batch may be waited for that has so much time from its start to the deadline, so that it
    can be cancelled then and so many lines of it sent directly.
    """
    cancel_s = min(MAX_CANCEL_S, max(in_all_s * CANCEL_SHARE, MIN_CANCEL_S))
    return in_all_s - cancel_s - _direct_s(lines, lines_per_s)


def _direct_s(lines: int, lines_per_s: float | None) -> float:
    return SAFETY * lines / (lines_per_s or USUAL_LINES_PER_S)
