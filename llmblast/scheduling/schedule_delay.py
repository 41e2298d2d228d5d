"""Schedule delay: by how much an endpoint's schedule moves since requests leave later than they were admitted."""

import math

MAX_CATCH_UP_S = 0.004
"""The pace makes up for as much; longer delays move the schedule."""
MOVE_INTERVAL_S = 1.0
"""The time in which the schedule moves once for all delays: `RequestRate` counts what leaves in a second."""


class ScheduleDelay:
    """Requests that were late together move the schedule once, and in a second by the longest delay: opening a pool of
    connections would take most of the rate otherwise. A delay that the pace makes up for moves nothing.
    """

    __slots__ = ("_moved_s", "_moving_since_s", "total_s")

    def __init__(self) -> None:
        self.total_s = 0.0
        """By how much the schedule was moved in all."""
        self._moved_s = 0.0
        self._moving_since_s = -math.inf

    def add(self, sent_s: float, delay_before_s: float, left_s: float) -> float:
        """Record that a request admitted at `sent_s`, when the schedule had been moved by `delay_before_s`, left at
        `left_s`. Return by how much the schedule has to move now.
        """
        if left_s >= self._moving_since_s + MOVE_INTERVAL_S:
            self._moving_since_s, self._moved_s = left_s, 0.0
        late_s = left_s - sent_s
        behind_s = late_s - max(self.total_s - delay_before_s, self._moved_s)
        if behind_s <= 0 or late_s <= MAX_CATCH_UP_S:
            return 0.0
        self.total_s += behind_s
        self._moved_s += behind_s
        return behind_s
