"""Adaptive concurrency: limit the requests in flight at one endpoint without limits in the settings.

Slow start (RFC 5681) opens the limit, paced so that requests are spread over each round trip. Latency that meanwhile
rises nearly as fast as the number in flight shows a full server: the limit goes to twice the bandwidth-delay product,
as in BBR (ACM Queue 14(5), 2016). From time to time a `HillClimber` looks for a better number.
"""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final

from llmblast.scheduling.hill_climber import MAX_SENDS, HillClimber
from llmblast.scheduling.latency_sample import LatencySample
from llmblast.scheduling.limits import Concurrency

FIRST_SLOTS, DOUBLING_S, MAX_OPENING_S, PUSH_BACK_PAUSE_S = 4, 0.25, 2.5, 1.0
MAX_PACED_LATENCY_S, PACING_CREDIT_S, PACED_S = 0.25, 0.001, 10.0
"""Pacing spreads a window's requests over half of a latency, or of this; see `_Pacer`."""
SHORTEST_SERVICE_S: Final = 0.02
"""No model answers faster: below this, latency tells how busy this machine is."""
SATURATED: Final = 0.55
"""Elasticity of latency, as in `hill_climber`, that shows a full server."""
OPENING_SENDS, MAX_ROUNDS = 64, 8
FULL: Final = 0.9


class Phase(Enum):
    """Phase of an `AdaptiveConcurrency`."""

    OPENING = "opening"
    HOLDING = "holding the best number"
    TRYING = "trying another number"


@dataclass(slots=True)
class _Pacer:
    """Spaces requests at twice the rate of the window, as TCP does in slow start, until `until_s`."""

    until_s: float = 0.0
    next_s: float = -math.inf
    latency_s: float = 0.0

    def on_send(self, slots: int, now: float) -> None:
        """Let the next request wait."""
        gap_s = min(self.latency_s, MAX_PACED_LATENCY_S) / (2 * slots)
        credit_s = PACING_CREDIT_S if slots > 8 else 0.0
        self.next_s = max(self.next_s, now - credit_s) + gap_s


class AdaptiveConcurrency(Concurrency):
    """At most `slots` requests in flight; fewer while the limit opens, and where fewer serve the endpoint best."""

    is_learned = True

    def __init__(self, name: str, slots: int) -> None:
        super().__init__(name, min(slots, FIRST_SLOTS))
        self.max_slots = self._target = slots
        self._doubling_s = min(DOUBLING_S, MAX_OPENING_S / max(math.ceil(math.log2(slots / FIRST_SLOTS)), 1))
        self._doubles_s = -math.inf
        self._pacer, self._is_paced = _Pacer(), True
        self._phase, self._pause = Phase.OPENING, 0
        """The pause is counted in answers: none of them is sampled."""
        self._climber = HillClimber(slots)
        self._sample = LatencySample(OPENING_SENDS / 2, MAX_ROUNDS * min(slots, MAX_SENDS))

    def __repr__(self) -> str:
        return f"AdaptiveConcurrency({self.name!r}, {self._phase.value}, {self._taken:.0f} of {self._slots} in flight)"

    @property
    def bound(self) -> int | None:
        """Return the number in flight that serves the endpoint best; None when nothing is held back."""
        return self._climber.best if self._climber.is_bounded else None

    @property
    def is_open(self) -> bool:
        """Return whether slow start has ended."""
        return self._slots >= self._target

    def ready_at(self, cost: float, now: float) -> float:
        """Return the moment of the pace, or when slow start doubles next; once open, only a release tells."""
        if self._taken < self._slots:
            return self._pacer.next_s if self._is_paced else now
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
            self._pacer.on_send(self._slots, now)
        if not self._pause:
            sample = self._sample
            if sample.has_begun or self._taken >= FULL * (self._slots if self._is_opening else self._target):
                sample.on_send(self._taken, now)

    @property
    def _is_opening(self) -> bool:
        return self._phase is Phase.OPENING

    def on_push_back(self, now: float) -> None:
        """Suspend slow start by time, and pace again; answers still open the limit."""
        self._doubles_s = now + PUSH_BACK_PAUSE_S
        self._is_paced, self._pacer.until_s = True, now + PACED_S

    def on_answer(self, sent_s: float, latency_s: float, now: float) -> None:
        """Record a usable answer, whose slot is still taken."""
        if self._slots < self._target:
            self._slots += 1
            self._pacer.until_s = max(self._pacer.until_s, now + latency_s)
        elif self._is_paced and now >= self._pacer.until_s:
            self._is_paced = False
        if self._is_paced:
            pacer = self._pacer
            pacer.latency_s += 0.2 * (latency_s - pacer.latency_s) if pacer.latency_s else latency_s
        if latency_s < SHORTEST_SERVICE_S and self._target >= self.max_slots <= self._climber.best:
            return
        if self._pause:
            self._pause -= 1
        elif self._sample.on_answer(sent_s, max(latency_s, SHORTEST_SERVICE_S)):
            self._judge(self._sample)

    def _judge(self, sample: LatencySample) -> None:
        climber = self._climber
        is_full = sample.is_complete and sample.load >= FULL * self._target
        if self._is_opening:
            self._judge_opening(sample, climber.level if climber.level.answers else sample, is_full=is_full)
        elif not is_full:
            self._hold()
        else:
            if self._phase is Phase.HOLDING:
                climber.level = sample
            else:
                climber.record_trial(self._target, sample)
            self._try_next()

    def _judge_opening(self, sample: LatencySample, first: LatencySample, *, is_full: bool) -> None:
        """Compare a sample of slow start with the first one, and end slow start where the server is full."""
        self._sample = LatencySample(OPENING_SENDS, MAX_ROUNDS * (OPENING_SENDS + self._taken))
        if not sample.is_complete:
            return
        growth, rise, error = sample.compare(first)
        self._climber.level = first
        is_saturated = rise - 2 * error > SATURATED * max(growth, math.log(2))
        if is_saturated:
            bandwidth_delay_product = max(first.load, sample.load * math.exp(-rise))
            self._climber.start_at(min(round(2 * bandwidth_delay_product), round(sample.load)))
        if is_saturated or is_full:
            self._hold()

    def _try_next(self) -> None:
        trial = self._climber.next_trial()
        if trial is None:
            self._slots = self._climber.best
            self._hold()
        else:
            self._measure(trial, Phase.TRYING, self._climber.sends(trial))

    def _hold(self) -> None:
        """Hold the best number in flight, for a pause that pays for the next search."""
        pause = self._climber.begin()
        self._measure(self._climber.best, Phase.HOLDING, self._climber.sends())
        self._pause = pause

    def _measure(self, target: int, phase: Phase, sends: float) -> None:
        """Hold `target` in flight and sample the latencies of that many requests."""
        self._target, self._slots, self._phase, self._pause = target, min(self._slots, target), phase, 0
        self._sample = LatencySample(sends, MAX_ROUNDS * (sends + self._taken))
