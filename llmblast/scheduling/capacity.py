"""Capacity window: how many requests in flight make the most of a server whose capacity nobody named.

By Little's law (Operations Research 9(3), 1961) throughput is the number in flight divided by latency. A provider that
scales keeps its latency as more are in flight. A server that is full does not: latency grows as fast as the number, or
faster, and what is above the number that fills it only waits, or costs throughput. The elasticity tells them apart: by
how much log latency grows with log in flight, 0 for the one, 1 and more for the other. The opening of a run shows it
for free, since then the number grows anyway. A full server is climbed down to its best; any other is left alone, but
for a look at a smaller number now and then, after so many answers that it costs next to nothing.
"""

import math
import sys
from dataclasses import dataclass

from llmblast.scheduling.limits import Concurrency

ANSWERED_SHARE = 0.95
"""A cohort is measured when so much of it is answered: the last straggler of a skewed distribution takes ages."""
LEAST_ANSWERED_SHARE = 0.8
LONGEST_ROUNDS = 8
"""After so many times its size in answers a cohort is taken as it is, or given up: something else holds sends back."""
ERRORS_PER_STEP = 8
"""A step of log in flight is as wide as this many standard errors of log latency: that tells elasticity to 0.2."""
VAGUE = 1.5
"""Levels whose error is larger than the step asks for, by this factor, are measured again."""
MOST_SENDS = 1000
LEAST_SENDS = 100
LEAST_ROUNDS = 3
"""For precision a cohort is no larger than the first. It has one round at least, up to three while below the second."""
LEAST_ERROR = 0.005
"""Nothing is known better than that: requests that waited in one queue tell the same."""

GROWTH = 1.5
"""By this factor the number in flight has to grow to show an elasticity."""
SATURATED = 0.6
DOUBTFUL = 0.25
"""Elasticities, less two standard errors. Above the first a climb begins at once, above the second there is a look
soon; below the second throughput grows as the number does, and nothing between two levels is better than both.
"""
FIRST_STEP = 2.0
LOOK_STEP = 1.41
FINEST_STEP = 1.09
TOLERANCE = 0.03
TOLERANCE_PER_STEP = 0.12
"""Log throughput that is given up for fewer in flight: at most, and of the step in log in flight."""

CHANGE = 0.1
CHANGED_SPREAD = 1.5
"""Log latency at one level that differs by more, or its deviation by the factor, is measured again before it counts."""
LOOKING_SHARE = 0.01
"""Of the throughput, what looking at other levels may cost."""
SOON = -3
MOST_DOUBLINGS = 5
MOST_DOUBLINGS_BOUND = 1
"""A look in vain doubles the pause before the next one; not for long where the server may gain what we hold back."""
WATCHING_PAUSE = 8
"""Rounds between two measurements of the same level."""

UNBOUNDED = sys.maxsize
_SHORTEST_S = 1e-6


@dataclass(frozen=True, slots=True)
class Level:
    """What a number in flight leads to. `deviation` is that of log latency, `error` the standard error of its mean."""

    in_flight: float
    log_latency: float
    deviation: float
    error: float

    @property
    def log_throughput(self) -> float:
        """Answers per second, but for a factor that all levels share: the geometric mean of latencies is the lower."""
        return math.log(self.in_flight) - self.log_latency


