"""All rate limits of one mock provider together: admits a request or says why not, charges it, and reports.

What a request costs in tokens depends on `charge`:

    usage       the prompt must fit and is charged at once; the output is charged when the reply is complete, and may
                put the limit into debt. An output limit admits while one token is left. As Anthropic, where the limit
                on output counts real tokens only: https://docs.anthropic.com/en/api/rate-limits
    max_tokens  the prompt and the `max_tokens` of the body must fit, are charged at once, and nothing is given back. As
                Azure: https://learn.microsoft.com/azure/ai-services/openai/how-to/quota
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from llmblast.mocking.headers import HEADERS, Reading, go_duration
from llmblast.mocking.limits import POLICIES
from llmblast.mocking.rates import SLACK, Others, Policy, Rate
from llmblast.mocking.settings import MockSettings
from llmblast.mocking.windows import FixedWindow

_DAY_S = 86_400.0

_TIGHTEST = {
    "requests": ("requests",),
    "tokens": ("tokens", "input-tokens", "output-tokens"),
    "input-tokens": ("input-tokens",),
    "output-tokens": ("output-tokens",),
}
"""The kinds of limits of which a header's kind tells the one with the least left."""


@dataclass(slots=True, eq=False)
class Rejection:
    """Why a request gets a 429. `kind` is what ran out, `wait_s` is inf for a request that can never fit."""

    kind: str
    message: str
    wait_s: float


@dataclass(slots=True, eq=False)
class _Limit:
    kind: str
    label: str
    rate: float
    policy: Policy


class Quota:
    """The limits on requests and on tokens; a request passes when all say so, and then pays all of them."""

    def __init__(self, settings: MockSettings) -> None:
        self._stolen_after_s = settings.stolen_after
        self._others = Others(settings.stolen)
        self._reserves_output = settings.charge == "max_tokens"
        self._tells_wait = settings.tell_retry_after
        self._limits = _limits(settings, self._others)
        self._charged_later = [limit for limit in self._limits if limit.kind in ("tokens", "output-tokens")]
        self._style = HEADERS[settings.headers]
        told = {kind: [limit for limit in self._limits if limit.kind in _TIGHTEST[kind]] for kind in self._style.kinds}
        self._told = [(kind, limits) for kind, limits in told.items() if limits]
        self.has_limits = bool(self._limits)

    def admit(self, prompt_tokens: int, most_output_tokens: int, now: float) -> Rejection | None:
        """Charges one request, or charges nothing and says what it would have to wait for longest.

        `most_output_tokens` is what its body allows; 0 is a request without output.
        """
        if self._others.share and self._others.start_s == math.inf:
            self._others.start_s = now + self._stolen_after_s
        needs = paid = _costs(prompt_tokens, most_output_tokens if self._reserves_output else 0)
        if not self._reserves_output:
            needs = {**paid, "output-tokens": min(1, most_output_tokens)}
        rejection: Rejection | None = None
        for limit in self._limits:
            cost = needs[limit.kind]
            wait_s = limit.policy.wait_s(cost, now) if cost else 0.0
            if wait_s and (rejection is None or wait_s > rejection.wait_s):
                rejection = Rejection(limit.kind, self._explain(limit, cost, wait_s), wait_s)
        if rejection is not None:
            return rejection
        for limit in self._limits:
            cost = paid[limit.kind]
            if cost:
                limit.policy.take(cost, now)
        return None

    def settle(self, output_tokens: int, now: float) -> None:
        """Charges the output of a complete reply, unless it was charged in advance."""
        if self._reserves_output or not output_tokens:
            return
        for limit in self._charged_later:
            limit.policy.take(output_tokens, now)

    def headers(self, now: float, epoch_s: float) -> dict[str, str]:
        """Return the rate-limit headers at this moment, on the monotonic and on the wall clock."""
        return self._style.tell([_read(kind, limits, now) for kind, limits in self._told], epoch_s)

    def _explain(self, limit: _Limit, cost: float, wait_s: float) -> str:
        figures = f"on {limit.label}: Limit {limit.rate:g}, Requested {cost:g}"
        if wait_s == math.inf:
            reduce = "The input or output tokens must be reduced in order to run successfully."
            return f"Request too large {figures}. {reduce}"
        advice = f" Please try again in {go_duration(wait_s)}." if self._tells_wait else ""
        return f"Rate limit reached {figures}.{advice}"


def _costs(prompt_tokens: int, output_tokens: int) -> Mapping[str, int]:
    return {
        "requests": 1,
        "tokens": prompt_tokens + output_tokens,
        "input-tokens": prompt_tokens,
        "output-tokens": output_tokens,
    }


def _limits(settings: MockSettings, others: Others) -> list[_Limit]:
    make, limits = POLICIES[settings.policy], []
    for window_s, unit, label, units in (
        (1.0, "sec", "RPS", settings.rps),
        (60.0, "min", "RPM", settings.rpm),
        (_DAY_S, "day", "RPD", settings.rpd),
    ):
        if units is not None:
            # A day's quota is a counter with every provider; spread evenly it would be another limit by the second.
            policy = FixedWindow if window_s == _DAY_S else make
            rate = Rate(units, window_s, settings.burst)
            limits.append(_Limit("requests", f"requests per {unit} ({label})", units, policy(rate, others)))
    for kind, words, label, units in (
        ("tokens", "tokens", "TPM", settings.tpm),
        ("input-tokens", "input tokens", "ITPM", settings.itpm),
        ("output-tokens", "output tokens", "OTPM", settings.otpm),
    ):
        if units is not None:
            rate = Rate(units, 60.0, settings.burst_tokens, largest=units)
            limits.append(_Limit(kind, f"{words} per min ({label})", units, make(rate, others)))
    return limits


def _read(kind: str, limits: list[_Limit], now: float) -> Reading:
    """The tightest of several limits."""
    tightest, remaining = limits[0], limits[0].policy.remaining(now)
    for limit in limits[1:]:
        left = limit.policy.remaining(now)
        if left < remaining:
            tightest, remaining = limit, left
    return Reading(kind, math.ceil(tightest.rate), max(0, int(remaining + SLACK)), tightest.policy.reset_s(now))
