"""Learned limits of one endpoint: what rate-limit headers, rate-limit replies and latencies say of its limits.

All of that is advice. A learned limit that raises is switched off, and the limits that the user set hold as before.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from llmblast.endpoint_settings import EndpointSettings, RateSettings
from llmblast.fence import Fence
from llmblast.models import Answer, Attempt, RateLimitInfo, Request
from llmblast.scheduling.adaptive_concurrency import AdaptiveConcurrency
from llmblast.scheduling.advertised_rate import AdvertisedRate, should_follow
from llmblast.scheduling.learned_concurrency import LearnedConcurrency
from llmblast.scheduling.learned_rate import LearnedRate
from llmblast.scheduling.limit_set import limit_set
from llmblast.scheduling.limits import Limit
from llmblast.scheduling.tokens import TokenEstimator
from llmblast.scheduling.traffic import Traffic

_MIN_HEADERS_INTERVAL_S: Final = 0.005
"""Headers of two replies within less say nothing new, and reading them costs some microseconds."""
_LEARNING_INTERVAL_S: Final = 0.001
_TOKEN_KINDS: Final = ("tokens", "input_tokens", "output_tokens")
"""Kinds of quota in rate-limit headers, in the order of the kinds of a LimitSet."""


@dataclass(frozen=True, slots=True)
class KnownLimits:
    """Limits of an endpoint that a run has learned: requests a second, infinity where no limit was met, and requests in
    flight.
    """

    per_s: float = math.inf
    slots: int | None = None

    @property
    def is_empty(self) -> bool:
        """Nothing was learned."""
        return self.per_s == math.inf and self.slots is None


class LearnedLimits:
    """The learned part of an endpoint's `limits`. Each part is None where nothing is to be learned."""

    __slots__ = (
        "_fence",
        "_name",
        "_set_per_s",
        "_tokens_learned_s",
        "_traffic",
        "advertised",
        "concurrency",
        "estimator",
        "headers_due_s",
        "in_flight",
        "is_learning",
        "limits",
        "rate",
    )

    def __init__(
        self,
        settings: EndpointSettings,
        traffic: Traffic,
        fence: Fence,
        *,
        burst_s: float,
        run: RateSettings,
        known: KnownLimits,
    ) -> None:
        self._name = name = settings.name
        self._traffic = traffic
        self._fence = fence
        self._set_per_s = _set_per_s(settings)
        self.rate: LearnedRate | None = None
        """The rate that push-back has taught."""
        self.in_flight: LearnedConcurrency | None = None
        """The number in flight that push-back has taught."""
        self.advertised: dict[str, AdvertisedRate] = {}
        """Rates that the rate-limit headers advertise, by kind of quota."""
        self.headers_due_s = math.inf
        """When the rate-limit headers of a reply are worth reading again; infinity: they are ignored."""
        if settings.adaptive is not False:
            self.headers_due_s = -math.inf
            set_per_s = min(settings.requests_per_s, run.requests_per_s)
            self.rate = LearnedRate(f"{name} learned rate", set_per_s, known.per_s)
            self.in_flight = LearnedConcurrency(f"{name} learned concurrency", known.slots)
        self.concurrency: AdaptiveConcurrency | None = None
        """Learned where no rate is set or known. Where one is, slow start and searches would cost a share of that."""
        if settings.is_adaptive and not run.has_rate and known.per_s == math.inf:
            slots = min(settings.concurrency or sys.maxsize, run.concurrency or sys.maxsize)
            self.concurrency = AdaptiveConcurrency(f"{name} concurrency", slots)
        self.limits = limit_set(name, settings, burst_s, window=self.concurrency, on_defect=self.switch_off)
        self.estimator = TokenEstimator(settings.charge)
        self._tokens_learned_s = -math.inf
        self.is_learning = False
        """The endpoint has rejected a request, or is known to: the learned rate and number in flight are limits."""
        if not known.is_empty:
            self.start()

    def start(self) -> None:
        """Begin to learn from push-back."""
        if self.is_learning:
            return
        self.is_learning = True
        if self.rate is not None:
            self.rate.start(self._traffic.first_sent_s, self._traffic.sends)
            self.limits.add(self.rate)
        if self.in_flight is not None:
            self.in_flight.start(self._traffic.in_flight)
            self.limits.add_slots(self.in_flight)

    @property
    def reads_headers(self) -> bool:
        """Return whether rate-limit headers are read at all."""
        return self.headers_due_s < math.inf

    def on_rate_limit_headers(self, infos: Sequence[RateLimitInfo], sent_s: float, now: float) -> None:
        """Follow the rate-limit headers of the reply to the request sent at `sent_s`."""
        self.headers_due_s = now + _MIN_HEADERS_INTERVAL_S
        for info in infos:
            rate = self.advertised.get(info.kind)
            if rate is not None:
                self.notify(rate, rate.on_rate_limit_headers, info, sent_s, now)
            elif should_follow(info) and self.reads_headers:
                self._follow(info.kind)

    def ignore_headers(self) -> None:
        """Follow no rate-limit headers any more."""
        self.headers_due_s = math.inf
        for rate in self.advertised.values():
            self.limits.replace(rate, None)
        self.advertised.clear()

    def learn_tokens(self, request: Request, answer: Answer, now: float) -> None:
        """Learn the tokens of a request: a thousand answers a second say as much as all of them."""
        if now >= self._tokens_learned_s + _LEARNING_INTERVAL_S:
            self._tokens_learned_s = now
            try:
                self.estimator.learn(request, answer)
            except Exception as error:  # noqa: BLE001 -- advice
                self._tokens_learned_s, self.estimator = math.inf, TokenEstimator(self.estimator.charge)
                self._fence.switch_off(f"learning token counts of {self._name}", error)

    def on_answer_after_push_back(self, attempt: Attempt, now: float) -> None:
        """Learn the number in flight from an answer, once a request was rejected."""
        if self.is_learning and self.in_flight is not None:
            self.notify(self.in_flight, self.in_flight.on_answer, attempt.in_flight, attempt.sent_s, now)

    def explain_by_number_in_flight(self, attempt: Attempt, now: float) -> bool:
        """Return whether the number in flight explains a rate-limit reply."""
        limit = self.in_flight
        try:
            return limit is not None and limit.on_rejected(attempt.in_flight, attempt.sent_s, now)
        except Exception as error:  # noqa: BLE001 -- advice
            if limit is not None:
                self.switch_off(limit, error)
            return False

    def on_rate_limited(self, sent_s: float, now: float, *, was_held: bool, is_held: bool) -> None:
        """Learn from a rate-limit reply that the number in flight does not explain."""
        if is_held and self.concurrency is not None:
            self.notify(self.concurrency, self.concurrency.on_push_back, now)
        if (advertised := self.advertised.get("requests")) is not None:
            self.notify(advertised, advertised.settle, 1.0, 0.0, now)
        if self.rate is not None:
            if was_held:
                self.notify(self.rate, self.rate.on_held_rejected)
            else:
                self.notify(self.rate, self.rate.on_rejected, sent_s, now)

    def notify(self, limit: Limit, method: Callable[..., object], *arguments: object) -> None:
        """Call a method of a learned limit; switch the limit off where that raises."""
        try:
            method(*arguments)
        except Exception as error:  # noqa: BLE001 -- advice
            self.switch_off(limit, error)

    def switch_off(self, limit: Limit, error: Exception) -> Limit | None:
        """Replace a learned limit that raised, by the user's if there is one. Raise the error of any other limit."""
        if not getattr(limit, "is_learned", False):
            raise error
        other = limit.to_fixed(self._traffic.in_flight) if isinstance(limit, AdaptiveConcurrency) else None
        self.limits.replace(limit, other)
        if limit is self.rate:
            self.rate = None
        elif limit is self.in_flight:
            self.in_flight = None
        elif limit is self.concurrency:
            self.concurrency = None
        else:
            self.ignore_headers()
        self._fence.switch_off(limit.name, error)
        return other

    def _follow(self, kind: str) -> None:
        name = f"{self._name} {kind.replace('_', ' ')} limit reported by the provider"
        rate = self.advertised[kind] = AdvertisedRate(name, self._set_per_s.get(kind, math.inf))
        self.limits.add(rate, _TOKEN_KINDS.index(kind) if kind in _TOKEN_KINDS else None)


def _set_per_s(settings: EndpointSettings) -> dict[str, float]:
    """Return the units a second that the settings name, by kind of quota."""
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
