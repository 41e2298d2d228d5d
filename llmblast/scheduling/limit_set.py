"""Limit sets: all limits of one level, the run or one endpoint. All are checked, then all are paid.

Rates that are far from binding cost as much as those that bind: two microseconds a request, a tenth of what the whole
client takes. So where all of them have much to spare, the set grants itself a pass: so many requests, of so many tokens
in all, for which no rate is asked. What goes meanwhile is only added up, and paid in one sum when the pass is used up,
or when a schedule moves. A pass is half of what is to spare, and paying late charges no rate less than paying in time:
nothing goes that would not have gone anyway. Slots, gates, quotas and what is learned are asked and paid each time,
since events change them.
"""

import math
from collections.abc import Iterator, Sequence

from llmblast.records import Tokens
from llmblast.scheduling.even_rate import EvenRate, is_even
from llmblast.scheduling.limits import Concurrency, Limit, Rate, RollingQuota
from llmblast.scheduling.request_rate import RequestRate
from llmblast.settings import RateSettings

FEWEST_SPARE = 64
"""Requests to spare from which there is a pass. Only lateness that is made up for counts, 4 ms of a rate at most, which
of 10,000 a second are 40: such a rate, and any lower one, is asked each time.
"""
_PASS_SHARE = 0.5
"""Of what is to spare: the rest is left for a crowd that comes when the pass has just been paid."""
_MOST_SPARE = 1e9
_LONG_S = 0.5
"""What was on its way for less is still counted among those of the last second, so that it counts later changes nothing
in what is to spare.
"""
_REFUSED_S = 0.001
"""So long after a pass was not granted none is asked for."""
_DAY_S = 24 * 3600.0


