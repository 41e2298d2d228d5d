"""The policies that count within windows of time: fixed, sliding and quantised."""

import math
from collections import deque

from llmblast.mocking.rates import Others, Policy, Rate

_SLICE_S = 1.0


class FixedWindow(Policy):
    """Aligned windows, each with a counter that starts at zero; a full one makes everybody wait for the next.

    State: the window's end and its counter. A debt is forgotten with its window, as it is where the counter is a key
    that expires: https://redis.io/docs/latest/commands/incr/#pattern-rate-limiter
    """

    __slots__ = ("_end_s", "_limit", "_start_s", "_used", "_window_s")

    def __init__(self, rate: Rate, others: Others | None = None) -> None:
        super().__init__(rate, others)
        self._limit, self._window_s = rate.whole(rate.window_s)
        self._start_s = self._end_s = math.inf
        self._used = 0.0

    def wait_s(self, cost: float, now: float) -> float:
        if cost > self._limit:
            return math.inf
        return 0.0 if cost <= self.remaining(now) else self._end_s - now

    def take(self, cost: float, now: float) -> None:
        if self._start_s == math.inf:
            self._start_s, self._end_s = now, now + self._window_s
        self._roll(now)
        self._used += cost

    def remaining(self, now: float) -> float:
        self._roll(now)
        return self._limit - self._used - self._taken_by_others(now)

    def reset_s(self, now: float) -> float:
        return self._end_s - now if self.remaining(now) < self._limit else 0.0

    def _taken_by_others(self, now: float) -> int:
        return self._others.reserved(self._per_s, self._end_s - self._window_s, self._end_s, now)

    def _roll(self, now: float) -> None:
        if now < self._end_s:
            return
        ended = int((now - self._start_s) / self._window_s)
        self._end_s = self._start_s + (ended + 1) * self._window_s
        if self._end_s <= now:  # the division was rounded down
            self._end_s += self._window_s
        self._used = 0.0


class SlidingWindow(Policy):
    """Never more than the limit in any stretch that is one window long.

    State: a log of what was taken within the last window and its sum; memory grows with the limit, not with the run. A
    debt lasts until enough has left the log. Source: https://blog.cloudflare.com/counting-things-a-lot-of-different-things/
    """

    __slots__ = ("_limit", "_log", "_used", "_window_s")

    def __init__(self, rate: Rate, others: Others | None = None) -> None:
        super().__init__(rate, others)
        self._limit, self._window_s = rate.whole(rate.window_s)
        self._log: deque[tuple[float, float]] = deque()
        self._used = 0.0

    def wait_s(self, cost: float, now: float) -> float:
        if cost > self._limit:
            return math.inf
        excess = cost - self.remaining(now)
        if excess <= 0:
            return 0.0
        for leaves_s, old_cost in self._log:
            excess -= old_cost
            if excess <= 0:
                return leaves_s - now
        return self._window_s  # what is too much is the others'

    def take(self, cost: float, now: float) -> None:
        self._log.append((now + self._window_s, cost))
        self._used += cost

    def remaining(self, now: float) -> float:
        log = self._log
        while log and log[0][0] <= now:
            self._used -= log.popleft()[1]
        return self._limit - self._used - self._taken_by_others(now)

    def reset_s(self, now: float) -> float:
        if self.remaining(now) >= self._limit:
            return 0.0
        return self._window_s if self._taken_by_others(now) else self._log[-1][0] - now

    def _taken_by_others(self, now: float) -> int:
        return self._others.whole(self._per_s, now - self._window_s, now)


class Quantised(Policy):
    """The quota in equal slices of a second, which begin at the clock's whole seconds: 60 a minute is 1 in each.

    State: the slice's number and what was taken of it. A debt goes on into the next slices, as the quota is a minute's.
    A cost above one slice is admitted into one of which nothing was taken. Sources: "60 requests/minute may be enforced
    as 1 request/second", https://cookbook.openai.com/examples/how_to_handle_rate_limits; "a 600-RPM deployment if more
    than 10 requests are received during each 1-second period",
    https://learn.microsoft.com/azure/ai-services/openai/how-to/quota
    """

    __slots__ = ("_largest", "_limit", "_number", "_slice_s", "_used")

    def __init__(self, rate: Rate, others: Others | None = None) -> None:
        super().__init__(rate, others)
        self._limit, self._slice_s = rate.whole(_SLICE_S)
        self._largest = max(rate.largest, self._limit)
        self._number = 0
        self._used = 0.0

    def wait_s(self, cost: float, now: float) -> float:
        if cost > self._largest:
            return math.inf
        # A cost above the slice needs a slice of which nothing is taken, any other one its own room.
        return self._until_at_most(max(0, self._limit - cost), now)

    def take(self, cost: float, now: float) -> None:
        self._roll(now)
        self._used += cost

    def remaining(self, now: float) -> float:
        return self._limit - self._taken(now)

    def reset_s(self, now: float) -> float:
        return self._until_at_most(0, now)

    def _until_at_most(self, level: float, now: float) -> float:
        excess = self._taken(now) - level
        if excess <= 0:
            return 0.0
        return (self._number + math.ceil(excess / self._limit)) * self._slice_s - now

    def _taken(self, now: float) -> float:
        self._roll(now)
        begin_s, end_s = self._number * self._slice_s, (self._number + 1) * self._slice_s
        return self._used + self._others.reserved(self._per_s, begin_s, end_s, now)

    def _roll(self, now: float) -> None:
        number = math.floor(now / self._slice_s)
        if (number + 1) * self._slice_s <= now:  # the division was rounded down
            number += 1
        if number <= self._number:
            return
        begin_s, end_s = self._number * self._slice_s, number * self._slice_s
        taken = self._used + self._others.whole(self._per_s, begin_s, end_s)
        self._used = max(0.0, taken - (number - self._number) * self._limit)
        self._number = number
