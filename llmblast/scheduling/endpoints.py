"""Endpoint: all that scheduling knows about one place to send to."""

import math

from llmblast.endpoint_settings import EndpointSettings, RateSettings
from llmblast.fence import Fence
from llmblast.models import Attempt, Request
from llmblast.scheduling.flex_capacity import FlexCapacity
from llmblast.scheduling.health import EndpointHealth, HealthState
from llmblast.scheduling.learned_limits import KnownLimits, LearnedLimits
from llmblast.scheduling.outcomes import ANSWERED, Finding, Kind, SendOutcome
from llmblast.scheduling.own_models import OwnModels
from llmblast.scheduling.push_back import PushBack
from llmblast.scheduling.quota_hold import QuotaHold
from llmblast.scheduling.refusals import RefusalBreaker
from llmblast.scheduling.routing_stats import RoutingStats
from llmblast.scheduling.schedule_delay import ScheduleDelay
from llmblast.scheduling.traffic import Traffic

PROBED_S = 0.1
"""How long an endpoint counts as blocked while a probe is under way."""
NOTHING_KNOWN = KnownLimits()
NO_RATES = RateSettings()


class Endpoint:
    """One endpoint's limits, load and health. `index` is its place in the settings, `bit` the same as a bit."""

    __slots__ = (
        "_fence",
        "_is_watched",
        "bit",
        "delay",
        "flex",
        "health",
        "hold",
        "index",
        "learned",
        "limits",
        "models",
        "name",
        "routing",
        "traffic",
    )

    def __init__(
        self,
        index: int,
        settings: EndpointSettings,
        burst_s: float = 0.0,
        push_back: PushBack | None = None,
        *,
        run: RateSettings = NO_RATES,
        known: KnownLimits = NOTHING_KNOWN,
        fence: Fence | None = None,
    ) -> None:
        self._fence = fence = fence or Fence()
        self.index = index
        self.bit = 1 << index
        self.name = settings.name
        self.traffic = Traffic()
        self.models = OwnModels(settings.name)
        burst_s = burst_s if settings.burst is None else settings.burst
        self.learned = LearnedLimits(settings, self.traffic, fence, burst_s=burst_s, run=run, known=known)
        self.limits = self.learned.limits
        self.health = EndpointHealth(settings.name, self.models)
        own_push_back = push_back or PushBack(f"{settings.name} pause")
        self.hold = QuotaHold(own_push_back, self.learned, self.models, self.traffic)
        self.routing = RoutingStats(settings.weight)
        self.delay = ScheduleDelay()
        self.flex: FlexCapacity | None = None
        """None until its flex tier had no capacity for a line."""
        self._is_watched = False
        """Something went wrong there: see `watch`."""
        if push_back is not None:
            self.watch()

    def __repr__(self) -> str:
        return f"Endpoint({self.name!r}, {self.health.state.value}, {self.hold!r}, {self.traffic.in_flight} in flight)"

    def watch(self) -> None:
        """Charge the breakers from now on, and record what answers show. Until something goes wrong there, or in its
        quota group, all of that says nothing, and a run without trouble does not pay for it.
        """
        if self._is_watched:
            return
        self._is_watched = True
        traffic, health = self.traffic, self.health
        self.hold.push_back.start(traffic.sends, traffic.last_sent_s)
        health.refusals.start(traffic.in_flight, traffic.last_sent_s, traffic.answers)
        health.outage.record_success(traffic.last_answered_sent_s)
        health.breaker.has_answered = health.breaker.has_answered or traffic.answers > 0
        self.limits.add_slots(health.refusals)
        for gate in (self.hold.push_back, health.breaker, health.outage):
            self.limits.add(gate)

    def known_limits(self) -> KnownLimits:
        """Return the limits that were learned in this run."""
        rate, in_flight = self.learned.rate, self.learned.in_flight
        if rate is None or in_flight is None:
            return KnownLimits()
        slots = int(in_flight.cap) if in_flight.is_known else None
        return KnownLimits(math.inf if self.hold.has_random_rejections else rate.established_per_s, slots)

    @property
    def is_held(self) -> bool:
        """Only single requests go, to see whether it accepts any."""
        return self.hold.push_back.is_held or self.health.refusals.is_suspected

    def has_lost(self, model: str) -> bool:
        """Return whether it accepts no request for that model any more."""
        known = self.models.get(model)
        return known is not None and known.is_out

    def model_ready_at(self, model: str | None, now: float) -> float:
        """Return when a request for a model that its line names may go, as far as the model is concerned."""
        known = self.models.get(model)
        return -math.inf if known is None else known.ready_at(now)

    def flex_ready_at(self, attempt: Attempt, now: float) -> float:
        """Return when a request may go, as far as the flex tier is concerned, where it asks for that."""
        return -math.inf if self.flex is None or not attempt.flex_at & self.bit else self.flex.ready_at(now)

    def record_send(self, attempt: Attempt, now: float) -> None:
        """Count one more request in flight."""
        traffic = self.traffic
        if not traffic.sends:
            traffic.first_sent_s = now
        traffic.in_flight = attempt.in_flight = traffic.in_flight + 1
        traffic.sends += 1
        traffic.last_sent_s = now
        if self._is_watched:
            self.hold.on_sent(now)
        model_name = attempt.request.model
        if model_name is None:
            self.models.has_unnamed = True
        elif (model := self.models.add(model_name)) is not None:
            model.acquire(now)

    def record_return(self, attempt: Attempt, now: float) -> None:
        """Count a request that has come back."""
        self.traffic.in_flight -= 1
        if attempt.request.model is not None and (model := self.models.get(attempt.request.model)):
            model.release(now)

    def on_outcome(self, attempt: Attempt, outcome: SendOutcome, now: float) -> Finding | None:
        """Record how one send ended: the only way in which an endpoint hears of that. The request of an answer still
        has its slot. Return what the outcome shows beyond this request, if anything.
        """
        if outcome is not ANSWERED:
            return self._on_failure(attempt, outcome, now)
        sent_s, traffic, learned = attempt.sent_s, self.traffic, self.learned
        latency_s = now - sent_s
        traffic.answers += 1
        traffic.last_answered_sent_s = max(traffic.last_answered_sent_s, sent_s)
        try:
            self.routing.record_latency(latency_s)
        except Exception as error:  # noqa: BLE001 -- advice
            self._fence.switch_off(f"the average latency of {self.name}", error)
        finding = None
        if self._is_watched:
            self.hold.on_answer(attempt, now)
            if self.health.on_answer(attempt):
                finding = Finding.LINES_TO_BLAME
        if learned.concurrency is not None:
            learned.notify(learned.concurrency, learned.concurrency.on_answer, sent_s, latency_s, now)
        return finding

    def trip(self, error: str, now: float) -> None:
        """Send only probes: no connection could be opened before the first request."""
        self.health.last_error = error
        self.watch()
        self.health.breaker.trip(now)

    def wait_for_key(self) -> None:
        """Send nothing until `on_new_key` is called."""
        self.watch()
        self.health.refusals.waits_for_key = True

    def on_new_key(self) -> None:
        """Send again."""
        self.health.refusals.waits_for_key = False

    def breaker_of(self, request: Request) -> RefusalBreaker:
        """Return the breaker that decides on a refusal of that line."""
        self.watch()
        return self.health.breaker_of(request)

    def blocked_until_s(self, now: float) -> float:
        """Return when it is of use again, as far as anything tells; `now` where it is."""
        push_back, named_s = self.hold.push_back, -math.inf
        if push_back.is_exhausted:
            named_s = max(push_back.named_end_s, push_back.ready_at(1.0, now))
        gates = [breaker.ready_at(1.0, now) for breaker in (self.health.breaker, self.health.outage)]
        quotas = [quota.ready_at(1.0, now) for quota in self.limits.quotas]
        until_s = max(now, named_s, *gates, *quotas)
        return now + PROBED_S if until_s == math.inf else until_s

    def state(self, now: float) -> str:
        """Say what is wrong with it, for a person; empty where nothing is."""
        health, state = self.health, self.health.state
        if state is HealthState.DISABLED:
            return f"off: {health.disabled}"
        if state in (HealthState.DOWN, HealthState.FAILING):
            breaker = health.breaker if state is HealthState.DOWN else health.outage
            wait_s = breaker.ready_at(1.0, now) - now
            next_try = f"next try in {wait_s:.0f} s" if 0.5 <= wait_s < math.inf else "trying now"
            what = f"{state.value}, {next_try}"
            return f"{what}: {health.last_error}" if health.last_error else what
        if state is HealthState.SUSPECTED:
            return f"rejects lines, trying single ones: {health.last_error}"
        if self.hold.push_back.is_exhausted:
            wait_s = self.hold.push_back.ready_at(1.0, now) - now
            return f"paused {wait_s:.0f} s by a rate limit" if 0.5 <= wait_s < math.inf else "paused by a rate limit"
        return ""

    def _on_failure(self, attempt: Attempt, outcome: SendOutcome, now: float) -> Finding | None:
        if outcome.has_reply:
            self.health.breaker.record_success()
        if outcome.error:
            self._record_error(outcome.error)
        if outcome.kind is not Kind.INCONCLUSIVE:
            self.watch()
        self.health.on_outcome(attempt, outcome, now)
        if outcome.kind is Kind.RATE_LIMITED and self.hold.on_rate_limited(attempt, outcome.wait_s, now):
            return Finding.TOO_MANY_IN_FLIGHT
        return None

    def _record_error(self, error: str) -> None:
        self.health.last_error = error
        try:
            self.routing.record_failure()
        except Exception as defect:  # noqa: BLE001 -- advice
            self._fence.switch_off(f"the average latency of {self.name}", defect)