class LimitSet:
    """`per_request` are charged 1 a request; `slots` too, and get it back at its end. Of the token limits each is
    charged its kind: `total`, `prompt` or `output`.
    """

    __slots__ = (
        "_asked",
        "_even",
        "_granted",
        "_granted_tokens",
        "_has_rates",
        "_may_pass",
        "_paced",
        "_per_request",
        "_per_token",
        "_rates",
        "_ready",
        "_refused_s",
        "_release",
        "_requests_left",
        "_returned_tokens",
        "_slots",
        "_take",
        "_tokens_left",
        "_totals",
    )

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
        self._refused_s = -math.inf
        self._granted = self._granted_tokens = self._returned_tokens = 0.0
        """A pass: for so many requests and tokens; of the tokens, more came back than had been taken until then."""
        self._requests_left = self._tokens_left = 0.0
        self._prepare()

    @property
    def concurrency(self) -> Concurrency | None:
        """The limit of requests in flight, if there is one."""
        return next((limit for limit in self._slots if isinstance(limit, Concurrency)), None)

    @property
    def free_slots(self) -> float:
        """How many more may be in flight; infinity where nothing bounds that."""
        return min((limit.free for limit in self._slots if isinstance(limit, Concurrency)), default=math.inf)

    @property
    def has_rate(self) -> bool:
        """Whether it bounds anything but what is in flight at one moment."""
        return any(isinstance(limit, Rate | RollingQuota) for limit in self.all())

    @property
    def counts_tokens(self) -> bool:
        """Whether a token estimate is needed at all."""
        return bool(self._per_token)

    def all(self) -> tuple[Limit, ...]:
        """Every limit, for reports."""
        return (*self._per_request, *(limit for limit, _ in self._per_token))

    def used(self) -> Iterator[tuple[Rate, float]]:
        """Every rate that was set, with the units that it was charged in all, or is owed."""
        for rate in self._rates:
            owed = 0.0
            if self._granted and rate in self._paced:
                owed = self._granted - self._requests_left
            elif self._granted and rate in self._totals:
                owed = self._granted_tokens - self._tokens_left - self._returned_tokens
            if not rate.is_learned:
                yield rate, rate.used + owed

    def add(self, limit: Limit, now: float, kind: int | None = None) -> None:
        """One more limit, charged 1 a request, or its kind of tokens: 0 all, 1 the prompt's, 2 the answer's."""
        self._end_pass(now)
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
        if self._requests_left >= 1 and tokens[0] <= self._tokens_left:
            return True
        return self._are_rates_ready(tokens, now)

    def last_ready(self, tokens: Tokens, now: float) -> tuple[float, Limit]:
        """The limit that lets go last, and when. Asked only while something is held back."""
        moments: list[tuple[float, Limit]] = [(limit.ready_at(1.0, now), limit) for limit in self._asked]
        if self._requests_left < 1 or tokens[0] > self._tokens_left:
            self._end_pass(now)
            moments += [(limit.ready_at(1.0, now), limit) for limit in self._paced]
            moments += [(limit.ready_at(tokens[kind], now), limit) for limit, kind in self._per_token]
        return max(moments, key=lambda moment: moment[0])

    def left_late(self, sent_s: float, left_s: float, behind_s: float) -> None:
        """What was paid for at `sent_s` left only now: the schedules of all rates move by `behind_s`."""
        if behind_s > 0 or left_s - sent_s >= _LONG_S:
            self._end_pass(left_s)
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
        """Pays all limits, or adds up what is owed to the rates."""
        for take in self._take:
            take(1.0, now)
        if self._granted:
            self._requests_left -= 1
            self._tokens_left -= tokens[0]
        elif self._has_rates:
            for limit in self._paced:
                limit.take(1.0, now)
            for token_limit, kind in self._per_token:
                token_limit.take(tokens[kind], now)

    def release(self, paid: Tokens, real: Tokens, now: float) -> None:
        """The request has ended: its slot is free, its tokens are charged as they were."""
        for settle in self._release:
            settle(1.0, 0.0, now)
        if self._granted:
            self._tokens_left += paid[0] - real[0]
            if self._tokens_left > self._granted_tokens:  # credit is full: what comes back now must not pay for later
                self._returned_tokens += self._tokens_left - self._granted_tokens
                self._tokens_left = self._granted_tokens
        else:
            for limit, kind in self._per_token:
                limit.settle(paid[kind], real[kind], now)

    def _are_rates_ready(self, tokens: Tokens, now: float) -> bool:
        if self._granted:
            self._end_pass(now)
        for limit in self._paced:
            if limit.ready_at(1.0, now) > now:
                return False
        for token_limit, kind in self._per_token:
            if token_limit.ready_at(tokens[kind], now) > now:
                return False
        if self._may_pass and now >= self._refused_s + _REFUSED_S:
            self._begin_pass(tokens[0], now)
        return True

    def _begin_pass(self, cost: float, now: float) -> None:
        requests = min((limit.spare(now) for limit in self._paced), default=_MOST_SPARE)
        tokens = min((limit.spare(now) for limit in self._totals), default=math.inf)
        if requests < FEWEST_SPARE or tokens < FEWEST_SPARE * cost:
            self._refused_s = now
            return
        self._requests_left = self._granted = float(math.floor(requests * _PASS_SHARE))
        self._tokens_left = self._granted_tokens = tokens * _PASS_SHARE

    def _end_pass(self, now: float) -> None:
        """Pays what is owed."""
        if not self._granted:
            return
        for limit in self._paced:
            limit.take_late(self._granted - self._requests_left, now)
        for limit in self._totals:
            limit.take_late(self._granted_tokens - self._tokens_left, now)
            limit.used -= self._returned_tokens
        self._granted = self._granted_tokens = self._returned_tokens = 0.0
        self._requests_left = self._tokens_left = 0.0

    def _prepare(self) -> None:
        """What is looked up once instead of for every request."""
        self._rates = tuple(limit for limit in self.all() if isinstance(limit, Rate))
        self._even = tuple(limit for limit in self._rates if isinstance(limit, EvenRate))
        self._paced = tuple(rate for rate in self._rates if rate in self._per_request and not rate.is_learned)
        self._totals = tuple(rate for rate in self._rates if (rate, 0) in self._per_token and not rate.is_learned)
        self._asked = tuple(limit for limit in self._per_request if limit not in self._paced)
        self._ready = tuple(limit.ready_at for limit in self._asked)
        self._take = tuple(limit.take for limit in self._asked)
        self._release = tuple(limit.settle for limit in self._slots)
        may_spare = all(rate.most_spare >= FEWEST_SPARE for rate in (*self._paced, *self._totals))
        self._may_pass = may_spare and len(self._totals) == len(self._per_token)
        self._has_rates = bool(self._paced or self._per_token)
        self._requests_left = self._tokens_left = 0.0 if self._has_rates else math.inf


def limit_set(
    owner: str,
    settings: RateSettings,
    burst_s: float,
    further: Sequence[Limit] = (),
    window: Concurrency | None = None,
) -> LimitSet:
    """The limits of one level from its settings. A new kind of limit is a class in `limits` and one line here.

    `window` stands in for the setting's concurrency.
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
    slots = [] if window is None else [window]
    if window is None and settings.concurrency is not None:
        slots = [Concurrency(f"{owner} concurrency", settings.concurrency)]
    return LimitSet(
        per_request=[*further, *request_rate("rps", 1), *request_rate("rpm", 60), *daily],
        slots=slots,
        total=token_rate("tpm"),
        prompt=token_rate("itpm"),
        output=token_rate("otpm"),
    )
