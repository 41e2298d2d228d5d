"""Adaptive limits: for an endpoint whose limits nobody named. They start out of the way and learn from push-back.

In flight: a window that opens as answers come in, twice as wide with each round trip, so that a first crowd does not
meet a limit that is not known yet; one of thousands opens in a second, anyway. Rate: none until the first rate-limit
reply; then what was accepted until the provider takes requests again, and from there the curve of CUBIC (RFC 9438): 5 %
below the rate that drew the push-back, flat around it, and away from it when nothing comes. Only time in which the rate
is really used counts.
"""

import math

from llmblast.scheduling.limits import Concurrency, Rate

FIRST_WINDOW = 64
OPENING_S = 1.0
WIDE = 1000
"""A window that is wider opens by itself in this time, evenly: who asks for so many at once has a provider in mind that
takes them, whose answers may take minutes, but whose push-back comes at once. Else every step waits for answers, whose
latency tells whether more in flight are of use at all.
"""
DECREASE = 0.05
LARGEST_IN_A_ROW = 0.2
"""Push-back that goes on takes more each time: 5 %, 7.5 %, 10 %, ... 20 %."""
LARGEST_DECREASE = 0.5
FIRST_PLATEAU_S = 1.0
LONGEST_PLATEAU_S = 20.0
STRUCK_PLATEAU_S = 4.0
"""After push-back in a row, which may have lowered the rate too far."""
_FULL_AGAIN_S = 0.05
"""A window that nobody found full for so long was not: that time does not open it."""
SLOWEST_PER_S = 0.1
FEWEST_JUDGED = 4
MOST_JUDGED = 30
"""Sends at one rate before its push-back is judged: a second's worth, within these bounds."""
MANY_REJECTIONS = 4
"""So many, of few sends, need no second's worth to be judged, after a time without any."""
MOST_STRIKES = 10
"""Lowerings in a row before push-back below what was fine counts as not being about the rate."""
SET_FREE = 4.0
_SIGMAS = 3.0
"""Of the spread that a borne share has among few sends."""


class OpeningWindow(Concurrency):
    """Requests in flight, from 64 to `slots` by one with every answer; to more than 1,000 also with the time for which
    they are too few.
    """

    is_learned = True
    __slots__ = ("_most", "_opens_s", "_step_s")

    def __init__(self, name: str, slots: int) -> None:
        super().__init__(name, min(slots, FIRST_WINDOW))
        self._most = self.max_slots = slots
        self._step_s = OPENING_S / slots if slots > WIDE else math.inf
        self._opens_s = -math.inf
        """When it opens by one more, as long as it stays full."""

    @property
    def is_open(self) -> bool:
        """It has reached its full width."""
        return self._slots >= self._most

    def ready_at(self, cost: float, now: float) -> float:
        """Now, or when it opens by one more; once it is open, only a release tells."""
        if self._taken < self._slots:
            return now
        if self._slots >= self._most:
            return math.inf
        if now > self._opens_s + _FULL_AGAIN_S:
            self._opens_s = now + self._step_s
        if now < self._opens_s:
            return self._opens_s
        steps = int((now - self._opens_s) / self._step_s) + 1
        self._opens_s += steps * self._step_s
        self._slots = min(self._slots + steps, self._most)
        return now

    def answered(self) -> None:
        """An answer came: one more may be in flight."""
        if self._slots < self._most:
            self._slots += 1


class LearnedRate(Rate):
    """A rate that follows the provider's push-back, from the first one on.

    It is judged by the share of pushed-back requests among some that were sent at one rate. A large share lowers the
    rate by as much, since somebody else may have taken a part of the quota. When push-back goes on below what was fine,
    however often the rate is lowered, it is not about the rate: that share is borne then, and the rate set free.
    """

    is_learned = True
    __slots__ = (
        "_borne_share",
        "_changed_s",
        "_plateau_s",
        "_rejections",
        "_sends",
        "_strikes",
        "_struck_rejections",
        "_struck_sends",
        "_taken_s",
        "_used_s",
        "ceiling_per_s",
    )

    def __init__(self, name: str, accepted_per_s: float, now: float) -> None:
        super().__init__(name, 1.0)
        self._borne_share = 0.0
        self._strikes = self._struck_sends = self._struck_rejections = 0
        self._plateau_s = FIRST_PLATEAU_S
        self.ceiling_per_s = max(accepted_per_s, SLOWEST_PER_S)
        """The rate that drew the last push-back."""
        self._changed_s = self._taken_s = now
        self._used_s = 0.0
        self._sends = self._rejections = 0
        self._seconds_per_unit = 1.0 / (self.ceiling_per_s * (1.0 - DECREASE))

    def take(self, cost: float, now: float) -> None:
        """Charges a request, and climbs the curve for as long as requests follow each other at the rate."""
        self._sends += 1
        if self._rejections:
            self._judge(now)
        self._used_s += min(now - self._taken_s, 2 * self._seconds_per_unit)
        self._taken_s = now
        self._seconds_per_unit = 1.0 / (self.ceiling_per_s * _cubic(self._used_s, self._plateau_s))
        super().take(cost, now)

    def rejected(self, sent_s: float, now: float) -> None:
        """A rate-limit reply; what was sent before the last change says nothing about the present rate."""
        if sent_s > self._changed_s:
            self._rejections += 1
            self._judge(now)

    def _judge(self, now: float) -> None:
        per_s = 1.0 / self._seconds_per_unit
        is_plain = not self._strikes and self._rejections >= max(MANY_REJECTIONS, self._sends / 4)
        if not is_plain and self._sends < min(max(per_s, FEWEST_JUDGED), MOST_JUDGED):
            return
        share, borne = self._rejections / self._sends, self._borne_share
        if share <= 1.5 * borne + _SIGMAS * math.sqrt(borne / self._sends):
            self._sends = self._rejections = 0
            return
        if self._used_s >= self._plateau_s / 2:
            self._strikes = self._struck_sends = self._struck_rejections = 0
        self._strikes += 1
        self._struck_sends += self._sends
        self._struck_rejections += self._rejections
        if self._strikes > MOST_STRIKES:
            self._borne_share = max(self._struck_rejections / self._struck_sends, borne)
            self._strikes = self._struck_sends = self._struck_rejections = 0
            self._set(per_s * SET_FREE, FIRST_PLATEAU_S, now)
        else:
            decrease = min(DECREASE * (1 + (self._strikes - 1) / 2), LARGEST_IN_A_ROW)
            lowered_per_s = per_s * (1.0 - min(max(share, decrease), LARGEST_DECREASE))
            plateau_s = min(2 * self._plateau_s, LONGEST_PLATEAU_S) if self._strikes == 1 else STRUCK_PLATEAU_S
            self._set(lowered_per_s / (1.0 - DECREASE), plateau_s, now)

    def _set(self, ceiling_per_s: float, plateau_s: float, now: float) -> None:
        self.ceiling_per_s = max(ceiling_per_s, SLOWEST_PER_S)
        self._plateau_s = plateau_s
        self._changed_s = self._taken_s = now
        self._used_s = 0.0
        self._sends = self._rejections = 0


def _cubic(used_s: float, plateau_s: float) -> float:
    """The share of the ceiling after so much time at the rate: 0.95, 1 at the plateau's end, then more and more."""
    return 1.0 + DECREASE * (used_s / plateau_s - 1.0) ** 3