class Cohort:
    """Latencies of `size` requests sent one after the other while from `low` to `high` were in flight.

    A cohort is what was sent in a stretch of time, followed until it is answered: the first answers to come would be
    the quick ones. What is late counts as late as it is by then. How many were sent is known without counting sends:
    as many as were answered meanwhile, and as many more as the number in flight has grown by.
    """

    __slots__ = (
        "_answers",
        "_count",
        "_high",
        "_load",
        "_low",
        "_since_s",
        "_squares",
        "_start",
        "_sum",
        "_until_s",
        "seen",
        "size",
    )

    def __init__(self, size: int, low: float = 1.0, high: float = math.inf) -> None:
        self.size = size
        self.seen = 0
        """Answers since it was made, to whatever request."""
        self._low = low
        self._high = high
        self._since_s = self._until_s = math.inf
        self._start = self._load = self._sum = self._squares = 0.0
        self._answers = self._count = 0

    def add(self, in_flight: float, sent_s: float, latency_s: float, now: float) -> bool:
        """One answer, which still counts as in flight; True when there is nothing more to wait for."""
        self.seen += 1
        if not self._low <= in_flight <= self._high:
            self._since_s = math.inf
            return self._is_late(in_flight)
        if self._since_s == math.inf:
            self._begin(in_flight, now)
        elif self._since_s <= sent_s < self._until_s:
            log_latency = math.log(latency_s + _SHORTEST_S)
            self._count += 1
            self._sum += log_latency
            self._squares += log_latency * log_latency
        if self._until_s != math.inf:
            return self._count >= ANSWERED_SHARE * self.size or self._is_late(in_flight)
        if self._answers + in_flight - self._start >= self.size:
            self._close(in_flight, now)
            return self._count >= ANSWERED_SHARE * self.size
        self._answers += 1
        self._load += in_flight
        return False

    def level(self, now: float) -> Level | None:
        """What was measured; None when the number in flight did not stay, or too many answers are missing."""
        is_open = math.inf in (self._until_s, self._since_s)
        if is_open or self._count < LEAST_ANSWERED_SHARE * self.size:
            return None
        late = max(self.size - self._count, 0)
        late_log = max(self._sum / self._count, math.log(now - self._until_s + _SHORTEST_S))
        count = self._count + late
        mean = (self._sum + late * late_log) / count
        deviation = math.sqrt(max((self._squares + late * late_log**2) / count - mean**2, 0.0))
        error = math.hypot(deviation / math.sqrt(count), LEAST_ERROR)
        return Level(self._load, mean, deviation, error)

    def _begin(self, in_flight: float, now: float) -> None:
        self.size = max(self.size, int(in_flight))
        self._since_s, self._until_s = now, math.inf
        self._start = in_flight
        self._load = self._sum = self._squares = 0.0
        self._answers = self._count = 0

    def _close(self, in_flight: float, now: float) -> None:
        """What is sent from now on is none of it. The load becomes the mean of all sends: growth made two an answer."""
        self.size = int(self._answers + in_flight - self._start)
        more = max(in_flight - self._start, 0.0)
        self._load = (self._load + more * (self._start + in_flight) / 2) / (self._answers + more)
        self._until_s = now

    def _is_late(self, in_flight: float) -> bool:
        return self.seen > LONGEST_ROUNDS * max(self.size, in_flight)


class Climb:
    """The search for the best number in flight: steps to one side while they are good, then halfway to the bounds.

    `loss` is the log throughput by which the start is known to be short of the best.
    """

    __slots__ = ("_ceiling", "_floor", "_most", "_peak", "_step", "best", "has_moved", "level")

    def __init__(self, best: int, level: Level, step: float, *, upward: bool, most: int, loss: float = 0.0) -> None:
        self.best = best
        self.level = level
        self.has_moved = False
        self._step = step
        self._most = most
        self._floor = float(best) if upward else 0.0
        self._ceiling = math.inf if upward else float(best)
        self._peak = level.log_throughput - level.error + loss
        """What some level has at least: the highest of many that are not quite known is mostly luck."""

    @property
    def loss(self) -> float:
        """Log throughput that was given up for fewer in flight."""
        return self._peak - (self.level.log_throughput - self.level.error)

    def ratio(self, in_flight: int) -> float:
        """The step from the best so far, 1 or more."""
        return max(in_flight / self.best, self.best / in_flight)

    def candidate(self) -> int:
        """The next number to measure, on the side where more is open; the best itself when nothing is."""
        best = self.best
        below = round(math.sqrt(best * self._floor) if self._floor else min(best / self._step, best - 1))
        above = round(math.sqrt(best * self._ceiling) if self._ceiling < math.inf else max(best * self._step, best + 1))
        down = below if below > self._floor else best
        up = min(above, self._most) if above < self._ceiling else best
        return down if self.ratio(down) >= self.ratio(up) else up

    def judge(self, in_flight: int, level: Level) -> None:
        """Goes there or takes it as a bound. Fewer in flight are preferred unless more bring clearly more."""
        if in_flight == self.best:
            self._confirm(level)
            return
        step = math.log(self.ratio(in_flight))
        gain = level.log_throughput - self.level.log_throughput
        tolerance = min(TOLERANCE, TOLERANCE_PER_STEP * step)
        if in_flight > self.best:
            if gain > tolerance:
                self._floor = self.best
                self._go(in_flight, level)
            else:
                self._ceiling = in_flight
        elif level.log_throughput + level.error >= self._peak - tolerance:
            self._ceiling = self.best
            self._go(in_flight, level)
        else:
            doubt = 2 * math.hypot(level.error, self.level.error)
            is_linear = gain + doubt < (DOUBTFUL - 1.0) * step
            self._floor = self.best if is_linear else in_flight
        self._peak = max(self._peak, level.log_throughput - level.error)

    def _confirm(self, level: Level) -> None:
        """The best so far was measured again, and better."""
        if self.loss <= 0.0:
            self._peak = -math.inf
        self.level = level
        self._peak = max(self._peak, level.log_throughput - level.error)

    def _go(self, in_flight: int, level: Level) -> None:
        self.best, self.level, self.has_moved = in_flight, level, True
        self._step = min(self._step**2, FIRST_STEP)


