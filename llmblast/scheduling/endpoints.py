"""Endpoint: all that scheduling knows about one place to send to, in one slotted object."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmblast.fence import Fence
from llmblast.records import Answer, RateLimitInfo, Request
from llmblast.scheduling.adaptive_concurrency import AdaptiveConcurrency
from llmblast.scheduling.advertised_rate import AdvertisedRate, should_follow
from llmblast.scheduling.breakers import Breaker, Outage
from llmblast.scheduling.learned_concurrency import LearnedConcurrency
from llmblast.scheduling.learned_rate import LearnedRate
from llmblast.scheduling.limit_set import limit_set
from llmblast.scheduling.limits import Limit
from llmblast.scheduling.own_models import OwnModels
from llmblast.scheduling.push_back import PushBack
from llmblast.scheduling.refusals import RefusalBreaker
from llmblast.scheduling.rejections import RejectionStreak
from llmblast.scheduling.tokens import TokenEstimator
from llmblast.settings import EndpointSettings, RateSettings

ALONE_S = 15.0
"""Rejections of a line that is alone count against it once so much time lies between them, as long as `max_attempts` of
them take more than the minute of a usual quota."""
FAILING_LINES = 10
"""Lines in a row that fail at one endpoint before it counts as down. Fewer may just be lines that it cannot digest,
which must come to their end by `max_attempts`."""
_MIN_HEADERS_INTERVAL_S = 0.005
"""Headers of two replies within less say nothing new, and reading them costs some microseconds."""
_LEARNING_INTERVAL_S = 0.001
_MOST_LATENESS_S = 0.004
"""The pace makes up for as much; what is later moves the schedule."""
_MOVING_S = 1.0
"""The time in which the schedule moves once for all lateness: `RequestRate` counts what leaves in a second."""
_TOKEN_KINDS = ("tokens", "input_tokens", "output_tokens")
"""Kinds of quota in rate-limit headers, in the order of the kinds of a LimitSet."""
USED_UP_BEFORE_S = 1.0
"""So long before a hold began its first rejected requests may have been sent."""
_RANDOM_SHARE = 0.06
"""With more rejections than this, the rate that was held last explains them badly."""
PROBED_S = 0.1
"""How long an endpoint counts as blocked while a probe is under way."""
_LATENCY_GAIN = 0.1
_FAILED_LATENCY_S = 0.1
_WORST_LATENCY_S = 60.0


@dataclass(frozen=True, slots=True)
class KnownLimits:
    """What was learned of an endpoint: requests a second, infinity where no limit was met, and requests in flight."""

    per_s: float = math.inf
    slots: int | None = None

    @property
    def is_empty(self) -> bool:
        """Nothing was learned."""
        return self.per_s == math.inf and self.slots is None


NOTHING_KNOWN = KnownLimits()
NO_RATES = RateSettings()


class Endpoint:
    """One endpoint's limits, load and health. `index` is its place in the settings, `bit` the same as a bit.

    Endpoints of one quota group are handed the same `push_back`: what is used up for one is so for all.
    """

    __slots__ = (
        "_fence",
        "_first_sent_s",
        "_headers_read_s",
        "_held_since_s",
        "_is_exhausted",
        "_is_learning",
        "_is_watched",
        "_last_rejection",
        "_last_sent_s",
        "_learned_s",
        "_learns",
        "_moved_s",
        "_moving_since_s",
        "_set_per_s",
        "_used_up_s",
        "advertised",
        "answers",
        "bit",
        "blocked",
        "breaker",
        "concurrency",
        "credit",
        "disabled",
        "estimator",
        "in_flight",
        "in_flight_limit",
        "index",
        "lag_s",
        "last_answered_sent_s",
        "latency_s",
        "learned",
        "limits",
        "models",
        "name",
        "outage",
        "push_back",
        "refusals",
        "rejections",
        "sends",
        "trouble",
        "weight",
    )

    def __init__(  # noqa: PLR0915 -- one place for all of its state
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
        self._fence = fence or Fence()
        self.index = index
        self.bit = 1 << index
        self.name = settings.name
        self.weight = settings.weight
        self.push_back = push_back or PushBack(f"{settings.name} pause")
        """Opens and closes with rate-limit replies."""
        self.refusals = RefusalBreaker(f"{settings.name} refusals")
        """Opens when lines in a row are refused for good."""
        self.rejections = RejectionStreak()
        self.models = OwnModels(settings.name)
        self.breaker = Breaker(f"{settings.name} breaker")
        """Opens when nobody is there."""
        self.outage = Outage(f"{settings.name} outage", threshold=FAILING_LINES)
        """Opens when somebody is there, but answers no line any more."""
        self.advertised: dict[str, AdvertisedRate] = {}
        """Rates that the rate-limit headers advertise, by kind of quota."""
        self._learns = settings.adaptive is not False
        self._set_per_s = _set_per_s(settings)
        burst_s = burst_s if settings.burst is None else settings.burst
        self.learned: LearnedRate | None = None
        """The rate that push-back has taught; None where nothing is to be learned."""
        self.in_flight_limit: LearnedConcurrency | None = None
        """The number in flight that push-back has taught."""
        if self._learns:
            set_per_s = min(settings.requests_per_s, run.requests_per_s)
            self.learned = LearnedRate(f"{settings.name} learned rate", set_per_s, known.per_s)
            self.in_flight_limit = LearnedConcurrency(f"{settings.name} learned concurrency", known.slots)
        self.concurrency: AdaptiveConcurrency | None = None
        """Learned where no rate is set or known. Where one is, slow start and searches would cost a share of that."""
        if settings.is_adaptive and not run.has_rate and known.per_s == math.inf:
            slots = min(settings.concurrency or sys.maxsize, run.concurrency or sys.maxsize)
            self.concurrency = AdaptiveConcurrency(f"{settings.name} concurrency", slots)
        self.limits = limit_set(settings.name, settings, burst_s, window=self.concurrency)
        self.limits.on_defect = self.switch_off
        self.estimator = TokenEstimator(settings.charge)
        self.in_flight = self.sends = 0
        self.lag_s = 0.0
        """By how much its schedule was moved in all since sends left late."""
        self._moved_s = 0.0
        self._moving_since_s = -math.inf
        self.latency_s = self.credit = 0.0
        self.disabled: str | None = None
        self.trouble = self.blocked = ""
        """What its last failure was, and which rate limit lasts for longer than the run may wait, both in words."""
        self.answers = 0
        """Usable answers in this run."""
        self._first_sent_s = math.inf
        self._last_sent_s = -math.inf
        self._is_watched = self._is_learning = False
        """Something went wrong there, and it has rejected a request, or is known to: see `watch`."""
        self._held_since_s = math.inf
        """Since when its requests are held back, and whether that is for a quota that is used up."""
        self._is_exhausted = False
        self._used_up_s = (math.inf, -math.inf)
        """From when until when a quota was used up the last time."""
        self._last_rejection: tuple[Request | None, int, float] = (None, 0, 0.0)
        """The request of its last rate-limit reply, how many were sent by then, and until when that one should wait."""
        self.last_answered_sent_s = -math.inf
        """When the latest request that was answered had been sent."""
        self._headers_read_s = self._learned_s = -math.inf
        if not known.is_empty:
            self._start_learning()
        if push_back is not None:
            self.watch()

    def watch(self) -> None:
        """Charge the breakers from now on, and note what answers show. Until something goes wrong there, or in its
        quota group, all of that says nothing, and a run without trouble does not pay for it.
        """
        if self._is_watched:
            return
        self._is_watched = True
        self.push_back.start(self.sends, self._last_sent_s)
        self.refusals.start(self.in_flight, self._last_sent_s, self.answers)
        self.outage.record_success(self.last_answered_sent_s)
        self.breaker.has_answered = self.breaker.has_answered or self.answers > 0
        self.limits.add_slots(self.refusals)
        for gate in (self.push_back, self.breaker, self.outage):
            self.limits.add(gate)

    def should_read_headers(self, now: float) -> bool:
        """Return whether the rate-limit headers of a reply are worth reading at this moment."""
        return self._learns and now >= self._headers_read_s + _MIN_HEADERS_INTERVAL_S

    def learn(self, request: Request, answer: Answer, now: float) -> None:
        """Follows how many tokens a request took: a thousand answers a second say as much as all of them."""
        if now >= self._learned_s + _LEARNING_INTERVAL_S:
            self._learned_s = now
            try:
                self.estimator.learn(request, answer)
            except Exception as error:  # noqa: BLE001 -- advice
                self._learned_s, self.estimator = math.inf, TokenEstimator(self.estimator.charge)
                self._fence.switch_off(f"learning token counts of {self.name}", error)

    def on_rate_limit_headers(self, infos: Sequence[RateLimitInfo], sent_s: float, now: float) -> None:
        """Follow the rate-limit headers of the reply to the request sent at `sent_s`."""
        self._headers_read_s = now
        for info in infos:
            rate = self.advertised.get(info.kind)
            if rate is not None:
                self._notify(rate, rate.on_rate_limit_headers, info, sent_s, now)
            elif should_follow(info) and self._headers_read_s == now:
                self._follow(info.kind)

    def known_limits(self) -> KnownLimits:
        """Return what was learned in this run."""
        if self.learned is None or self.in_flight_limit is None:
            return KnownLimits()
        slots = int(self.in_flight_limit.cap) if self.in_flight_limit.is_known else None
        is_random = self.push_back.share > _RANDOM_SHARE
        return KnownLimits(math.inf if is_random else self.learned.established_per_s, slots)

    @property
    def is_held(self) -> bool:
        """Only single requests go, to see whether it takes any."""
        return self.push_back.is_held or self.refusals.is_suspected

    def has_lost(self, model: str) -> bool:
        """Whether it takes no request for that model any more."""
        known = self.models.get(model)
        return known is not None and known.is_out

    def model_ready_at(self, model: str | None, now: float) -> float:
        """Return when a request for a model that its line names may go, as far as the model is concerned."""
        known = self.models.get(model)
        return -math.inf if known is None else known.ready_at(now)

    def sent(self, request: Request, now: float) -> None:
        """Count one more request in flight."""
        if not self.sends:
            self._first_sent_s = now
        self.in_flight += 1
        self.sends += 1
        self._last_sent_s = now
        request.in_flight = self.in_flight
        if self._held_since_s != math.inf:
            self._look_for_end_of_hold(now)
        if request.model is None:
            self.models.has_unnamed = True
        elif (model := self.models.add(request.model)) is not None:
            model.take(now)

    def released(self, request: Request, now: float) -> None:
        """Count a request that has come back."""
        self.in_flight -= 1
        if request.model is not None and (model := self.models.get(request.model)):
            model.release(now)

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

    def on_answer(self, request: Request, latency_s: float, now: float) -> bool:
        """Note a usable answer, whose request still has its slot. Return whether it shows that refused lines, not the
        endpoint or their model, are to blame.
        """
        sent_s = request.sent_s
        self.answers += 1
        self.last_answered_sent_s = max(self.last_answered_sent_s, sent_s)
        try:
            self._observe(latency_s)
        except Exception as error:  # noqa: BLE001 -- advice
            self._fence.switch_off(f"the average latency of {self.name}", error)
        clears = self._clear(request, now) if self._is_watched else False
        if self.concurrency is not None:
            try:
                self.concurrency.on_answer(sent_s, latency_s, now)
            except Exception as error:  # noqa: BLE001 -- advice
                self.switch_off(self.concurrency, error)
        return clears

    def _clear(self, request: Request, now: float) -> bool:
        """Tell the breakers of an answer. Return whether it shows that refused lines are to blame."""
        sent_s = request.sent_s
        self.breaker.record_success()
        self.outage.record_success(sent_s)
        if self._is_learning and self.in_flight_limit is not None:
            try:
                self.in_flight_limit.on_answer(request.in_flight, sent_s, now)
            except Exception as error:  # noqa: BLE001 -- advice
                self.switch_off(self.in_flight_limit, error)
        self.push_back.on_answer(sent_s)
        self.rejections.on_answer()
        if self._held_since_s != math.inf:
            self._look_for_end_of_hold(now)
        clears = self.refusals.on_answer(sent_s)
        if request.model is not None and (model := self.models.get(request.model)):
            model.push_back.on_answer(sent_s)
            model.rejections.on_answer()
            clears = model.refusals.on_answer(sent_s) or clears
        return clears

    def on_push_back(self, request: Request, wait_s: float | None, now: float) -> bool:
        """Note a rate-limit reply; `wait_s` is how long the provider asks to wait. Return whether it is explained by
        the number in flight, so that waiting is of no use.
        """
        sent_s = request.sent_s
        self.watch()
        self.outage.record_inconclusive(now, sent_s)
        self.breaker.record_inconclusive(now, sent_s)
        if not self._is_learning:
            self._start_learning()
        if self._is_for_number_in_flight(request, now):
            return True
        self._count_rejection(request, wait_s, now)
        self.rejections.on_rejected(now)
        model = self.models.get(request.model)
        if model is not None and self.models.are_several:
            model.rejections.on_rejected(now)
            model.push_back.on_rejected(sent_s, wait_s, now)
            if model.push_back.is_held and self.last_answered_sent_s > model.push_back.held_since_s:
                return False  # others pass: only this model is held back
        was_held = self.push_back.is_held
        self.push_back.on_rejected(sent_s, wait_s, now)
        if self.push_back.is_held:
            self._held_since_s, self._is_exhausted = self.push_back.held_since_s, self.push_back.is_exhausted
            if self.concurrency is not None:
                self._notify(self.concurrency, self.concurrency.on_push_back, now)
        if "requests" in self.advertised:
            self._notify(rate := self.advertised["requests"], rate.settle, 1.0, 0.0, now)
        if self.learned is not None:
            if was_held:
                self._notify(self.learned, self.learned.on_held_rejected)
            else:
                self._notify(self.learned, self.learned.on_rejected, sent_s, now)
        return False

    def _start_learning(self) -> None:
        self._is_learning = True
        if self.learned is not None:
            self.learned.start(self._first_sent_s, self.sends)
            self.limits.add(self.learned)
        if self.in_flight_limit is not None:
            self.in_flight_limit.start(self.in_flight)
            self.limits.add_slots(self.in_flight_limit)

    def _is_for_number_in_flight(self, request: Request, now: float) -> bool:
        limit = self.in_flight_limit
        if limit is None:
            return False
        was_known = limit.is_known
        try:
            is_explained = limit.on_rejected(request.in_flight, request.sent_s, now)
        except Exception as error:  # noqa: BLE001 -- advice
            self.switch_off(limit, error)
            return False
        if not is_explained:
            return False
        if not was_known and self.learned is not None:
            self.push_back.end_hold()
            self._held_since_s = math.inf
            self._notify(self.learned, self.learned.set_free, now)
        return True

    def _look_for_end_of_hold(self, now: float) -> None:
        """Tell the learned rate that requests are let in again; probe at once where a free slot may be all it takes."""
        if self.push_back.is_held:
            if self.in_flight_limit is not None and self.in_flight_limit.is_suspected:
                self.push_back.probe_now(now)
            return
        if self._is_exhausted:
            self._used_up_s = (self._held_since_s, now)
            if self.learned is not None:
                self._notify(self.learned, self.learned.on_exhausted, self._held_since_s, now)
        self._held_since_s = math.inf

    def _count_rejection(self, request: Request, wait_s: float | None, now: float) -> None:
        """Count a rejection against its line when others were let in since it was rejected last. Where nothing else was
        sent meanwhile, count it when it came after the moment that the last one named, or after some seconds.
        """
        rejected, sends, until_s = self._last_rejection
        was_alone = rejected is request and sends == self.sends - 1 and request.sent_s >= until_s
        if request.rejected_sent_s == math.inf:
            request.rejected_sent_s = request.sent_s
        elif was_alone or self.last_answered_sent_s >= request.rejected_sent_s:
            request.rejections += was_alone or not self._was_used_up(request.rejected_sent_s)
            request.rejected_sent_s = request.sent_s
        until_s = request.rejected_sent_s + ALONE_S if wait_s is None else now + wait_s
        self._last_rejection = request, self.sends, until_s

    def _was_used_up(self, sent_s: float) -> bool:
        """Return whether most others were rejected, too, when a request was sent."""
        return self._used_up_s[0] - USED_UP_BEFORE_S <= sent_s <= self._used_up_s[1]

    def trip(self, now: float) -> None:
        """Nobody is there, as was seen before the first request: only probes go."""
        self.watch()
        self.breaker.trip(now)

    def pause(self) -> None:
        """Send nothing, such as while a new key is fetched."""
        self.watch()
        self.refusals.is_paused = True

    def unreachable(self, sent_s: float, now: float) -> None:
        """What was sent at `sent_s` never left: no connection could be opened."""
        self.watch()
        self.breaker.record_failure(now, sent_s)
        self.outage.record_inconclusive(now, sent_s)

    def failed(self, sent_s: float, now: float, *, is_first: bool) -> None:
        """A request failed in a way that another send may not. `is_first`: it had not failed here before, since one bad
        line that is tried five times says less than five lines.
        """
        self.watch()
        self.breaker.record_inconclusive(now, sent_s)
        if is_first or self.outage.is_open:
            self.outage.record_failure(now, sent_s)

    def on_refusal(self, request: Request, signature: str, now: float, *, is_blamed: bool) -> None:
        """Note that a line was refused for good; see `RefusalBreaker`. A model that never got an answer, where others
        did, is no evidence against its endpoint.
        """
        self.watch()
        self.breaker.record_inconclusive(now, request.sent_s)
        self.outage.record_success(request.sent_s)
        model = self.models.get(request.model)
        if model is not None:
            model.refusals.on_refusal(request.number, signature, request.sent_s, now, is_blamed=is_blamed)
            if self.refusals.has_answered and not model.refusals.has_answered and not is_blamed:
                return
        self.refusals.on_refusal(request.number, signature, request.sent_s, now, is_blamed=is_blamed)

    def breaker_of(self, request: Request) -> RefusalBreaker:
        """Return the breaker that decides on a refusal of that line: its model's, where the line names one."""
        self.watch()
        model = self.models.get(request.model)
        return self.refusals if model is None else model.refusals

    def passed_over(self, sent_s: float, now: float) -> None:
        """A send ended in a way that says nothing about the endpoint."""
        self.breaker.record_inconclusive(now, sent_s)
        self.outage.record_inconclusive(now, sent_s)

    def blocked_until_s(self, now: float) -> float:
        """Return when it is of use again, as far as anything tells; `now` where it is."""
        named_s = -math.inf
        if self.push_back.is_exhausted:
            named_s = max(self.push_back.named_end_s, self.push_back.ready_at(1.0, now))
        gates = [breaker.ready_at(1.0, now) for breaker in (self.breaker, self.outage)]
        quotas = [quota.ready_at(1.0, now) for quota in self.limits.quotas]
        until_s = max(now, named_s, *gates, *quotas)
        return now + PROBED_S if until_s == math.inf else until_s

    def state(self, now: float) -> str:
        """What is the matter with it, for a person; empty when all is well."""
        if self.disabled is not None:
            return f"off: {self.disabled}"
        for breaker, what in ((self.breaker, "down"), (self.outage, "failing")):
            if breaker.is_open:
                wait_s = breaker.ready_at(1.0, now) - now
                next_try = f"next try in {wait_s:.0f} s" if 0.5 <= wait_s < math.inf else "trying now"
                return f"{what}, {next_try}: {self.trouble}" if self.trouble else f"{what}, {next_try}"
        if self.refusals.is_suspected:
            return f"rejects lines, trying single ones: {self.trouble}"
        if self.push_back.is_exhausted:
            wait_s = self.push_back.ready_at(1.0, now) - now
            return f"paused {wait_s:.0f} s by a rate limit" if 0.5 <= wait_s < math.inf else "paused by a rate limit"
        return ""

    def _follow(self, kind: str) -> None:
        name = f"{self.name} {kind.replace('_', ' ')} limit reported by the provider"
        rate = self.advertised[kind] = AdvertisedRate(name, self._set_per_s.get(kind, math.inf))
        self.limits.add(rate, _TOKEN_KINDS.index(kind) if kind in _TOKEN_KINDS else None)

    def _observe(self, latency_s: float) -> None:
        """Moves the average latency, for the `fastest` route."""
        if self.latency_s:
            self.latency_s += _LATENCY_GAIN * (latency_s - self.latency_s)
        else:
            self.latency_s = latency_s

    def switch_off(self, limit: Limit, error: Exception) -> Limit | None:
        """Replace a learned limit that raised, by the user's if there is one. Raise the error of any other limit."""
        if not getattr(limit, "is_learned", False):
            raise error
        other = limit.fixed(self.in_flight) if isinstance(limit, AdaptiveConcurrency) else None
        self.limits.replace(limit, other)
        if limit is self.learned:
            self.learned = None
        elif limit is self.in_flight_limit:
            self.in_flight_limit = None
        elif limit is self.concurrency:
            self.concurrency = None
        else:
            self.ignore_headers()
        self._fence.switch_off(limit.name, error)
        return other

    def ignore_headers(self) -> None:
        """Follow no rate-limit headers any more."""
        self._headers_read_s = math.inf
        for rate in self.advertised.values():
            self.limits.replace(rate, None)
        self.advertised.clear()

    def _notify(self, limit: Limit, method: Callable[..., object], *arguments: object) -> None:
        """Call a method of a learned limit."""
        try:
            method(*arguments)
        except Exception as error:  # noqa: BLE001 -- advice
            self.switch_off(limit, error)

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
