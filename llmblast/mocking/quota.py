"""All rate limits of one mock provider together: admits a request or says why not, and reports them in headers.

Header names and the form of their values are OpenAI's: https://platform.openai.com/docs/guides/rate-limits
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from llmblast.mocking.limits import WINDOWS, Policy
from llmblast.mocking.settings import MockSettings


@dataclass(slots=True, eq=False)
class Rejection:
    """Why a request gets a 429. `kind` is what ran out, `wait_s` is inf for a request that can never fit."""

    kind: str
    message: str
    wait_s: float

    @property
    def can_fit(self) -> bool:
        """Whether waiting helps."""
        return self.wait_s < math.inf


@dataclass(slots=True, eq=False)
class _Limit:
    label: str
    rate: float
    policy: Policy


class Quota:
    """The limits on requests and on tokens; a request passes when all say so, and then pays all of them."""

    def __init__(self, settings: MockSettings) -> None:
        make = WINDOWS[settings.window]
        self._requests: list[_Limit] = []
        self._tokens: list[_Limit] = []
        if settings.rps is not None:
            policy = make(settings.rps, 1.0, settings.burst)
            self._requests.append(_Limit("requests per sec (RPS)", settings.rps, policy))
        if settings.rpm is not None:
            policy = make(settings.rpm, 60.0, settings.burst)
            self._requests.append(_Limit("requests per min (RPM)", settings.rpm, policy))
        if settings.tpm is not None:
            # `burst` counts requests; a token bucket holds one minute's worth, as the providers that use one do.
            policy = make(settings.tpm, 60.0, settings.tpm)
            self._tokens.append(_Limit("tokens per min (TPM)", settings.tpm, policy))
        self.has_limits = bool(self._requests or self._tokens)

    def admit(self, tokens: int, now: float) -> Rejection | None:
        """Charges one request with `tokens`, or charges nothing and says what it would have to wait for longest."""
        rejection: Rejection | None = None
        for kind, cost, limits in (("requests", 1, self._requests), ("tokens", tokens, self._tokens)):
            for limit in limits:
                wait_s = limit.policy.wait_s(cost, now)
                if wait_s and (rejection is None or wait_s > rejection.wait_s):
                    rejection = Rejection(kind, _explain(limit, cost, wait_s), wait_s)
        if rejection is not None:
            return rejection
        for limit in self._requests:
            limit.policy.take(1, now)
        for limit in self._tokens:
            limit.policy.take(tokens, now)
        return None

    def headers(self, now: float) -> dict[str, str]:
        """The `x-ratelimit-*` headers; of several limits on requests the one with the least left is told."""
        headers: dict[str, str] = {}
        for kind, limits in (("requests", self._requests), ("tokens", self._tokens)):
            if limits:
                _report(
                    headers,
                    kind,
                    min((limit.policy for limit in limits), key=lambda policy: policy.remaining(now)),
                    now,
                )
        return headers


def retry_headers(wait_s: float) -> Mapping[str, str]:
    """`retry-after` in decimal seconds, rounded up to milliseconds so that nobody comes too early."""
    return {"retry-after": f"{math.ceil(wait_s * 1000) / 1000:.3f}".rstrip("0").rstrip(".")}


def go_duration(seconds: float) -> str:
    """Seconds in the form that OpenAI's headers have: `12ms`, `1.2s`, `6m0s`, `1h0m0s`; rounded up to milliseconds."""
    milliseconds = math.ceil(seconds * 1000)
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    tail = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if not minutes:
        return tail
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{tail}" if hours else f"{minutes}m{tail}"


def _report(headers: dict[str, str], kind: str, policy: Policy, now: float) -> None:
    headers[f"x-ratelimit-limit-{kind}"] = str(policy.limit)
    headers[f"x-ratelimit-remaining-{kind}"] = str(int(policy.remaining(now)))
    headers[f"x-ratelimit-reset-{kind}"] = go_duration(policy.reset_s(now))


def _explain(limit: _Limit, cost: float, wait_s: float) -> str:
    figures = f"on {limit.label}: Limit {limit.rate:g}, Requested {cost:g}"
    if wait_s == math.inf:
        return f"Request too large {figures}. The input or output tokens must be reduced in order to run successfully."
    return f"Rate limit reached {figures}. Please try again in {go_duration(wait_s)}."
