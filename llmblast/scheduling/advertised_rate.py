"""Advertised rate: the pace that a provider's rate-limit headers (limit, remaining, reset) allow.

It is a proportional controller on the remaining quota: `pace = remaining / horizon`. The consumption of other clients
shows in `remaining` and lowers the pace by itself, and clients that share a quota get equal shares. Two kinds of quota
are followed:

counter        starts anew at its reset: the horizon is the time until then, so the rest is spent evenly. The measured
               consumption of others is subtracted, or clients would hurry at first and starve each other at the end.
token bucket   refills evenly, and its reset is the time until it is full: with half of the time that an empty bucket
               needs as the horizon, the pace settles at the refill rate with the bucket half full.

The movement of `reset` shows the kind. Where it fits neither, nothing is held back: 429s teach the rate.
Sources: https://platform.openai.com/docs/guides/rate-limits, https://docs.anthropic.com/en/api/rate-limits
"""

import math
from enum import Enum
from typing import NamedTuple

from llmblast.models import RateLimitInfo
from llmblast.scheduling.limits import Rate

MIN_RESET_S = 2.0
MAX_RESET_S = 600.0
"""Do not spread the quota of an hour or a day over it: it may be used up at once, and a 429 says when it is."""
FOLLOWED_SHARE = 0.8
"""Follow a quota once less than this share of its limit remains."""
TRUSTED_SHARE = 0.97
"""Lower a configured rate only if less than this share of it is left even with `UNSURE_COSTS` requests to spare."""
UNSURE_COSTS = 2
MIN_RESOLUTIONS = 10
"""Ignore spans and resets shorter than this many units of the reset's rounding."""
TOLERANCE = 0.05
MIN_CHANGE = 0.1
"""Relative change of the used units from which its effect on a bucket's reset is judged."""
BUCKET_LEVEL = 0.5
RESERVED_SHARE = 0.01
MIN_SHARE = 0.1
"""Lowest pace, as a share of the pace without others, and of a full bucket: without requests nothing is measured."""
OTHERS_SPAN, OTHERS_GAIN, OTHERS_SHARE = 0.125, 0.5, 0.8
"""Measure the consumption of others over this share of the time to the reset, smooth it, subtract this share of it:
the rest makes the shares of clients equal."""
_COST_GAIN = 0.1


def should_follow(info: RateLimitInfo) -> bool:
    """Return whether so much of a quota is used that its headers have to be followed."""
    return info.limit is not None and info.remaining is not None and info.remaining < FOLLOWED_SHARE * info.limit


class QuotaKind(Enum):
    """Kind of a provider's quota, as far as its headers have shown it."""

    UNKNOWN = "unknown kind"
    COUNTER = "counter"
    TOKEN_BUCKET = "token bucket"


class _Reading(NamedTuple):
    sent_s: float
    read_s: float
    charged: float
    used: float
    reset_s: float
    resolution_s: float


