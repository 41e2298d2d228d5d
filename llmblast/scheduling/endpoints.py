"""Endpoint: all that scheduling knows about one place to send to, in one slotted object."""

import math

from llmblast.scheduling.adaptive import LearnedRate
from llmblast.scheduling.limit_set import limit_set
from llmblast.scheduling.limits import Breaker, CoolDown
from llmblast.scheduling.tokens import TokenEstimator
from llmblast.settings import EndpointSettings

_LATENCY_GAIN = 0.1
_FAILED_LATENCY_S = 0.1
_WORST_LATENCY_S = 60.0


class Endpoint:
    """One endpoint's limits, load and health. `index` is its place in the settings, `bit` the same as a bit.

    Endpoints of one quota group are handed the same `cool_down`: a rate-limit reply to one pauses them all.
    """

    __slots__ = (
        "_first_sent_s",
        "_is_adaptive",
        "_resumes_s",
        "answers",
        "bit",
        "breaker",
        "cool_down",
        "credit",
        "disabled",
        "estimator",
        "in_flight",
        "index",
        "lag_s",
        "latency_s",
        "learned",
        "limits",
        "name",
        "weight",
    )

    def __init__(
        self,
        index: int,
        settings: EndpointSettings,
        burst_s: float = 0.0,
        cool_down: CoolDown | None = None,
    ) -> None:
        self.index = index
        self.bit = 1 << index
        self.name = settings.name
        self.weight = settings.weight
        self.cool_down = cool_down or CoolDown(f"{settings.name} cool-down")
        self.breaker = Breaker(f"{settings.name} breaker")
        self.learned: LearnedRate | None = None
        """The rate that push-back has taught, where the settings name none."""
        self._is_adaptive = settings.is_adaptive
        burst_s = burst_s if settings.burst is None else settings.burst
        gates = (self.cool_down, self.breaker)
        self.limits = limit_set(settings.name, settings, burst_s, gates)
        self.estimator = TokenEstimator(settings.charge)
        self.in_flight = 0
        self.lag_s = 0.0
        """By how much its schedule was moved in all since sends left late."""
        self.latency_s = 0.0
        self.credit = 0.0
        self.disabled: str | None = None
        self.answers = 0
        """Usable answers in this run."""
        self._first_sent_s = math.inf
        self._resumes_s = math.inf

    def sent(self, now: float) -> None:
        """One more in flight."""
        self.in_flight += 1
        if self._resumes_s != math.inf or self._first_sent_s == math.inf:
            self._first_sent_s = min(self._first_sent_s, now)
            self._learn_rate(now)

    def answered(self, sent_s: float, latency_s: float) -> None:
        """A usable answer came to what was sent at `sent_s`; one from before a pause says nothing of its end."""
        self.answers += 1
        if sent_s >= self.cool_down.started_s:
            self.cool_down.in_a_row = 0
        self._observe(latency_s)

    def rejected(self, sent_s: float, wait_s: float, now: float) -> None:
        """A rate-limit reply: pauses it and its quota group, and teaches the rate where none is set."""
        self.cool_down.pause(now + wait_s, now)
        if self.learned is not None:
            self.learned.rejected(sent_s, now)
        elif self._is_adaptive:
            self._resumes_s = now + wait_s

    def state(self, now: float) -> str:
        """What is the matter with it, for a person; empty when all is well."""
        if self.disabled is not None:
            return f"disabled: {self.disabled}"
        if self.breaker.is_open:
            return "unreachable, probing"
        return f"cooling down {self.cool_down.ready_at(1.0, now) - now:.0f} s" if self.cool_down.is_on(now) else ""

    def _learn_rate(self, now: float) -> None:
        """At the first send after the first push-back: what it accepted until then is the rate to begin with."""
        if self._resumes_s <= now:
            self._resumes_s = math.inf
            accepted_per_s = (self.answers + self.in_flight) / max(now - self._first_sent_s, 1e-3)
            self.learned = LearnedRate(f"{self.name} learned rate", accepted_per_s, now)
            self.limits.add(self.learned)

    def _observe(self, latency_s: float) -> None:
        """Moves the average latency, for the `fastest` route."""
        if self.latency_s:
            self.latency_s += _LATENCY_GAIN * (latency_s - self.latency_s)
        else:
            self.latency_s = latency_s

    def observe_failure(self) -> None:
        """Makes it look slower: failures are often quick, and must not attract what `fastest` sends."""
        self.latency_s = min(max(2 * self.latency_s, _FAILED_LATENCY_S), _WORST_LATENCY_S)
