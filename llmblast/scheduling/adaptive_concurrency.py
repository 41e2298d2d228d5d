"""Adaptive concurrency: limit the requests in flight at one endpoint whose limits nobody has set.

Slow start (RFC 5681) opens the limit, paced so that no round trip brings a crowd. Latency that meanwhile rises nearly
as fast as the number in flight shows a full server: the limit goes to twice the bandwidth-delay product, as in BBR (ACM
Queue 14(5), 2016). From time to time a bracketing search (Kiefer 1953) looks for the number in flight with the best
power (Kleinrock, ICC 1979): throughput, by Little's law in flight / latency, less a price for each request in flight.
Searches cost a hundredth of the throughput.
"""

import math

from llmblast.scheduling.latency_sample import LatencySample
from llmblast.scheduling.limits import Concurrency

FIRST, DOUBLING_S, MAX_OPENING_S, PUSH_BACK_PAUSE_S = 4, 0.25, 2.5, 1.0
MAX_PACED_LATENCY_S, PACING_CREDIT_S, PACED_S = 0.25, 0.001, 10.0
"""Pacing spreads a window's requests over half of a latency, or of this; see `_pace`."""
SHORTEST_SERVICE_S = 0.02
"""No model answers faster: below this, latency tells how busy this machine is."""
PRICE, DOUBT = 0.05, 0.5
"""Twice as many in flight have to bring 3.5 % more throughput, and half of a standard error."""
SATURATED, LINEAR = 0.55, 0.25
"""Elasticity of latency, d log latency / d log in flight: 1 and more where a server is full, 0 where it scales."""
OPENING_SENDS, MIN_SENDS, MAX_SENDS, ERRORS_PER_STEP = 64, 100, 1000, 8.0
FULL, MAX_ROUNDS, MIN_STEP, LOOK_STEP, MAX_STEP = 0.9, 8, 1.09, 1.41, 2.0
SEARCH_SHARE, FIRST_PATIENCE, MAX_PATIENCE, MAX_PATIENCE_BOUND = 0.01, 0.36, 4.0, 1.0


