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

from llmblast.scheduling.climbing import DOUBTFUL, FIRST_STEP, Climb
from llmblast.scheduling.cohorts import LEAST_ERROR, Cohort, Level
from llmblast.scheduling.limits import Concurrency

ERRORS_PER_STEP = 8
"""A step of log in flight is as wide as this many standard errors of log latency: that tells elasticity to 0.2."""
VAGUE = 1.5
"""Levels whose error is larger than the step asks for, by this factor, are measured again."""
MOST_SENDS = 1000
LEAST_SENDS = 100
LEAST_ROUNDS = 3
"""For precision a cohort is no larger than the first. It has one round at least, up to three while below the second."""
GROWTH = 1.5
"""By this factor the number in flight has to grow to show an elasticity."""
SATURATED = 0.6
"""An elasticity, less two standard errors: above it a climb begins at once, above DOUBTFUL there is a look soon."""
LOOK_STEP = 1.41
FINEST_STEP = 1.09
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


class CapacityWindow(Concurrency):
    """Requests in flight at one endpoint: at most `slots`, and no more than serve it best once that is known.

    It watches the latency of a cohort, rests, and watches again, unbound or bound; or it climbs, with the candidate as
    its width while that is measured. Its state does not grow, and its hot path is `Cohort.add`, or nothing at rest.
    """

    is_learned = True
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
