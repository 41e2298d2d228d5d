"""Counted requests: tell servers that count requests from those that look at the time between two of them.

A reply whose headers say that several more requests may come shows that the server counts them, in a window or a
bucket; one that looks at the time between two has no room for several at any moment.

A server whose replies were held up sees requests closer together than they left. So a rejection that says that none
remains makes the spare time longer, a few times. After any other one, the interval is kept again, for the rest of the
run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmblast.models import RateLimitInfo
from llmblast.scheduling.limit_set import LimitSet

MIN_REMAINING = 2
"""A bucket without room for a burst has one left, when its last request has just left it."""
SPARE_S = 0.0065
"""Spare time in each second, at first: a request may be held up so much longer than one that comes a second later."""
SPARE_GROWTH = 1.5
"""Factor of a longer spare time. After one rejection, 99 % of the rate are used."""
MAX_SPARE_S = 0.025
"""With more, an even rate uses as much."""
SPARED_S = 1.0
"""Requests that were sent so soon after the spare time was made longer say nothing of it."""


@dataclass(slots=True, eq=False)
class RequestCount:
    """Knowledge of how one endpoint counts requests. Moments are monotonic seconds."""

    limit: float = 0.0
    """How many it counts in a window or a bucket; 0 where its headers have not said so, or it looks at the time."""
    spare_s: float = SPARE_S
    _is_refuted: bool = False
    _longer_since_s: float = -math.inf
    _none_left_s: float = -math.inf
    """When the last request was sent whose reply said that none remains."""

    def learn(self, infos: Sequence[RateLimitInfo], sent_s: float) -> bool:
        """Learn from the headers of the reply to the request sent at `sent_s`. Return whether the limit was unknown."""
        told = [info for info in infos if info.kind == "requests" and info.limit is not None]
        if any(info.remaining == 0 for info in told):
            self._none_left_s = sent_s
        if self.limit or self._is_refuted:
            return False
        self.limit = min((info.limit or 0 for info in told if (info.remaining or 0) >= MIN_REMAINING), default=0.0)
        return self.limit > 0

    def on_rejected(self, sent_s: float) -> bool:
        """Record a rate-limit reply to the request sent at `sent_s`, whose headers were learned. Return whether
        anything changes.
        """
        is_of_count = sent_s == self._none_left_s
        if self._is_refuted or sent_s < self._longer_since_s + SPARED_S or (is_of_count and not self.limit):
            return False
        longer_s = self.spare_s * SPARE_GROWTH
        if is_of_count and longer_s <= MAX_SPARE_S:
            self.spare_s, self._longer_since_s = longer_s, sent_s
        else:
            self.limit, self._is_refuted = 0.0, True
        return True


def count_requests(limits: LimitSet, counts: Sequence[RequestCount]) -> None:
    """Keep the interval of each even rate, unless all servers behind it count, and as many as it allows in a second."""
    limit, spare_s = min(count.limit for count in counts), max(count.spare_s for count in counts)
    for rate in limits.even:
        rate.spare_time(spare_s if limit >= rate.per_second else None)