class AdaptiveConcurrency(Concurrency):
    """At most `slots` requests in flight; fewer while the limit opens, and where fewer serve the endpoint best."""

    is_learned = True

    def __init__(self, name: str, slots: int) -> None:
        super().__init__(name, min(slots, FIRST))
        self.max_slots = self._best = self._target = slots
        self._doubling_s = min(DOUBLING_S, MAX_OPENING_S / max(math.ceil(math.log2(slots / FIRST)), 1))
        self._doubles_s = -math.inf
        self._is_paced, self._paced_until_s, self._next_s, self._latency_s = True, 0.0, -math.inf, 0.0
        self._is_opening, self._rest, self._patience = True, 0, FIRST_PATIENCE
        self._floor, self._ceiling, self._step = 0.0, math.inf, MAX_STEP
        self._level = LatencySample(0, 0)
        self._sample = LatencySample(OPENING_SENDS / 2, MAX_ROUNDS * min(slots, MAX_SENDS))

    @property
    def bound(self) -> int | None:
        """How many in flight serve the endpoint best; None when nothing is held back."""
        return self._best if self._best < self.max_slots else None

    @property
    def is_open(self) -> bool:
        """Return whether slow start has ended."""
        return self._slots >= self._target

    def ready_at(self, cost: float, now: float) -> float:
        """Return the moment of the pace, or when slow start doubles next; once open, only a release tells."""
        if self._taken < self._slots:
            return self._next_s if self._is_paced else now
        if self._slots >= self._target:
            return math.inf
        if now > self._doubles_s + DOUBLING_S:
            self._doubles_s = now + self._doubling_s
        if now >= self._doubles_s:
            self._slots, self._doubles_s = min(2 * self._slots, self._target), now + self._doubling_s
            return now
        return self._doubles_s

    def acquire(self, cost: float, now: float) -> None:
        """Occupy slots; a sample begins when all of them are taken."""
        self._taken += cost
        if self._is_paced:
            self._pace(now)
        if not self._rest:
            limit = self._slots if self._is_opening else self._target
            if self._sample.has_begun or self._taken >= FULL * limit:
                self._sample.on_send(self._taken, now)

    def on_push_back(self, now: float) -> None:
        """Suspend slow start by time, and pace again; answers still open the limit."""
        self._doubles_s = now + PUSH_BACK_PAUSE_S
        self._is_paced, self._paced_until_s = True, now + PACED_S

    def on_answer(self, sent_s: float, latency_s: float, now: float) -> None:
        """Record a usable answer, whose slot is still taken."""
        if self._slots < self._target:
            self._slots += 1
            self._paced_until_s = max(self._paced_until_s, now + latency_s)
        elif self._is_paced and now >= self._paced_until_s:
            self._is_paced = False
        if self._is_paced:
            self._latency_s += 0.2 * (latency_s - self._latency_s) if self._latency_s else latency_s
        if latency_s < SHORTEST_SERVICE_S and self._target >= self.max_slots <= self._best:
            return
        if self._rest:
            self._rest -= 1
        elif self._sample.on_answer(sent_s, max(latency_s, SHORTEST_SERVICE_S)):
            self._judge(self._sample, self._level)

    def _pace(self, now: float) -> None:
        """Space requests at twice the rate of the window, as TCP does in slow start: no round trip brings a crowd."""
        gap_s = min(self._latency_s, MAX_PACED_LATENCY_S) / (2 * self._slots)
        credit_s = PACING_CREDIT_S if self._slots > 8 else 0.0
        self._next_s = max(self._next_s, now - credit_s) + gap_s

    def _judge(self, sample: LatencySample, level: LatencySample) -> None:
        is_full = sample.is_complete and sample.load >= FULL * self._target
        if self._is_opening:
            self._judge_opening(sample, level if level.answers else sample, is_full=is_full)
        elif not is_full:
            self._stay()
        elif self._target == self._best:
            self._level = sample
            self._search()
        else:
            self._judge_trial(sample, *sample.compare(level))

    def _judge_opening(self, sample: LatencySample, first: LatencySample, *, is_full: bool) -> None:
        self._sample = LatencySample(OPENING_SENDS, MAX_ROUNDS * (OPENING_SENDS + self._taken))
        if not sample.is_complete:
            return
        growth, rise, error = sample.compare(first)
        self._level = first
        if rise - 2 * error > SATURATED * max(growth, math.log(2)):
            product = max(first.load, sample.load * math.exp(-rise))
            self._best = min(round(2 * product), round(sample.load), self.max_slots)
            self._patience = 0.0
            self._stay()
        elif is_full:
            self._stay()

    def _judge_trial(self, sample: LatencySample, growth: float, rise: float, error: float) -> None:
        trial, best = self._target, self._best
        if (1.0 - PRICE) * growth - rise > (DOUBT * error if trial > best else 0.0):
            self._floor, self._ceiling = (best, self._ceiling) if trial > best else (self._floor, best)
            self._best, self._level, self._step = trial, sample, min(self._step**2, MAX_STEP)
        elif trial > best:
            self._ceiling = trial
        else:
            self._floor = best if rise + 2 * error > LINEAR * growth else trial
        self._search()

    def _search(self) -> None:
        """Try the number in flight farthest from the best one within the bracket; hold the best when none is left."""
        best, step = self._best, self._step
        below = round(math.sqrt(best * self._floor) if self._floor else min(best / step, best - 1))
        above = round(math.sqrt(best * self._ceiling) if self._ceiling < math.inf else max(best * step, best + 1))
        above = self.max_slots if above * MIN_STEP > self.max_slots else above
        down, up = max(below, 1) if below > self._floor else best, above if above < self._ceiling else best
        trial = down if best / down >= up / best else up
        step = max(trial / best, best / trial)
        if step > 1 and step >= self._finest(MIN_STEP):
            self._measure(trial, step)
            return
        longest = MAX_PATIENCE if self.bound is None else MAX_PATIENCE_BOUND
        self._patience = min(max(4 * self._patience, FIRST_PATIENCE), longest)
        self._slots = best
        self._stay()

    def _stay(self) -> None:
        """Hold the best number in flight, for a pause that pays for the next search."""
        step = LOOK_STEP if self.bound is None else MIN_STEP if self._patience else MAX_STEP
        self._is_opening, self._floor, self._ceiling, self._step = False, 0.0, math.inf, self._finest(step)
        self._measure(self._best, self._step)
        cost = (1.0 - 1.0 / self._step) * (self._sends(self._step) + self._best)
        self._rest = int(self._patience * cost / SEARCH_SHARE)

    def _measure(self, target: int, step: float) -> None:
        """Hold `target` in flight and sample as many latencies as it takes to judge such a step."""
        self._target, self._slots, self._rest = target, min(self._slots, target), 0
        self._sample = LatencySample(self._sends(step), MAX_ROUNDS * (self._sends(step) + self._taken))

    def _sends(self, step: float) -> float:
        return max(min((ERRORS_PER_STEP * self._level.deviation / math.log(step)) ** 2, MAX_SENDS), MIN_SENDS)

    def _finest(self, step: float) -> float:
        """Return that step, or the smallest one that latencies so spread out let us judge."""
        return max(step, math.exp(ERRORS_PER_STEP * self._level.deviation / math.sqrt(MAX_SENDS)))
