"""Time left: how long a run still takes, by what the limits allow, what was finished lately, and what is in flight.

A set rate that holds the run back is the best that can be known of its speed. Else the speed is measured, between two
moments at which lines were finished, since slow models answer in waves. Before enough was measured, Little's law gives
it: throughput = number in flight / latency. Early answers are the fast ones, so requests without an answer count for
that latency, too: as a shifted exponential distribution, whose estimate is the least latency + time at risk beyond that
/ requests that ended (Lawless, Statistical Models and Methods for Lifetime Data, chapter 4).
"""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from llmblast.watching.counters import Counters
from llmblast.watching.rate_meter import Clock, RateMeter

MIN_PAUSE_S = 3.0
"""Shorter pauses are part of the speed."""
PACED_SHARE = 0.7
"""With so much of the time spent on waiting for set rates, they are the speed."""
MIN_SHARE_OF_ALLOWED = 0.8
"""Unless what was measured is less than this share of what they allow."""
MIN_MEASURED_S = 2.0
MIN_WINDOW_S, MAX_WINDOW_S = 10.0, 60.0
MIN_LATENCIES = 2.0
MIN_FINISHES, MAX_FINISHES = 8, 40
"""Moments at which lines were finished that a measurement keeps."""
MAX_SAMPLES = 4096
MIN_YIELD = 0.01


