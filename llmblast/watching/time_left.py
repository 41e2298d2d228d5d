"""Time left: estimate how long a run still takes, by its limits, recently finished lines, and requests in flight.

A rate limit that holds the run back is the best estimate of its speed. Else the speed is measured between two moments
at which lines were finished, since slow models answer in waves. Before enough was measured, Little's law gives the
speed: throughput = number in flight / latency. Pauses do not count. The run ends with the slowest of the requests that
are in flight last.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from llmblast.watching.counters import Counters, Histogram
from llmblast.watching.early_latency import EarlyLatency
from llmblast.watching.rate_meter import Clock, RateMeter

MIN_PAUSE_S = 3.0
"""Shorter pauses count as part of the speed."""
MIN_PACED_SHARE = 0.7
"""If rate limits held the run back for at least this share of the time, the speed is theirs,"""
MIN_SHARE_OF_ALLOWED = 0.8
"""unless a lower share of that was measured for at least"""
MIN_UNEXPLAINED_S, MIN_UNEXPLAINED_LATENCIES = 20.0, 5.0
"""seconds, and mean latencies."""
MIN_MEASURED_S, MIN_LATENCIES = 2.0, 2.0
MIN_WINDOW_S, MAX_WINDOW_S = 10.0, 60.0
MIN_FINISHES, MAX_FINISHES = 8, 40
"""Samples that a measurement keeps: moments at which lines were finished."""
MIN_YIELD = 0.01
PAUSE_TOLERANCE = 0.15
"""Share by which the lines between two pauses may grow the next time."""
MIN_GROWTH_OF_LATENCIES = 1.05
"""Growth in the number of latencies after which those of all endpoints are merged again: some microseconds each."""


def no_wait(sends: float) -> float:
    """Return the wait for quotas of a run without quotas."""
    return 0.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """Requests that the limits allow from now on; the default is a run without limits."""

    lines_per_s: float | None = math.inf
    """Speed that the rate limits allow; None while that depends on the tokens of a line, which are not known yet."""
    paced_s: float = 0.0
    """Seconds so far in which rate limits held the run back."""
    blocked_s: float = 0.0
    """Seconds from now on in which nothing can be sent."""
    is_rate_limited: bool = False
    """A rate limit of the provider is why nothing can be sent; it may block the run again soon."""
    quota_wait_s: Callable[[float], float] = no_wait
    """Return the seconds until a number of further requests is within the daily quotas."""
    finished_before: int = 0
    """Lines that earlier runs finished and that were not read yet, at most."""
    is_ending: bool = False
    """Nothing more is sent: only the requests in flight are left."""
    held_back: str = ""
    """Text for a person: which quota holds the run back for long, and until when."""


class TimeLeft:
    """Estimate the seconds that a number of lines takes. Call `observe` a few times a second.

    Memory and cost do not depend on the length of the run.
    """

    def __init__(self, counters: Counters, clock: Clock) -> None:
        self._counters = counters
        self._clock = clock
        self._seen_s = clock()
        self._active_s = 0.0
        """Seconds in which the run was not blocked; speeds are measured in these."""
        self._allowance = Allowance()
        self._is_blocked = False
        self._pauses = _Pauses()
        self._paced = RateMeter(lambda: self._active_s)
        self._early = EarlyLatency()
        self._finishes: deque[tuple[float, int]] = deque()
        self._longest_gap_s = 0.0
        self._sent, self._last_sent_s = 0, 0.0
        self._latencies = Histogram()

    def observe(self, allowance: Allowance) -> None:
        """Record the present counters and allowance."""
        now = self._clock()
        step_s, self._seen_s = now - self._seen_s, now
        was_blocked, self._allowance = self._is_blocked, allowance
        self._is_blocked = allowance.blocked_s >= MIN_PAUSE_S or (was_blocked and allowance.blocked_s > 0)
        if self._is_blocked and was_blocked:
            self._pauses.extend(step_s)
        else:
            self._active_s += step_s
            self._observe_sends()
            self._observe_finishes()
            self._paced.feed(allowance.paced_s)
        if self._is_blocked and not was_blocked and allowance.is_rate_limited:
            self._pauses.begin(self._active_s, self._finished)
        self._observe_latencies()

    def seconds(self, lines: int) -> float | None:
        """Return the seconds that further lines take; None if that is unknown."""
        if lines <= 0:
            return 0.0
        allowance, in_flight = self._allowance, self._counters.in_flight
        unsent = max(lines - in_flight, 0)
        quota_s = allowance.quota_wait_s(unsent / self._yield)
        per_s, is_paced = self._lines_per_s()
        if per_s is None and quota_s > 0:
            per_s = math.inf
        if per_s is None or per_s <= 0:
            return None
        pause_s = allowance.blocked_s if self._is_blocked else 0.0
        if not unsent:
            return pause_s + self._last_s(in_flight, per_s, self._active_s - self._last_sent_s)
        sending_s = unsent / per_s
        moment = _Moment(self._finished, self._active_s, pause_s)
        sending_s += self._pauses.expected_s(unsent, sending_s, moment)
        gone_s = 0.0 if is_paced else self._since_finish_s
        waiting_s = max(sending_s - gone_s, quota_s - pause_s, 0.0)
        return pause_s + waiting_s + self._last_s(max(in_flight, 1), per_s, 0.0)

    @property
    def lines_per_s(self) -> float | None:
        """Return the present speed; None while it is unknown."""
        return self._lines_per_s()[0]

    @property
    def _finished(self) -> int:
        return self._counters.succeeded + self._counters.failed

    @property
    def _yield(self) -> float:
        """Lines finished per request that ended."""
        counters = self._counters
        ended = counters.sent - counters.in_flight
        finished = self._finished - counters.malformed
        return min(max(finished / ended, MIN_YIELD), 1.0) if ended > 0 and finished > 0 else 1.0

    def _lines_per_s(self) -> tuple[float | None, bool]:
        """Return the speed, and whether it is that of a rate limit."""
        allowed, measured = self._allowance.lines_per_s, self._measured_per_s()
        if allowed is not None and allowed < math.inf and self._paced.now_per_s >= MIN_PACED_SHARE:
            is_explained = measured is None or measured >= MIN_SHARE_OF_ALLOWED * allowed
            if is_explained or self._measured_s < max(MIN_UNEXPLAINED_S, MIN_UNEXPLAINED_LATENCIES * self._latency_s):
                return allowed, True
        seen = self._early_per_s() if measured is None else measured
        if allowed is None or allowed == math.inf:
            return seen, False
        return (allowed, True) if seen is None or seen >= allowed else (seen, False)

    @property
    def _measured_s(self) -> float:
        return self._finishes[-1][0] - self._finishes[0][0] if self._finishes else 0.0

    @property
    def _since_finish_s(self) -> float:
        """Seconds since the last line was finished, at most a latency: the past part of a wave of answers."""
        return min(self._active_s - self._finishes[-1][0], self._latency_s) if self._finishes else 0.0

    def _measured_per_s(self) -> float | None:
        """Return the lines per second between the first and the last finish in the window; None if it is too short.

        If nothing was finished for much longer than usual, include the time since then.
        """
        if self._measured_s < max(MIN_MEASURED_S, MIN_LATENCIES * self._latency_s):
            return None
        (first_s, first), (last_s, last) = self._finishes[0], self._finishes[-1]
        if self._active_s - last_s > max(MIN_PAUSE_S, 2 * self._longest_gap_s, 2 * self._latency_s):
            last_s = self._active_s
        return (last - first) / (last_s - first_s)

    def _early_per_s(self) -> float | None:
        """Return the number in flight / the latency so far; without these, the average so far."""
        counters = self._counters
        latency_s = self._early.mean_s(self._latencies.quantile(0.0))
        if latency_s and counters.in_flight:
            return counters.in_flight / latency_s * self._yield
        finished = self._finished
        return finished / self._active_s if finished and self._active_s > 0 else None

    @property
    def _latency_s(self) -> float:
        """Mean latency of the answers so far."""
        return self._latencies.total_s / self._latencies.count if self._latencies.count else 0.0

    def _last_s(self, in_flight: int, per_s: float, age_s: float) -> float:
        """Return the seconds that the slowest of the requests, which were sent `age_s` ago, takes from now on."""
        if not self._latencies.count:
            return self._counters.in_flight / per_s
        older = self._latencies.share_above(age_s) or 1 / (self._latencies.count + 1)
        slowest_s = self._latencies.quantile(1.0 - older / 2 / in_flight) or 0.0
        return max(slowest_s - age_s, self._latency_s / self._latencies.count)

    def _observe_sends(self) -> None:
        counters = self._counters
        self._early.observe(self._active_s, counters.sent, counters.sent - counters.in_flight)
        if counters.sent > self._sent:
            self._sent, self._last_sent_s = counters.sent, self._active_s

    def _observe_finishes(self) -> None:
        finished, finishes = self._finished, self._finishes
        sample = (self._active_s, finished)
        if not finishes:
            if finished:
                finishes.append(sample)
            return
        if finished == finishes[-1][1]:
            return
        self._longest_gap_s = max(self._longest_gap_s, self._active_s - finishes[-1][0])
        window_s = min(max(self._active_s / 2, MIN_WINDOW_S), MAX_WINDOW_S)
        window_s = max(window_s, 2 * MIN_LATENCIES * self._latency_s)
        if len(finishes) > 1 and sample[0] - finishes[-2][0] < window_s / MAX_FINISHES:
            finishes[-1] = sample
        else:
            finishes.append(sample)
        while len(finishes) > MIN_FINISHES and finishes[1][0] <= self._active_s - window_s:
            finishes.popleft()

    def _observe_latencies(self) -> None:
        answers = sum(endpoint.latency.count for endpoint in self._counters.endpoints)
        if answers > MIN_GROWTH_OF_LATENCIES * self._latencies.count:
            self._latencies = self._counters.latency


class _Moment(NamedTuple):
    """Progress of a run: lines finished, seconds without pauses, and the rest of the present pause."""

    finished: int
    active_s: float
    pause_s: float


class _Pauses:
    """Record the pauses that rate limits of the provider cause, and predict further ones."""

    __slots__ = ("_count", "_first", "_first_active_s", "_last", "_paused_before_s", "_paused_s")

    def __init__(self) -> None:
        self._count = self._first = self._last = 0
        """Number of pauses, and of lines finished when the first and the last one began."""
        self._first_active_s = 0.0
        self._paused_s = self._paused_before_s = 0.0

    def begin(self, active_s: float, finished: int) -> None:
        """Record the begin of a pause."""
        self._count += 1
        if self._count == 1:
            self._first_active_s, self._first = active_s, finished
        self._last, self._paused_before_s = finished, self._paused_s

    def extend(self, seconds: float) -> None:
        """Record that the pause goes on."""
        if self._count:
            self._paused_s += seconds

    def expected_s(self, unsent: int, sending_s: float, moment: _Moment) -> float:
        """Return the seconds of further pauses while unsent lines are sent, without the rest of the present one.

        Several pauses will repeat. A single one may repeat regularly or never: the geometric mean of both is never far
        off. After as much time without a pause as before it, a single pause is expected not to repeat.
        """
        if self._last > self._first:
            lines_each = (self._last - self._first) / (self._count - 1)
            pauses = math.floor(max((unsent + moment.finished - self._last) / lines_each - PAUSE_TOLERANCE, 0.0))
            return pauses * self._paused_before_s / (self._count - 1)
        if self._count == 0 or not 0 < moment.active_s <= 2 * self._first_active_s:
            return 0.0
        return sending_s * (math.sqrt((moment.active_s + self._paused_s + moment.pause_s) / moment.active_s) - 1)