class CapacityWindow(Concurrency):
    """Requests in flight at one endpoint: at most `slots`, and no more than serve it best once that is known.

    It watches the latency of a cohort, rests, and watches again, unbound or bound; or it climbs, with the candidate as
    its width while that is measured. Its state does not grow, and its hot path is `Cohort.add`, or nothing at rest.
    """

    __slots__ = (
        "_climb",
        "_cohort",
        "_deviation",
        "_doublings",
        "_has_doubt",
        "_is_opening",
        "_level",
        "_loss",
        "_most",
        "_rest",
        "_shift",
        "_since_look",
        "_step",
        "_upward",
        "_width",
    )

    def __init__(self, name: str, slots: int = UNBOUNDED) -> None:
        super().__init__(name, slots)
        self._most = self._width = slots
        self._cohort = Cohort(1)
        self._climb: Climb | None = None
        self._level: Level | None = None
        self._is_opening = True
        self._deviation = 0.0
        self._step = FIRST_STEP
        self._loss = 0.0
        self._shift = 0.0
        self._has_doubt = False
        self._upward = False
        self._rest = 0
        self._since_look = 0
        self._doublings = 0

    @property
    def bound(self) -> int | None:
        """How many in flight serve the endpoint best; None as long as there is no reason to hold anything back."""
        return self._width if self._width < self._most else None

    def answered(self, sent_s: float, latency_s: float, now: float) -> None:
        """A usable answer came; its slot is not settled yet."""
        if self._rest:
            self._rest -= 1
        elif self._cohort.add(self._taken, sent_s, latency_s, now):
            level = self._cohort.level(now)
            if self._climb is None:
                self._watched(level)
            else:
                self._climbed(self._climb, level)

    def _watched(self, level: Level | None) -> None:
        self._since_look += self._cohort.seen
        known = self._level
        if level is None or known is None:
            self._know(level)
            self._watch()
            return
        growth = math.log(level.in_flight / known.in_flight)
        shift = level.log_latency - known.log_latency
        error = math.hypot(level.error, known.error)
        if self._is_opening and growth >= math.log(GROWTH):
            self._know(level)
            self._judge_opening(level, growth, shift, error)
            return
        self._is_opening = False
        has_changed = abs(shift) > max(CHANGE, 4 * error)
        is_strange = has_changed or level.deviation > CHANGED_SPREAD * self._deviation
        if is_strange and not self._has_doubt:
            self._has_doubt = True
            self._watch(at_once=True)
            return
        self._has_doubt = False
        self._know(level)
        if has_changed:
            self._shift += shift
            self._doublings = min(self._doublings, 0)
        if self._since_look >= self._patience(level):
            self._look(level)
        else:
            self._watch()

    def _know(self, level: Level | None) -> None:
        if level is not None:
            self._level, self._deviation = level, level.deviation

    def _judge_opening(self, level: Level, growth: float, shift: float, error: float) -> None:
        """Latency that rises far less than it should, or falls, may be that of a server that was still warming up."""
        if (shift - 2 * error) / growth > SATURATED:
            self._start(level, FIRST_STEP, upward=False)
        else:
            self._doublings = SOON if (abs(shift) - 2 * error) / growth > DOUBTFUL else 0
            self._watch()

    def _look(self, level: Level) -> None:
        """Tries a step: down when nothing is bound, else to where a change points, else to either side in turn."""
        has_changed = abs(self._shift) > CHANGE
        step = self._resolvable(LOOK_STEP if has_changed else self._finest)
        if self.bound is None:
            self._start(level, step, upward=False)
        elif has_changed:
            self._start(level, step, upward=self._shift < 0)
        else:
            self._upward = not self._upward
            self._start(level, step, upward=self._upward)

    def _start(self, level: Level, step: float, *, upward: bool) -> None:
        self._is_opening = False
        in_flight = round(level.in_flight) if self.bound is None else self._width
        self._climb = Climb(in_flight, level, step, upward=upward, most=self._most, loss=self._loss)
        self._go_on(self._climb, 1.0)

    def _climbed(self, climb: Climb, level: Level | None) -> None:
        if level is None:
            self._end(climb)
            return
        self._deviation = level.deviation
        if self._is_vague(level, self._step, self._slots):
            self._measure(self._slots, self._step)
            return
        climb.judge(self._slots, level)
        self._go_on(climb, self._resolvable(FINEST_STEP))

    def _go_on(self, climb: Climb, finest: float) -> None:
        candidate = climb.candidate()
        step = climb.ratio(candidate)
        if candidate == climb.best or step < finest:
            self._end(climb)
        elif self._is_vague(climb.level, step, climb.best):
            self._measure(climb.best, step)
        else:
            self._measure(candidate, step)

    def _is_vague(self, level: Level, step: float, in_flight: int) -> bool:
        """Whether it is known much worse than such a step asks for."""
        error = math.hypot(self._deviation / math.sqrt(self._sends(step, in_flight)), LEAST_ERROR)
        return level.error > VAGUE * error

    def _measure(self, in_flight: int, step: float) -> None:
        self._slots = in_flight
        self._step = step
        self._cohort = self._bound_cohort(step)

    def _end(self, climb: Climb) -> None:
        self._climb = None
        if climb.has_moved:
            self._width, self._level, self._loss = climb.best, climb.level, climb.loss
            self._doublings = 0
        else:
            most = MOST_DOUBLINGS if self.bound is None else MOST_DOUBLINGS_BOUND
            self._doublings = min(max(self._doublings, -1) + 1, most)
        self._slots = self._width
        self._shift = 0.0
        self._since_look = 0
        self._watch()

    def _watch(self, *, at_once: bool = False) -> None:
        """Measures the present level anew, after a rest that ends when a look is due."""
        if self._is_opening:
            self._cohort = Cohort(self._sends(FIRST_STEP, 1))
            return
        step = self._resolvable(self._finest)
        self._cohort = Cohort(self._sends(step, 1)) if self.bound is None else self._bound_cohort(step)
        if self._level is not None and not at_once:
            pause = max(self._patience(self._level) - self._since_look, 0.0)
            self._rest = int(min(pause, WATCHING_PAUSE * max(self._cohort.size, self._level.in_flight)))
            self._since_look += self._rest

    def _bound_cohort(self, step: float) -> Cohort:
        """One that counts only what is sent while the window is full, to a tenth or to one."""
        slots = self._slots
        return Cohort(self._sends(step, slots), max(slots - max(1, slots // 10), 1), slots)

    @property
    def _finest(self) -> float:
        return LOOK_STEP if self.bound is None else FINEST_STEP

    def _resolvable(self, step: float) -> float:
        """That step, or the smallest that latencies so spread out let us judge."""
        return max(step, math.exp(ERRORS_PER_STEP * self._deviation / math.sqrt(MOST_SENDS)))

    def _sends(self, step: float, in_flight: int) -> int:
        """How many latencies it takes to judge a step."""
        precise = math.ceil((ERRORS_PER_STEP * self._deviation / math.log(step)) ** 2)
        return max(min(precise, MOST_SENDS), min(LEAST_ROUNDS * in_flight, LEAST_SENDS), in_flight)

    def _patience(self, level: Level) -> float:
        """Answers after which a look costs no more than its share of them."""
        step = self._resolvable(self._finest)
        cost = (1.0 - 1.0 / step) * (self._sends(step, int(level.in_flight)) + level.in_flight)
        return cost / LOOKING_SHARE * 2.0**self._doublings
