"""Told rates: the pace that a provider's own words allow, `remaining` and `reset` in the headers of its replies.

Providers mean different things by these words. Two meanings are followed, a counter that starts anew when the reset is
over, and a bucket that refills all the time and whose reset is the time until it is full. One law suits both, since it
is about how `remaining` moves and not about why:

    pace = remaining / reset - x        x = (fall of remaining - what we were charged) / time

x is what moves `remaining` apart from us: the use of others above zero, the refill of a bucket below it. Alone on a
counter x is 0, and what is left is spread over the rest of the window. Alone on a bucket x is the refill, and the pace
is the refill plus a share of what is left, so the quota is used to its end without running into it. When somebody else
takes a part of the quota, x rises by just that. Words that fit neither meaning are passed over, as are windows of a
second or two, whose end a 429 tells soon enough.
"""

import math
from bisect import bisect_right
from collections import deque
from enum import Enum, auto
from typing import NamedTuple

from llmblast.records import RateLimitInfo
from llmblast.scheduling.limits import Rate

SHORTEST_RESET_S = 2.0
LONGEST_RESET_S = 600.0
"""A quota of an hour or a day is not spread over it: it may be used up at once, and a 429 says when it is."""
WORTH_A_LOOK = 0.8
"""From this share of a limit downwards its remainder is followed."""
TRUSTED_SHARE = 0.97
"""A rate that a person has set is only lowered by words that are below this share of it beyond doubt."""
RESERVE_SHARE = 0.01
SLOWEST_SHARE = 0.05
"""Of a limit spread over its longest reset: whoever sends nothing any more hears nothing any more."""
HORIZON_SHARE = 0.25
"""x is measured over this share of the longest reset that was told."""
READINGS = 16
FEWEST_COSTS = 8
"""Requests over which x can be measured: the server may count some of them earlier or later than we do."""
UNSURE_COSTS = 2
RESOLUTIONS = 10
"""Spans and resets shorter than so many times the unit in which they are told say little."""
GAIN = 0.5
"""A look moves the pace by half of what is missing: two clients that heed the same words would swing otherwise."""
_TOLERANCE = 0.05
_TELLING_CHANGE = 0.1
_MOST_VOTES = 20
_COST_GAIN = 0.1
_MOST_MARKS = 2048


def is_worth_a_look(word: RateLimitInfo) -> bool:
    """Whether so much of a quota is gone that its words are to be followed."""
    return word.remaining is not None and (word.limit is None or word.remaining < WORTH_A_LOOK * word.limit)


class _Meaning(Enum):
    UNKNOWN = auto()
    COUNTER = auto()
    BUCKET = auto()


class _Reading(NamedTuple):
    """A word, the moment for which it holds, and what we had been charged by then."""

    at_s: float
    charged: float
    used: float
    remaining: float
    reset_s: float


