"""How the mock provider enforces a rate: one class for each policy, plain state with the clock handed in.

A rate is given as `limit` (requests or tokens) in `window_s` seconds. Providers differ in what they mean by that, and a
client that suits one policy can run into another, so all three are here:

    fixed    aligned windows that follow one another, the first begins with the first request
    moving   never more than `limit` in any stretch of `window_s`, by a log of what was admitted
    bucket   a leaky bucket that holds `capacity` and drains at the rate

Source: https://en.wikipedia.org/wiki/Leaky_bucket (as a meter)
"""

import math
from abc import ABC, abstractmethod
from collections import deque

_SLACK = 1e-6
"""Share of a request that float rounding may overfill a bucket by, so that exact pacing is admitted."""


class Policy(ABC):
    """Base of the policies. `now` is monotonic seconds and does not go back."""

    __slots__ = ("limit", "window_s")

    def __init__(self, limit: float, window_s: float, capacity: float) -> None:
        # A limit that is no whole number would waste its fraction in every window: 0.5 a second is 1 in 2 s.
        self.limit = math.ceil(limit)
        self.window_s = window_s * self.limit / limit

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
        """Counts `cost` as used."""

    @abstractmethod
    def remaining(self, now: float) -> float:
        """The cost that would be admitted right now."""

    @abstractmethod
    def reset_s(self, now: float) -> float:
        """Seconds until nothing counts as used any more."""


class FixedWindow(Policy):
    """Aligned windows; a full one makes everybody wait for the next."""

    __slots__ = ("_end_s", "_start_s", "_used")

    def __init__(self, limit: float, window_s: float, capacity: float) -> None:
        super().__init__(limit, window_s, capacity)
        self._start_s: float | None = None
        self._end_s = math.inf
        self._used = 0.0

    def wait_s(self, cost: float, now: float) -> float:
        if cost > self.limit:
            return math.inf
        self._roll(now)
        return 0.0 if self._used + cost <= self.limit else self._end_s - now

    def take(self, cost: float, now: float) -> None:
        if self._start_s is None:
            self._start_s, self._end_s = now, now + self.window_s
        self._roll(now)
        self._used += cost

    def remaining(self, now: float) -> float:
        self._roll(now)
        return self.limit - self._used

    def reset_s(self, now: float) -> float:
        self._roll(now)
        return self._end_s - now if self._used else 0.0

    def _roll(self, now: float) -> None:
        if self._start_s is None or now < self._end_s:
            return
        ended = int((now - self._start_s) / self.window_s)
        self._end_s = self._start_s + (ended + 1) * self.window_s
        if self._end_s <= now:  # the division was rounded down
            self._end_s += self.window_s
        self._used = 0.0


class MovingWindow(Policy):
    """A log of what was admitted within the last window; memory grows with the limit, not with the run."""

    __slots__ = ("_log", "_used")

    def __init__(self, limit: float, window_s: float, capacity: float) -> None:
        super().__init__(limit, window_s, capacity)
        self._log: deque[tuple[float, float]] = deque()
        self._used = 0.0

    def wait_s(self, cost: float, now: float) -> float:
        if cost > self.limit:
            return math.inf
        self._forget(now)
        excess = self._used + cost - self.limit
        if excess <= 0:
            return 0.0
        wait_s = 0.0
        for leaves_s, old_cost in self._log:
            excess -= old_cost
            wait_s = leaves_s - now
            if excess <= 0:
                break
        return wait_s

    def take(self, cost: float, now: float) -> None:
        self._log.append((now + self.window_s, cost))
        self._used += cost

    def remaining(self, now: float) -> float:
        self._forget(now)
        return self.limit - self._used

    def reset_s(self, now: float) -> float:
        self._forget(now)
        return self._log[-1][0] - now if self._log else 0.0

    def _forget(self, now: float) -> None:
        log = self._log
        while log and log[0][0] <= now:
            self._used -= log.popleft()[1]


class LeakyBucket(Policy):
    """`capacity` at once, then the even rate; the state is the moment when the bucket will be empty."""

    __slots__ = ("_capacity", "_empty_s", "_rate")

    def __init__(self, limit: float, window_s: float, capacity: float) -> None:
        super().__init__(limit, window_s, capacity)
        self._rate = limit / window_s
        self._capacity = capacity
        self._empty_s = -math.inf

    def wait_s(self, cost: float, now: float) -> float:
        if cost > self._capacity:
            return math.inf
        excess = cost - self.remaining(now)
        return 0.0 if excess <= _SLACK else excess / self._rate

    def take(self, cost: float, now: float) -> None:
        self._empty_s = max(self._empty_s, now) + cost / self._rate

    def remaining(self, now: float) -> float:
        return self._capacity - self.reset_s(now) * self._rate

    def reset_s(self, now: float) -> float:
        return max(0.0, self._empty_s - now)


WINDOWS: dict[str, type[Policy]] = {"fixed": FixedWindow, "moving": MovingWindow, "bucket": LeakyBucket}
"""The policies by the name that the setting `window` has for them."""
