"""Endpoint: all that scheduling knows about one place to send to, in one slotted object."""

import math
from collections.abc import Sequence

from llmblast.records import Answer, QuotaWord, Request
from llmblast.scheduling.adaptive import LearnedRate
from llmblast.scheduling.breakers import Breaker, Outage
from llmblast.scheduling.capacity import UNBOUNDED, CapacityWindow
from llmblast.scheduling.limit_set import limit_set
from llmblast.scheduling.limits import CoolDown
from llmblast.scheduling.tokens import TokenEstimator
from llmblast.scheduling.told import ToldRate, is_worth_a_look
from llmblast.settings import EndpointSettings

FAILING_LINES = 10
"""Lines in a row that fail at one endpoint before it counts as down. Fewer may just be lines that it cannot digest,
which must come to their end by `max_attempts`."""
_HEARING_INTERVAL_S = 0.005
"""Words of two replies within less say nothing new, and reading them costs some microseconds."""
_LEARNING_INTERVAL_S = 0.001
_MOST_LATENESS_S = 0.004
"""The pace makes up for as much; what is later moves the schedule."""
_MOVING_S = 1.0
"""The time in which the schedule moves once for all lateness: `RequestRate` counts what leaves in a second."""
_LASTING_S = 5.0
"""Push-back within so many seconds of the end of a pause goes on."""
_TOKEN_KINDS = ("tokens", "input_tokens", "output_tokens")
"""What a provider's words are about, in the order of the kinds of a LimitSet."""
SHORTEST_SERVICE_S = 0.02
"""No model answers faster: below this, latency tells how busy this machine is."""
_LATENCY_GAIN = 0.1
_FAILED_LATENCY_S = 0.1
_WORST_LATENCY_S = 60.0


