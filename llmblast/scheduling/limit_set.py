"""Limit sets: all limits of one level, the run or one endpoint. All are checked, then all are paid."""

import math
from collections.abc import Iterator, Sequence

from llmblast.records import Tokens
from llmblast.scheduling.even_rate import EvenRate, is_even
from llmblast.scheduling.limits import Concurrency, Limit, Rate, RollingQuota
from llmblast.scheduling.request_rate import RequestRate
from llmblast.settings import RateSettings

_DAY_S = 24 * 3600.0


class LimitSet:
    """`per_request` are charged 1 a request; `slots` too, and get it back at its end. Of the token limits each is
    charged its kind: `total`, `prompt` or `output`.
    """

    __slots__ = ("_even", "_per_request", "_per_token", "_rates", "_ready", "_release", "_slots", "_take")

    def __init__(
        self,
        *,
        per_request: Sequence[Limit] = (),
        slots: Sequence[Limit] = (),
        total: Sequence[Limit] = (),
        prompt: Sequence[Limit] = (),
        output: Sequence[Limit] = (),
    ) -> None:
        self._per_request = (*slots, *per_request)
        self._slots = tuple(slots)
        self._per_token = tuple(
            (limit, kind) for kind, limits in enumerate((total, prompt, output)) for limit in limits
        )
        self._prepare()

    @property
    def concurrency(self) -> Concurrency | None:
        """The limit of requests in flight, if there is one."""
        return next((limit for limit in self._slots if isinstance(limit, Concurrency)), None)

    @property
    def counts_tokens(self) -> bool:
        """Whether a token estimate is needed at all."""
        return bool(self._per_token)

    def all(self) -> tuple[Limit, ...]:
        """Every limit, for reports."""
        return (*self._per_request, *(limit for limit, _ in self._per_token))

    def used(self) -> Iterator[tuple[Rate, float]]:
        """Every rate that was set, with the units that it was charged in all."""
        return ((rate, rate.used) for rate in self._rates if not rate.is_learned)

    def add(self, limit: Limit, kind: int | None = None) -> None:
        """One more limit, charged 1 a request, or its kind of tokens: 0 all, 1 the prompt's, 2 the answer's."""
        if kind is None:
            self._per_request = (*self._per_request, limit)
        else:
            self._per_token = (*self._per_token, (limit, kind))
        self._prepare()

    def is_ready(self, tokens: Tokens, now: float) -> bool:
        """Whether every limit lets a request of this size go now."""
        for ready_at in self._ready:
            if ready_at(1.0, now) > now:
                return False
        for limit, kind in self._per_token:  # noqa: SIM110 -- a generator costs more than all limits together
            if limit.ready_at(tokens[kind], now) > now:
                return False
        return True

    def last_ready(self, tokens: Tokens, now: float) -> tuple[float, Limit]:
        """The limit that lets go last, and when. Asked only while something is held back."""
        moments: list[tuple[float, Limit]] = [(limit.ready_at(1.0, now), limit) for limit in self._per_request]
        moments += [(limit.ready_at(tokens[kind], now), limit) for limit, kind in self._per_token]
        return max(moments, key=lambda moment: moment[0])

    def left_late(self, sent_s: float, left_s: float, behind_s: float) -> None:
        """What was paid for at `sent_s` left only now: the schedules of all rates move by `behind_s`."""
        for limit in self._rates:
            limit.left_late(sent_s, left_s, behind_s)

    def delay_requests(self, seconds: float) -> None:
        """Move the schedules of the set request rates."""
        for limit in self._rates:
            if isinstance(limit, EvenRate | RequestRate):
                limit.delay(seconds)

    @property
    def is_even(self) -> bool:
        """Whether there is a rate at which requests leave evenly."""
        return bool(self._even)

    @property
    def leaves_at(self) -> float:
        """Moment from which a request that was paid for may leave."""
        return max((limit.leaves_at for limit in self._even), default=-math.inf)

    def leave(self, now: float) -> None:
        """Record a departure."""
        for limit in self._even:
            limit.leave(now)

    def take(self, tokens: Tokens, now: float) -> None:
        """Pays all limits."""
        for take in self._take:
            take(1.0, now)
        for limit, kind in self._per_token:
            limit.take(tokens[kind], now)

    def release(self, paid: Tokens, real: Tokens, now: float) -> None:
        """The request has ended: its slot is free, its tokens are charged as they were."""
        for settle in self._release:
            settle(1.0, 0.0, now)
        for limit, kind in self._per_token:
            limit.settle(paid[kind], real[kind], now)

    def _prepare(self) -> None:
        """What is looked up once instead of for every request."""
        self._rates = tuple(limit for limit in self.all() if isinstance(limit, Rate))
        self._even = tuple(limit for limit in self._rates if isinstance(limit, EvenRate))
        self._ready = tuple(limit.ready_at for limit in self._per_request)
        self._take = tuple(limit.take for limit in self._per_request)
        self._release = tuple(limit.settle for limit in self._slots)


def limit_set(
    owner: str,
    settings: RateSettings,
    burst_s: float,
    further: Sequence[Limit] = (),
    *,
    window: Concurrency | None = None,
    in_flight: Sequence[Limit] = (),
) -> LimitSet:
    """The limits of one level from its settings. A new kind of limit is a class in `limits` and one line here.

    `window` stands in for the setting's concurrency; `in_flight` are further limits that are paid back at the end of a
    request.
    """

    def request_rate(name: str, seconds: float) -> list[Limit]:
        amount: float | None = getattr(settings, name)
        if amount is None:
            return []
        per_second = amount / seconds
        if is_even(per_second, burst_s):
            return [EvenRate(f"{owner} {name}", per_second)]
        return [RequestRate(f"{owner} {name}", per_second, burst_s)]

    def token_rate(name: str) -> list[Limit]:
        amount: float | None = getattr(settings, name)
        return [] if amount is None else [Rate(f"{owner} {name}", amount / 60, burst_s)]

    daily = [] if settings.rpd is None else [RollingQuota(f"{owner} rpd", settings.rpd, _DAY_S)]
    slots: list[Limit] = [] if window is None else [window]
    if window is None and settings.concurrency is not None:
        slots = [Concurrency(f"{owner} concurrency", settings.concurrency)]
    return LimitSet(
        per_request=[*further, *request_rate("rps", 1), *request_rate("rpm", 60), *daily],
        slots=[*slots, *in_flight],
        total=token_rate("tpm"),
        prompt=token_rate("itpm"),
        output=token_rate("otpm"),
    )
