"""The policies that let a level rise with each request and drain evenly: the token bucket and the leaky bucket."""

import math

from llmblast.mocking.rates import SLACK, Others, Policy, Rate


class _Meter(Policy):
    """Base of the buckets: a level that rises by each cost and drains at the rate, less what the others use of it.

    State: the level, as the point of the drain's own scale at which it will be zero.
    Source: https://en.wikipedia.org/wiki/Leaky_bucket (as a meter)
    """

    __slots__ = ("_empty_at", "_origin_s")

    def __init__(self, rate: Rate, others: Others | None = None) -> None:
        super().__init__(rate, others)
        self._origin_s = 0.0
        self._empty_at = -math.inf

    def take(self, cost: float, now: float) -> None:
        if self._empty_at == -math.inf:
            self._origin_s = now  # small numbers keep their digits
        self._empty_at = max(self._empty_at, self._drained(now)) + cost

    def reset_s(self, now: float) -> float:
        return self._drain_s(self._level(now), now)

    def _level(self, now: float) -> float:
        return max(0.0, self._empty_at - self._drained(now))

    def _drained(self, now: float) -> float:
        return (now - self._origin_s) * self._per_s - self._others.taken(self._per_s, now)

    def _drain_s(self, units: float, now: float) -> float:
        if units <= SLACK:
            return 0.0
        share = self._others.share if now > self._others.start_s else 0.0
        return units / (self._per_s * (1 - share))


class TokenBucket(_Meter):
    """Holds `burst` units and refills evenly; a cost that is not in the bucket is refused.

    The default burst is one second's worth, and at least one request of the largest size: 1 of 0.5 requests a second,
    10 of 10; of tokens it is the whole window's quota. Source: "your capacity is continuously replenished up to your
    maximum limit", https://docs.anthropic.com/en/api/rate-limits
    """

    __slots__ = ("_capacity",)

    def __init__(self, rate: Rate, others: Others | None = None) -> None:
        super().__init__(rate, others)
        self._capacity = max(rate.largest, rate.per_s) if rate.burst is None else rate.burst

    def wait_s(self, cost: float, now: float) -> float:
        if cost > self._capacity:
            return math.inf
        return self._drain_s(cost - self.remaining(now), now)

    def remaining(self, now: float) -> float:
        return self._capacity - self._level(now)


class LeakyBucket(_Meter):
    """Strictly even: a request is admitted when no more than `burst` units (default 0) of earlier ones are yet to leak.

    Of requests this is nginx's `limit_req` with `nodelay`, whose excess is the level less one. A token limit admits any
    request up to a window's quota at that moment, and its followers wait until it has leaked.
    Source: https://nginx.org/en/docs/http/ngx_http_limit_req_module.html
    """

    __slots__ = ("_burst", "_largest")

    def __init__(self, rate: Rate, others: Others | None = None) -> None:
        super().__init__(rate, others)
        self._burst = rate.burst or 0.0
        self._largest = rate.largest

    def wait_s(self, cost: float, now: float) -> float:
        beyond_one = max(0.0, cost - self._largest)
        if beyond_one > self._burst:
            return math.inf
        return self._drain_s(self._level(now) + beyond_one - self._burst, now)

    def remaining(self, now: float) -> float:
        spare = self._burst - self._level(now)
        return spare + self._largest if spare >= -SLACK else 0.0