class Endpoint:
    """One endpoint's limits, load and health. `index` is its place in the settings, `bit` the same as a bit.

    Endpoints of one quota group are handed the same `cool_down`: a rate-limit reply to one pauses them all.
    """

    __slots__ = (
        "_first_sent_s",
        "_heard_s",
        "_learned_s",
        "_learns",
        "_lifted_s",
        "_moved_s",
        "_moving_since_s",
        "_pushed_back_s",
        "_resumes_s",
        "_set_per_s",
        "answers",
        "bit",
        "breaker",
        "capacity",
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
        "outage",
        "told",
        "trouble",
        "weight",
    )

    def __init__(
        self,
        index: int,
        settings: EndpointSettings,
        burst_s: float = 0.0,
        cool_down: CoolDown | None = None,
        *,
        is_paced: bool = False,
    ) -> None:
        self.index = index
        self.bit = 1 << index
        self.name = settings.name
        self.weight = settings.weight
        self.cool_down = cool_down or CoolDown(f"{settings.name} cool-down")
        self.breaker = Breaker(f"{settings.name} breaker")
        """Opens when nobody is there."""
        self.outage = Outage(f"{settings.name} outage", threshold=FAILING_LINES)
        """Opens when somebody is there, but answers no line any more."""
        self.learned: LearnedRate | None = None
        """The rate that push-back has taught."""
        self.told: dict[str, ToldRate] = {}
        """The rates that the provider's own words have taught, by kind of quota."""
        self._learns = settings.adaptive is not False
        self._set_per_s = _set_per_s(settings)
        burst_s = burst_s if settings.burst is None else settings.burst
        gates = (self.cool_down, self.breaker, self.outage)
        self.capacity: CapacityWindow | None = None
        """What serves it best, where no rate is set: it may be a server that gets slower with load. Where the run has a
        rate, `is_paced`, its looks at fewer in flight would cost a share of that.
        """
        if settings.is_adaptive and not is_paced:
            self.capacity = CapacityWindow(f"{settings.name} capacity", settings.concurrency or UNBOUNDED)
        self.limits = limit_set(settings.name, settings, burst_s, gates, self.capacity)
        self.estimator = TokenEstimator(settings.charge)
        self.in_flight = 0
        self.lag_s = 0.0
        """By how much its schedule was moved in all since sends left late."""
        self._moved_s = 0.0
        self._moving_since_s = -math.inf
        self.latency_s = 0.0
        self.credit = 0.0
        self.disabled: str | None = None
        self.trouble = ""
        """What its last failure was, in words."""
        self.answers = 0
        """Usable answers in this run."""
        self._first_sent_s = math.inf
        self._resumes_s = math.inf
        self._pushed_back_s = self._lifted_s = -math.inf
        self._heard_s = self._learned_s = -math.inf

    @property
    def is_unused(self) -> bool:
        """Whether nothing was sent to it yet."""
        return self._first_sent_s == math.inf

    def listens(self, now: float) -> bool:
        """Whether what the provider says of its limits is of use at this moment."""
        return self._learns and now >= self._heard_s + _HEARING_INTERVAL_S

    def learn(self, request: Request, answer: Answer, now: float) -> None:
        """Follows how many tokens a request took: a thousand answers a second say as much as all of them."""
        if now >= self._learned_s + _LEARNING_INTERVAL_S:
            self._learned_s = now
            self.estimator.learn(request, answer)

    def heard(self, words: Sequence[QuotaWord], sent_s: float, now: float) -> None:
        """Follows what the reply to what was sent at `sent_s` says of its limits."""
        self._heard_s = now
        for word in words:
            told = self.told.get(word.kind)
            if told is not None:
                told.heard(word, sent_s, now)
            elif is_worth_a_look(word):
                self._follow(word.kind, now)

    def sent(self, now: float) -> None:
        """One more in flight."""
        self.in_flight += 1
        if self._resumes_s != math.inf or self._first_sent_s == math.inf:
            self._first_sent_s = min(self._first_sent_s, now)
            self._learn_rate(now)

    def left_late(self, sent_s: float, lag_s: float, left_s: float) -> float:
        """By how much the schedule has to move now, since what was admitted at `sent_s`, with the schedule moved by
        `lag_s` until then, left only now: once for all that were late together, and in a second by the latest of it,
        or opening a pool of connections would take most of the rate. What the pace makes up for anyway moves nothing.
        """
        if left_s >= self._moving_since_s + _MOVING_S:
            self._moving_since_s, self._moved_s = left_s, 0.0
        late_s = left_s - sent_s
        behind_s = late_s - max(self.lag_s - lag_s, self._moved_s)
        if behind_s <= 0 or late_s <= _MOST_LATENESS_S:
            return 0.0
        self.lag_s += behind_s
        self._moved_s += behind_s
        return behind_s

    def answered(self, sent_s: float, latency_s: float) -> None:
        """A usable answer came to what was sent at `sent_s`, and still has its slot. One from before a pause says
        nothing of its end.
        """
        self.worked(1, sent_s)
        self._observe(latency_s)
        if self.capacity is not None and latency_s >= SHORTEST_SERVICE_S:
            self.capacity.answered(sent_s, latency_s, sent_s + latency_s)

    def worked(self, answers: int, sent_s: float) -> None:
        """So many usable answers came, the latest to what was sent at `sent_s`."""
        self.answers += answers
        self.outage.worked(sent_s)
        if sent_s >= self.cool_down.started_s:
            self.cool_down.in_a_row = 0

    def rejected(self, sent_s: float, wait_s: float, now: float) -> None:
        """A rate-limit reply: pauses it and its quota group, and teaches the rate where none is set."""
        self.cool_down.pause(now + wait_s, now)
        self.outage.probe_abandoned(now, sent_s)
        if "requests" in self.told:
            self.told["requests"].settle(1.0, 0.0, now)
        if self.learned is not None:
            self.learned.rejected(sent_s, now)
        elif self._learns and self._is_lasting(sent_s, now, wait_s):
            self._resumes_s = now + wait_s

    def unreachable(self, sent_s: float, now: float) -> None:
        """What was sent at `sent_s` never left: no connection could be opened."""
        self.breaker.failed(now, sent_s)
        self.outage.probe_abandoned(now, sent_s)

    def failed(self, sent_s: float, now: float, *, is_first: bool) -> None:
        """A request failed in a way that another send may not. `is_first`: it had not failed here before, since one bad
        line that is tried five times says less than five lines.
        """
        self.breaker.probe_abandoned(now, sent_s)
        if is_first or self.outage.is_open:
            self.outage.failed(now, sent_s)

    def refused(self, sent_s: float, now: float) -> None:
        """It answered that it does not want this line: it works."""
        self.breaker.probe_abandoned(now, sent_s)
        self.outage.worked(sent_s)

    def passed_over(self, sent_s: float, now: float) -> None:
        """A send ended in a way that says nothing about the endpoint."""
        self.breaker.probe_abandoned(now, sent_s)
        self.outage.probe_abandoned(now, sent_s)

    def state(self, now: float) -> str:
        """What is the matter with it, for a person; empty when all is well."""
        if self.disabled is not None:
            return f"disabled: {self.disabled}"
        if self.breaker.is_open or self.outage.is_open:
            what = "unreachable" if self.breaker.is_open else "failing"
            return f"{what}, probing: {self.trouble}" if self.trouble else f"{what}, probing"
        return f"cooling down {self.cool_down.ready_at(1.0, now) - now:.0f} s" if self.cool_down.is_on(now) else ""

    def _is_lasting(self, sent_s: float, now: float, wait_s: float) -> bool:
        """Whether push-back says that a rate does not hold. Of one that was set only what comes again soon after the
        pause does: a crowd that a server let in too late, after it had stalled, is no limit.
        """
        if "requests" not in self._set_per_s:
            return True
        last_s, lifted_s = self._pushed_back_s, self._lifted_s
        if sent_s > last_s:
            self._pushed_back_s, self._lifted_s = now, now + wait_s
        return sent_s > last_s and now < lifted_s + _LASTING_S

    def _learn_rate(self, now: float) -> None:
        """At the first send after the first push-back: what it accepted until then is the rate to begin with. Of a rate
        that was set it is half at least, since the endpoint may have been idle for most of the time.
        """
        if self._resumes_s <= now:
            self._resumes_s = math.inf
            accepted_per_s = (self.answers + self.in_flight) / max(now - self._first_sent_s, 1e-3)
            set_per_s = self._set_per_s.get("requests")
            if set_per_s is not None:
                accepted_per_s = min(max(accepted_per_s, set_per_s / 2), set_per_s)
            self.learned = LearnedRate(f"{self.name} learned rate", accepted_per_s, now)
            self.limits.add(self.learned, now)

    def _follow(self, kind: str, now: float) -> None:
        told = ToldRate(f"{self.name} told {kind.replace('_', ' ')}", self._set_per_s.get(kind))
        self.told[kind] = told
        self.limits.add(told, now, _TOKEN_KINDS.index(kind) if kind in _TOKEN_KINDS else None)

    def _observe(self, latency_s: float) -> None:
        """Moves the average latency, for the `fastest` route."""
        if self.latency_s:
            self.latency_s += _LATENCY_GAIN * (latency_s - self.latency_s)
        else:
            self.latency_s = latency_s

    def observe_failure(self) -> None:
        """Makes it look slower: failures are often quick, and must not attract what `fastest` sends."""
        self.latency_s = min(max(2 * self.latency_s, _FAILED_LATENCY_S), _WORST_LATENCY_S)


def _set_per_s(settings: EndpointSettings) -> dict[str, float]:
    """Units a second that the settings name, by kind of quota."""
    named = (
        ("requests", settings.rps, 1),
        ("requests", settings.rpm, 60),
        ("tokens", settings.tpm, 60),
        ("input_tokens", settings.itpm, 60),
        ("output_tokens", settings.otpm, 60),
    )
    rates: dict[str, float] = {}
    for kind, amount, seconds in named:
        if amount is not None:
            rates[kind] = min(amount / seconds, rates.get(kind, math.inf))
    return rates