class ToldRate(Rate):
    """The pace of one kind of quota at one endpoint; no limit at all until words say so.

    `set_per_s` is the endpoint's own setting for the same kind, if there is one.
    """

    is_learned = True
    __slots__ = (
        "_charges",
        "_cost",
        "_early_votes",
        "_last_take_s",
        "_limit",
        "_longest_s",
        "_meaning",
        "_previous",
        "_readings",
        "_set_per_s",
        "_x",
        "pace_per_s",
    )

    def __init__(self, name: str, set_per_s: float | None) -> None:
        super().__init__(name, math.inf)
        self.pace_per_s = math.inf
        """Units a second; infinity while nothing has to be held back."""
        self._set_per_s = set_per_s
        self._charges = _Charges()
        self._cost = 1.0
        self._readings: deque[_Reading] = deque(maxlen=READINGS)
        self._meaning = _Meaning.UNKNOWN
        self._previous: tuple[float, float, float] | None = None
        self._early_votes = 0
        self._limit = self._longest_s = 0.0
        self._last_take_s = -math.inf
        self._x: float | None = None

    def take(self, cost: float, now: float) -> None:
        """Charges `cost`, and notes when."""
        super().take(cost, now)
        self._last_take_s = now
        self._cost += _COST_GAIN * (cost - self._cost)
        self._charges.add(cost, now)

    def settle(self, paid: float, real: float, now: float) -> None:
        """Moves the schedule, and corrects what was noted."""
        super().settle(paid, real, now)
        self._charges.add(real - paid, now)

    def heard(self, word: RateLimitInfo, sent_s: float, now: float) -> None:
        """Follows the word in the reply to what was sent at `sent_s`."""
        if word.remaining is None or word.reset_s is None or word.reset_s > LONGEST_RESET_S:
            return
        self._limit = word.limit or max(self._limit, word.remaining)
        self._longest_s = max(self._longest_s, word.reset_s)
        self._vote(sent_s, now, word.remaining)
        at_s = sent_s if self._early_votes >= 0 else now
        if at_s < self._charges.since_s or (self._readings and at_s <= self._readings[-1].at_s):
            return
        used = self._limit - word.remaining
        newest = _Reading(at_s, self._charges.until(at_s), used, word.remaining, word.reset_s)
        self._keep(newest)
        left_s = word.reset_s - (now - at_s)
        if left_s > max(SHORTEST_RESET_S, RESOLUTIONS * word.resolution_s):
            self._look(self._readings[0], newest, word.resolution_s)
            if self._x is not None and self._meaning is not _Meaning.UNKNOWN:
                self._follow(self._pace(newest, self._x, left_s, word.resolution_s, now))

    def _vote(self, sent_s: float, now: float, remaining: float) -> None:
        """Some tell what is left when a request comes in, others when its answer leaves: where replies overtake each
        other, the order of what they tell shows which.
        """
        if self._previous is not None:
            its_sent_s, its_s, its_remaining = self._previous
            if sent_s < its_sent_s and now > its_s and remaining != its_remaining:
                votes = self._early_votes + (1 if remaining > its_remaining else -1)
                self._early_votes = max(-_MOST_VOTES, min(votes, _MOST_VOTES))
        self._previous = (sent_s, now, remaining)

    def _keep(self, newest: _Reading) -> None:
        readings, horizon_s = self._readings, HORIZON_SHARE * self._longest_s
        if readings and newest.remaining - readings[-1].remaining > max(_TELLING_CHANGE * self._limit, 2 * self._cost):
            readings.clear()  # a new window has begun
        if len(readings) > 1 and newest.at_s - readings[-2].at_s < horizon_s / (READINGS - 1):
            readings[-1] = newest
        else:
            readings.append(newest)
        while len(readings) > 2 and readings[1].at_s <= newest.at_s - horizon_s:
            readings.popleft()

    def _look(self, oldest: _Reading, newest: _Reading, resolution_s: float) -> None:
        """Measures x, and finds out what a reset means: always the same moment, or in proportion to what is used."""
        charged, span_s = newest.charged - oldest.charged, newest.at_s - oldest.at_s
        if charged < FEWEST_COSTS * self._cost and span_s < HORIZON_SHARE * self._longest_s / 2:
            return
        self._x = (oldest.remaining - newest.remaining - charged) / span_s
        moved_s = newest.reset_s - oldest.reset_s
        if span_s < RESOLUTIONS * resolution_s:
            return
        if abs(moved_s + span_s) <= _TOLERANCE * span_s + 2 * resolution_s:
            self._meaning = _Meaning.COUNTER
        elif abs(newest.used - oldest.used) > _TELLING_CHANGE * newest.used:
            expected_s = oldest.reset_s * newest.used / oldest.used if oldest.used else 0.0
            is_bucket = abs(newest.reset_s - expected_s) <= _TOLERANCE * newest.reset_s + 2 * resolution_s
            self._meaning = _Meaning.BUCKET if is_bucket else _Meaning.UNKNOWN

    def _pace(self, newest: _Reading, x: float, left_s: float, resolution_s: float, now: float) -> float:
        gone = self._charges.total - newest.charged + x * (now - newest.at_s)
        remaining = min(newest.remaining - gone, self._limit)
        if self._set_per_s is not None:
            at_most = (remaining + UNSURE_COSTS * self._cost) / (left_s - resolution_s) - x
            if at_most > TRUSTED_SHARE * self._set_per_s:
                return math.inf
        pace = (remaining - RESERVE_SHARE * self._limit) / left_s - x
        return max(pace, SLOWEST_SHARE * self._limit / self._longest_s)

    def _follow(self, pace: float) -> None:
        if math.isfinite(pace) and math.isfinite(self.pace_per_s):
            pace = self.pace_per_s + GAIN * (pace - self.pace_per_s)
        if pace == self.pace_per_s:
            return
        self.pace_per_s = pace
        self._seconds_per_unit = 1.0 / pace
        self._next_s = min(self._next_s, self._last_take_s + self._cost * self._seconds_per_unit)


class _Charges:
    """What had been charged by when, in at most 2048 marks: what is longer ago than those is not asked for."""

    __slots__ = ("_marks", "_sums", "since_s", "total")

    def __init__(self) -> None:
        self.total = 0.0
        self.since_s = math.inf
        """The first charge that is still known."""
        self._marks: list[float] = []
        self._sums: list[float] = []

    def add(self, cost: float, now: float) -> None:
        self.total += cost
        self._marks.append(now)
        self._sums.append(self.total)
        if len(self._marks) >= _MOST_MARKS:
            del self._marks[: _MOST_MARKS // 2], self._sums[: _MOST_MARKS // 2]
        self.since_s = self._marks[0]

    def until(self, moment: float) -> float:
        return self._sums[bisect_right(self._marks, moment) - 1]
