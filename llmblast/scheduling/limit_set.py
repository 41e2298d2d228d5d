"""Limit sets: all limits of one level, the run or one endpoint. All are checked, then all are paid.

A learned limit that raises is handed to `on_defect`, which replaces it; the others are paid once all the same.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from llmblast.endpoint_settings import RateSettings
from llmblast.models import Tokens
from llmblast.scheduling.even_rate import EvenRate, is_even
from llmblast.scheduling.limits import Concurrency, Limit, Rate, RollingQuota
from llmblast.scheduling.request_rate import RequestRate

_DAY_S = 24 * 3600.0
NO_LIMIT: Final = Limit("no limit")
_LimitWithKind = tuple[Limit, int | None]
OnDefect = Callable[[Limit, Exception], Limit | None]
"""Return a substitute for a limit that raised, or None to leave it out. Raise the error where it is not learned."""


def raise_defect(limit: Limit, error: Exception) -> Limit | None:
    """Raise the error of a limit."""
    raise error


class LimitSet:
    """All limits of one level. `per_request` are charged 1 a request; `slots` too, and get it back at its end; `total`,
    `prompt` and `output` are charged that kind of tokens.
    """

    def __init__(
        self,
        *,
        per_request: Sequence[Limit] = (),
        slots: Sequence[Limit] = (),
        total: Sequence[Limit] = (),
        prompt: Sequence[Limit] = (),
        output: Sequence[Limit] = (),
        on_defect: OnDefect = raise_defect,
    ) -> None:
        self.on_defect = on_defect
        self._per_request = (*slots, *per_request)
        self._slots = tuple(slots)
        self._per_token = tuple(
            (limit, kind) for kind, limits in enumerate((total, prompt, output)) for limit in limits
        )
        self._prepare()

    @property
    def concurrency(self) -> Concurrency | None:
        """Return the limit of requests in flight, if there is one."""
        return next((limit for limit in self._slots if isinstance(limit, Concurrency)), None)

    @property
    def counts_tokens(self) -> bool:
        """Return whether a token estimate is needed at all."""
        return bool(self._per_token)

    def all(self) -> tuple[Limit, ...]:
        """Return every limit, for reports."""
        return (*self._per_request, *(limit for limit, _ in self._per_token))

    def used(self) -> Iterator[tuple[Rate, float]]:
        """Return every configured rate, with the units that it was charged in all."""
        return ((rate, rate.used) for rate in self._rates if not rate.is_learned)

    def add(self, limit: Limit, kind: int | None = None) -> None:
        """Add a limit that is charged 1 a request, or a kind of tokens: 0 all, 1 those of prompts, 2 of answers."""
        if kind is None:
            self._per_request = (*self._per_request, limit)
        else:
            self._per_token = (*self._per_token, (limit, kind))
        self._prepare()

    def add_slots(self, limit: Limit) -> None:
        """Add a limit that is charged 1 a request and gets it back at its end."""
        self._slots = (*self._slots, limit)
        self._per_request = (limit, *self._per_request)
        self._prepare()

    def replace(self, limit: Limit, other: Limit | None) -> None:
        """Put `other` in place of a limit; None leaves the limit out."""
        kept = () if other is None else (other,)

        def replaced(limits: Sequence[Limit]) -> tuple[Limit, ...]:
            return tuple(one for known in limits for one in (kept if known is limit else (known,)))

        self._per_request, self._slots = replaced(self._per_request), replaced(self._slots)
        self._per_token = tuple((one, kind) for known, kind in self._per_token for one in replaced([known]))
        self._prepare()

    def is_ready(self, tokens: Tokens, now: float) -> bool:
        """Return whether every limit lets a request of this size go now."""
        limit = NO_LIMIT
        try:
            for limit in self._per_request:
                if limit.ready_at(1.0, now) > now:
                    return False
            for limit, kind in self._per_token:
                if limit.ready_at(tokens[kind], now) > now:
                    return False
        except Exception as error:  # noqa: BLE001 -- raised again unless the limit is learned
            self.on_defect(limit, error)
            return self.is_ready(tokens, now)
        return True

    def last_ready(self, tokens: Tokens, now: float) -> tuple[float, Limit]:
        """Return when the last limit lets such a request go, and that limit. Called only while requests wait."""
        moments: list[tuple[float, Limit]] = []
        for limit, kind in self._all_with_kinds():
            try:
                moments.append((limit.ready_at(_cost(kind, tokens), now), limit))
            except Exception as error:  # noqa: BLE001 -- as above
                self.on_defect(limit, error)
                return self.last_ready(tokens, now)
        return max(moments, key=lambda moment: moment[0])

    def record_late_departure(self, sent_s: float, left_s: float, behind_s: float) -> None:
        """Record that a request charged at `sent_s` left only at `left_s`: the schedules of all rates move."""
        for limit in self._rates:
            try:
                limit.record_late_departure(sent_s, left_s, behind_s)
            except Exception as error:  # noqa: BLE001 -- as above
                self.on_defect(limit, error)

    def delay_requests(self, seconds: float) -> None:
        """Move the schedules of the configured request rates."""
        for limit in self._rates:
            if isinstance(limit, EvenRate | RequestRate):
                limit.delay(seconds)

    @property
    def is_even(self) -> bool:
        """Return whether there is a rate at which requests leave evenly."""
        return bool(self.even)

    @property
    def leaves_at(self) -> float:
        """Return the moment from which an admitted request may leave."""
        return max((limit.leaves_at for limit in self.even), default=-math.inf)

    def record_departure(self, now: float, *, is_fresh: bool = False) -> None:
        """Record a departure, on a connection that had to be opened for it if `is_fresh`."""
        for limit in self.even:
            limit.record_departure(now, is_fresh=is_fresh)

    def correct_departure(self, now: float, *, is_fresh: bool = False) -> None:
        """Record that the request that left last was written at `now` only."""
        for limit in self.even:
            limit.correct_departure(now, is_fresh=is_fresh)

    def acquire(self, tokens: Tokens, now: float) -> None:
        """Charge all limits."""
        limit = NO_LIMIT
        try:
            for limit in self._per_request:
                limit.acquire(1.0, now)
            for limit, kind in self._per_token:
                limit.acquire(tokens[kind], now)
        except Exception as error:  # noqa: BLE001 -- as above
            self._acquire_behind(limit, error, tokens, now)

    def release(self, paid: Tokens, real: Tokens, now: float) -> None:
        """Free the slots of a request that has ended, and charge the tokens that it really used."""
        limit = NO_LIMIT
        try:
            for limit in self._slots:
                limit.settle(1.0, 0.0, now)
            for limit, kind in self._per_token:
                limit.settle(paid[kind], real[kind], now)
        except Exception as error:  # noqa: BLE001 -- as above
            self._release_behind(limit, error, paid, real, now)

    def _acquire_behind(self, failed: Limit, error: Exception, tokens: Tokens, now: float) -> None:
        behind = self._behind(failed, self._all_with_kinds())
        other = self.on_defect(failed, error)
        if other is not None:
            other.acquire(1.0, now)
        self._call(behind, lambda limit, kind: limit.acquire(_cost(kind, tokens), now))

    def _release_behind(self, failed: Limit, error: Exception, paid: Tokens, real: Tokens, now: float) -> None:
        limits = [pair for pair in self._all_with_kinds() if pair[0] in self._slots or pair[1] is not None]
        behind = self._behind(failed, limits)
        self.on_defect(failed, error)
        self._call(behind, lambda limit, kind: limit.settle(_cost(kind, paid), 0 if kind is None else real[kind], now))

    def _all_with_kinds(self) -> Sequence[_LimitWithKind]:
        """Return every limit in the order of payment, with its kind of tokens, if it is charged tokens."""
        return (*((limit, None) for limit in self._per_request), *self._per_token)

    @staticmethod
    def _behind(failed: Limit, limits: Sequence[_LimitWithKind]) -> Sequence[_LimitWithKind]:
        """Return the limits behind one that raised: those before it were called already."""
        return limits[[limit for limit, _ in limits].index(failed) + 1 :]

    def _call(self, limits: Sequence[_LimitWithKind], call: Callable[[Limit, int | None], None]) -> None:
        for limit, kind in limits:
            if limit in self.all():  # no other defect has removed it
                try:
                    call(limit, kind)
                except Exception as error:  # noqa: BLE001 -- as above
                    self.on_defect(limit, error)

    def _prepare(self) -> None:
        """Look up once what every request needs."""
        self._rates = tuple(limit for limit in self.all() if isinstance(limit, Rate))
        self.rates_with_kinds = tuple(
            (limit, kind) for limit, kind in self._all_with_kinds() if isinstance(limit, Rate)
        )
        """Every rate, learned ones too, with its kind of tokens; None where it is charged 1 a request."""
        self.quotas = tuple(limit for limit in self._per_request if isinstance(limit, RollingQuota))
        self.even = tuple(limit for limit in self._rates if isinstance(limit, EvenRate))
        """The rates at which requests leave evenly."""


def _cost(kind: int | None, tokens: Tokens) -> float:
    return 1.0 if kind is None else tokens[kind]


def limit_set(
    owner: str,
    settings: RateSettings,
    burst_s: float,
    *,
    window: Concurrency | None = None,
    on_defect: OnDefect = raise_defect,
) -> LimitSet:
    """Build the limits of one level from its settings. A new kind of limit is a class in `limits` and one line here.

    `window` replaces the configured concurrency; `on_defect` is called with a limit that raised.
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
        per_request=[*request_rate("rps", 1), *request_rate("rpm", 60), *daily],
        slots=slots,
        total=token_rate("tpm"),
        prompt=token_rate("itpm"),
        output=token_rate("otpm"),
        on_defect=on_defect,
    )