def no_wait(sends: float) -> float:
    """Return the seconds that no quota takes."""
    return 0.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is known of the time to come; the default is a run without limits."""

    lines_per_s: float | None = math.inf
    """By the set rates; None: it depends on the tokens of a line, which nobody knows yet."""
    paced_s: float = 0.0
    """Seconds so far in which set rates held the run back."""
    blocked_s: float = 0.0
    """Nothing can be sent for so long."""
    quota_wait_s: Callable[[float], float] = no_wait
    """Seconds until so many more requests are within the quotas of a day."""
    finished_before: int = 0
    """Lines that earlier runs finished and that were not read yet, at most."""
    held_back: str = ""
    """For a person: which quota holds the run back for long, and until when."""


class TimeLeft:
    """Follows the counters: `observe` a few times a second, then ask for the seconds that a number of lines takes.

    Its memory and its cost do not depend on how long the run is.
    """

    def __init__(self, counters: Counters, clock: Clock) -> None:
        self._counters = counters
        self._clock = clock
        self._seen_s = clock()
        self._active_s = 0.0
        """Seconds in which the run was not blocked: the time that speed is measured by."""
        self._is_blocked = False
        self._paced = RateMeter(lambda: self._active_s)
        self._finishes: deque[tuple[float, int]] = deque()
        self._longest_gap_s = 0.0
        self._sends: deque[tuple[float, int, float]] = deque([(0.0, 0, 0.0)], maxlen=MAX_SAMPLES)
        """Active seconds, sends so far, and the integral of these over time."""
        self._ended = (0, 0.0)
        """Sends that ended, and the integral of these over time."""
        self._allowance = Allowance()

    def observe(self, allowance: Allowance) -> None:
        """Take in the counters as they are, and what is allowed from now on."""
        now = self._clock()
        step_s, self._seen_s = now - self._seen_s, now
        is_long = allowance.blocked_s >= MIN_PAUSE_S or (self._is_blocked and allowance.blocked_s > 0)
        if not (self._is_blocked and is_long):
            self._active_s += step_s
            self._observe_finishes()
            self._observe_sends(step_s)
            self._paced.feed(allowance.paced_s)
        self._is_blocked = is_long
        self._allowance = allowance

    def seconds(self, lines: int) -> float | None:
        """Return how long so many more lines take; None where nothing says so."""
        allowance, in_flight = self._allowance, self._counters.in_flight
        per_s = self._lines_per_s()
        if per_s is None or per_s <= 0:
            return None
        unsent = max(lines - in_flight, 0)
        latency_s = self._latency_s() or in_flight / per_s
        sending_s = max(unsent / per_s, allowance.quota_wait_s(unsent / self._yield))
        return allowance.blocked_s + sending_s + min(latency_s, lines / per_s)

    @property
    def _yield(self) -> float:
        """Lines finished for each request that ended."""
        counters = self._counters
        ended = counters.sent - counters.in_flight
        finished = counters.succeeded + counters.failed - counters.malformed
        return min(max(finished / ended, MIN_YIELD), 1.0) if ended > 0 and finished > 0 else 1.0

    def _lines_per_s(self) -> float | None:
        allowed, measured = self._allowance.lines_per_s, self._measured_per_s()
        if allowed is None and measured is None:
            return None
        allowed = math.inf if allowed is None else allowed
        if self._paced.now_per_s >= PACED_SHARE and allowed < math.inf:
            is_explained = measured is None or measured >= MIN_SHARE_OF_ALLOWED * allowed
            return allowed if is_explained else measured
        return _least(allowed, self._early_per_s() if measured is None else measured)

    def _measured_per_s(self) -> float | None:
        """Return the lines a second between the first and the last finish in the window; None before it is long enough.

        Where nothing has been finished for much longer than usual, the time since then counts, too.
        """
        if len(self._finishes) < 2:
            return None
        (first_s, first), (last_s, last) = self._finishes[0], self._finishes[-1]
        latency_s = self._latency_s() or 0.0
        if last_s - first_s < max(MIN_MEASURED_S, MIN_LATENCIES * latency_s):
            return None
        if self._active_s - last_s > max(MIN_PAUSE_S, 2 * self._longest_gap_s, 2 * latency_s):
            last_s = self._active_s
        return (last - first) / (last_s - first_s)

    def _early_per_s(self) -> float | None:
        """Return what the number in flight and the latency so far say; without them, the average so far."""
        counters = self._counters
        latency_s = self._expected_latency_s()
        if latency_s and counters.in_flight:
            return counters.in_flight / latency_s * self._yield
        finished = counters.succeeded + counters.failed
        return finished / self._active_s if finished and self._active_s > 0 else None

    def _latency_s(self) -> float | None:
        """Return the mean latency of the answers so far."""
        endpoints = self._counters.endpoints
        answers = sum(endpoint.latency.count for endpoint in endpoints)
        return sum(endpoint.latency.total_s for endpoint in endpoints) / answers if answers else None

    def _expected_latency_s(self) -> float | None:
        leasts = [least for e in self._counters.endpoints if (least := e.latency.quantile(0.0)) is not None]
        ended, ended_integral = self._ended
        if not leasts or not ended:
            return None
        least_s = min(leasts)
        at_risk_s = self._sends_integral(self._active_s - least_s) - ended_integral
        return least_s + max(at_risk_s, 0.0) / ended

    def _sends_integral(self, at_s: float) -> float:
        """Return the integral of the sends so far over time, up to a moment in the past."""
        index = max(bisect_right(self._sends, at_s, key=lambda sample: sample[0]) - 1, 0)
        since_s, sends, integral = self._sends[index]
        return integral + sends * max(at_s - since_s, 0.0)

    def _observe_sends(self, step_s: float) -> None:
        """Sends and ends count from the middle of the step in which they were seen."""
        counters, (_, sends, integral) = self._counters, self._sends[-1]
        self._sends.append((self._active_s, counters.sent, integral + step_s * (sends + counters.sent) / 2))
        ended, ended_integral = self._ended
        now_ended = counters.sent - counters.in_flight
        self._ended = now_ended, ended_integral + step_s * (ended + now_ended) / 2

    def _observe_finishes(self) -> None:
        finished, finishes = self._counters.succeeded + self._counters.failed, self._finishes
        sample = (self._active_s, finished)
        if not finishes:
            if finished:
                finishes.append(sample)
            return
        if finished > finishes[-1][1]:
            self._longest_gap_s = max(self._longest_gap_s, self._active_s - finishes[-1][0])
            window_s = min(max(self._active_s / 2, MIN_WINDOW_S), MAX_WINDOW_S)
            window_s = max(window_s, 2 * MIN_LATENCIES * (self._latency_s() or 0.0))
            if len(finishes) > 1 and sample[0] - finishes[-2][0] < window_s / MAX_FINISHES:
                finishes[-1] = sample
            else:
                finishes.append(sample)
            while len(finishes) > MIN_FINISHES and finishes[1][0] <= self._active_s - window_s:
                finishes.popleft()


def _least(allowed: float, seen: float | None) -> float | None:
    """Return the lesser of the two; None where neither says anything."""
    if seen is None:
        return allowed if allowed < math.inf else None
    return min(allowed, seen)