class AdvertisedRate(Rate):
    """Pace one kind of quota at one endpoint; no limit at all until the headers ask for one.

    `set_per_s` is the endpoint's configured rate for the same quota, infinite if there is none.
    """

    is_learned = True

    def __init__(self, name: str, set_per_s: float = math.inf) -> None:
        super().__init__(name, math.inf)
        self._set_per_s = set_per_s
        self._cost, self._others_per_s, self._full_per_s = 1.0, 0.0, math.inf
        self._newest_s = self._reset_s = -math.inf
        self._kind = QuotaKind.UNKNOWN
        self._base: _Reading | None = None

    def __repr__(self) -> str:
        return f"AdvertisedRate({self.name!r}, {self._kind.value}, {self.pace_per_s:.3g} a second)"

    def acquire(self, cost: float, now: float) -> None:
        """Charge `cost`. Allow the pace of a full quota if its reset is over and no headers came since."""
        super().acquire(cost, now)
        self._cost += _COST_GAIN * (cost - self._cost)
        if now > self._reset_s:
            self._set_pace(max(self.pace_per_s, self._full_per_s), now)

    def on_rate_limit_headers(self, info: RateLimitInfo, sent_s: float, now: float) -> None:
        """Follow the headers of the reply to the request sent at `sent_s`, unless those of a later one came first."""
        limit, remaining, reset_s = info.limit, info.remaining, info.reset_s
        if limit is None or remaining is None or reset_s is None or sent_s <= self._newest_s:
            return
        min_span_s = MIN_RESOLUTIONS * info.resolution_s
        if not (0 < remaining < limit < math.inf and max(MIN_RESET_S, min_span_s) < reset_s <= MAX_RESET_S):
            return  # 0 may be a quota that is used up or one that is not counted: a 429 tells
        base, newest = self._base, _Reading(sent_s, now, self.used, limit - remaining, reset_s, info.resolution_s)
        if base is None or newest.used < base.used or now >= base.sent_s + base.reset_s:
            self._base = newest  # a new window may have begun: nothing to compare with
        elif sent_s - base.sent_s >= min_span_s:
            self._compare(base, newest)
        self._newest_s, self._reset_s = sent_s, now + reset_s
        self._full_per_s = min(self._full_per_s, limit / reset_s)
        self._set_pace(self._allowed_per_s(newest, limit), now)

    def _compare(self, base: _Reading, newest: _Reading) -> None:
        """Tell the kind: a counter's reset comes nearer as time passes, a bucket's is proportional to used units."""
        spans_s = newest.sent_s - base.sent_s, newest.read_s - base.read_s  # the server's span is between the two
        used, nearer_s, step_s = newest.used - base.used, base.reset_s - newest.reset_s, newest.resolution_s
        slack_s = 2 * step_s + TOLERANCE * spans_s[0]
        if min(spans_s) - slack_s <= nearer_s <= max(spans_s) + slack_s:
            self._kind = QuotaKind.COUNTER
            if min(*spans_s, nearer_s) > OTHERS_SPAN * base.reset_s:
                others_per_s = used / (nearer_s + step_s) - (newest.charged - base.charged) / min(spans_s)
                self._others_per_s += OTHERS_GAIN * (max(others_per_s, 0.0) - self._others_per_s)
                self._base = newest
        elif used > MIN_CHANGE * newest.used:
            off_s = abs(newest.reset_s - base.reset_s * (newest.used / base.used))
            is_bucket = off_s <= 2 * step_s + TOLERANCE * newest.reset_s
            self._kind = QuotaKind.TOKEN_BUCKET if is_bucket else QuotaKind.UNKNOWN
            self._base = newest

    def _allowed_per_s(self, reading: _Reading, limit: float) -> float:
        if self._kind is QuotaKind.UNKNOWN:
            return math.inf
        remaining, horizon_s, others_per_s = limit - reading.used, reading.reset_s, OTHERS_SHARE * self._others_per_s
        if self._kind is QuotaKind.TOKEN_BUCKET:
            horizon_s *= BUCKET_LEVEL * (limit / reading.used)
            remaining, others_per_s = max(remaining, MIN_SHARE * limit), 0.0
        at_most = (remaining + UNSURE_COSTS * self._cost) / (horizon_s - reading.resolution_s)
        if at_most > TRUSTED_SHARE * self._set_per_s:
            return math.inf
        per_s = max(remaining - RESERVED_SHARE * limit, self._cost, 1.0) / horizon_s
        return max(per_s - others_per_s, MIN_SHARE * per_s)

    def _set_pace(self, per_s: float, now: float) -> None:
        seconds_per_unit = 1.0 / per_s if per_s > 0 else 0.0  # not for a NaN either
        if self._next_s > now and self._seconds_per_unit:
            change = seconds_per_unit / self._seconds_per_unit
            self._next_s = now + (self._next_s - now) * change  # the units owed stay the same
        self._seconds_per_unit = seconds_per_unit
