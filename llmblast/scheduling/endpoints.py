"""Endpoint: all that scheduling knows about one place to send to, in one slotted object."""

from llmblast.scheduling.limits import Breaker, Concurrency, CoolDown, Limit, LimitSet, Rate
from llmblast.scheduling.tokens import TokenEstimator
from llmblast.settings import EndpointSettings

_LATENCY_GAIN = 0.1
_FAILED_LATENCY_S = 0.1
_WORST_LATENCY_S = 60.0


class Endpoint:
    """One endpoint's limits, load and health. `index` is its place in the settings, `bit` the same as a bit."""

    __slots__ = (
        "bit",
        "breaker",
        "cool_down",
        "cool_downs",
        "credit",
        "disabled",
        "estimator",
        "has_succeeded",
        "in_flight",
        "index",
        "latency_s",
        "limits",
        "name",
        "weight",
    )

    def __init__(self, index: int, settings: EndpointSettings, burst_s: float = 0.0) -> None:
        self.index = index
        self.bit = 1 << index
        self.name = settings.name
        self.weight = settings.weight
        self.cool_down = CoolDown(f"{settings.name} cool-down")
        self.cool_downs = 0
        """Rate-limit replies in a row."""
        self.breaker = Breaker(f"{settings.name} breaker")
        self.limits = limit_set(
            settings.name,
            rps=settings.rps,
            rpm=settings.rpm,
            tpm=settings.tpm,
            concurrency=settings.concurrency,
            burst_s=burst_s if settings.burst is None else settings.burst,
            further=(self.cool_down, self.breaker),
        )
        self.estimator = TokenEstimator()
        self.in_flight = 0
        self.latency_s = 0.0
        self.credit = 0.0
        self.disabled: str | None = None
        self.has_succeeded = False
        """It gave a usable answer in this run."""

    def state(self, now: float) -> str:
        """What is the matter with it, for a person; empty when all is well."""
        if self.disabled is not None:
            return f"disabled: {self.disabled}"
        if self.breaker.is_open:
            return "unreachable, probing"
        return f"cooling down {self.cool_down.ready_at(1.0, now) - now:.0f} s" if self.cool_down.is_on(now) else ""

    def observe(self, latency_s: float) -> None:
        """Moves the average latency, for the `fastest` route."""
        if self.latency_s:
            self.latency_s += _LATENCY_GAIN * (latency_s - self.latency_s)
        else:
            self.latency_s = latency_s

    def observe_failure(self) -> None:
        """Makes it look slower: failures are often quick, and must not attract what `fastest` sends."""
        self.latency_s = min(max(2 * self.latency_s, _FAILED_LATENCY_S), _WORST_LATENCY_S)


def limit_set(
    owner: str,
    *,
    rps: float | None,
    rpm: float | None,
    tpm: float | None,
    concurrency: int | None,
    burst_s: float,
    further: tuple[Limit, ...] = (),
) -> LimitSet:
    """The limits of one level from its settings. A new kind of limit is a class in `limits` and one line here."""
    per_request: list[Limit] = list(further)
    if rps is not None:
        per_request.append(Rate(f"{owner} rps", rps, burst_s))
    if rpm is not None:
        per_request.append(Rate(f"{owner} rpm", rpm / 60, burst_s))
    per_token = [] if tpm is None else [Rate(f"{owner} tpm", tpm / 60, burst_s)]
    slots = [] if concurrency is None else [Concurrency(f"{owner} concurrency", concurrency)]
    return LimitSet(per_request=per_request, per_token=per_token, slots=slots)
