"""Told rates: a provider's own words are followed where they mean something, and do no harm where they do not."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest

from llmblast.mocking.limits import POLICIES
from llmblast.mocking.rates import Others
from llmblast.mocking.rates import Rate as ServerRate
from llmblast.records import NO_TOKENS, QuotaWord, Request, Tokens
from llmblast.scheduling import Endpoint, Scheduler
from llmblast.scheduling.told import ToldRate
from tests.scheduling.scheduling_samples import Driver, EndpointOptions, make_request, make_scheduler, tokens_of

START_S = 1000.3
LATENCY_S = 0.05
WINDOW_S = 60.0
STOLEN_AFTER_S = 40.0


@dataclass(slots=True)
class _Provider:
    """One quota a minute, told in every reply; somebody else may take half of it from the fortieth second on."""

    policy: str
    per_minute: float
    burst: float | None = None
    stolen: float = 0.0
    resolution_s: float = 0.001
    accepted: list[float] = field(default_factory=list)
    rejected: int = 0

    def judge_with(
        self, scheduler: Scheduler, now: Callable[[], float]
    ) -> Callable[[Request, Endpoint], tuple[Tokens, float | None]]:
        others = Others(self.stolen, START_S + STOLEN_AFTER_S if self.stolen else math.inf)
        limit = POLICIES[self.policy](ServerRate(self.per_minute, WINDOW_S, self.burst), others)

        def tell() -> QuotaWord:
            remaining, reset_s = max(0, math.floor(limit.remaining(now()))), limit.reset_s(now())
            told_s = math.ceil((now() + reset_s) / self.resolution_s) * self.resolution_s - now()
            return QuotaWord("requests", self.per_minute, remaining, told_s, self.resolution_s)

        def judge(request: Request, endpoint: Endpoint) -> tuple[Tokens, float | None]:
            arrived_s = now() - LATENCY_S / 2
            wait_s = limit.admit(1.0, arrived_s)
            scheduler.heard(request, endpoint, [tell()], now())
            if not wait_s:
                self.accepted.append(arrived_s)
                scheduler.answered(request, endpoint, LATENCY_S)
                return NO_TOKENS, None
            self.rejected += 1
            endpoint.cool_down.rejected(request.sent_s)
            endpoint.rejected(request.sent_s, wait_s, now())
            return NO_TOKENS, 0.0

        return judge

    def used(self, since_s: float, until_s: float) -> float:
        """The share of what the others left that was used in that time, from the start on."""
        count = sum(since_s <= moment - START_S < until_s for moment in self.accepted)
        return count / (until_s - since_s) / (self.per_minute / WINDOW_S) / (1 - self.stolen)


def run_against(provider: _Provider, seconds: float, **options: float) -> Scheduler:
    """As many requests as may go in that time."""
    named: EndpointOptions = {"adaptive": True, "concurrency": 64, **options}  # type: ignore[typeddict-item]  # rates
    scheduler, random = make_scheduler([named]), Random(1)
    for number in range(1, round(provider.per_minute / WINDOW_S * seconds) + 200):
        scheduler.lanes.add(make_request(number))
    judge = provider.judge_with(scheduler, lambda: driver.now)
    driver = Driver(scheduler, lambda endpoint: LATENCY_S, judge, lambda: random.uniform(0, 0.0001), START_S)
    driver.run(until_s=seconds)
    return scheduler


@pytest.mark.parametrize("resolution_s", [0.001, 1.0])
@pytest.mark.parametrize(
    ("policy", "burst"),
    [("fixed", None), ("sliding", None), ("token-bucket", None), ("token-bucket", 1200), ("quantised", None)],
)
def test_words_hold_nothing_back_while_nobody_else_uses_the_quota(
    policy: str, burst: float | None, resolution_s: float
) -> None:
    """Whatever a provider means by remaining and reset, a rate that was set is used to its end."""
    provider = _Provider(policy, 1200, burst, resolution_s=resolution_s)
    run_against(provider, 140.0, rpm=1200)

    assert provider.used(5, 135) >= 0.99
    assert provider.rejected == 0


@pytest.mark.parametrize("resolution_s", [0.001, 1.0])
def test_what_somebody_else_takes_of_a_counter_is_left_to_him(resolution_s: float) -> None:
    """Half of it is gone from the fortieth second on: the other half is used, and nothing is sent in vain."""
    provider = _Provider("fixed", 1200, stolen=0.5, resolution_s=resolution_s)
    run_against(provider, 250.0, rpm=1200)

    assert provider.rejected == 0
    assert provider.used(60, 240) >= 0.95


@pytest.mark.parametrize(("policy", "burst"), [("sliding", None), ("token-bucket", None), ("quantised", None)])
def test_where_words_are_of_no_use_push_back_teaches_the_same(policy: str, burst: float | None) -> None:
    """At most one in a hundred is sent in vain, from the moment on at which somebody else begins."""
    provider = _Provider(policy, 6000, burst, stolen=0.5)
    run_against(provider, 120.0, rpm=6000)

    assert provider.rejected <= 0.01 * len(provider.accepted)
    assert provider.used(60, 115) >= 0.85


@pytest.mark.parametrize(("policy", "burst"), [("fixed", None), ("token-bucket", 1200)])
def test_a_limit_that_nobody_set_is_learned_from_the_words(policy: str, burst: float | None) -> None:
    """1,200 a minute: all of them and none in vain, after what a counter's first window or a full bucket give."""
    provider = _Provider(policy, 1200, burst)
    scheduler = run_against(provider, 200.0)

    assert provider.rejected == 0
    assert provider.used(62, 140) >= 0.97
    assert "requests" in scheduler.endpoints[0].told


def test_tokens_are_followed_by_their_kind() -> None:
    """Nobody set a limit on output tokens; once the words say that they run out, they are estimated and paced."""
    scheduler = make_scheduler([{"adaptive": True}], requests=50)
    endpoint, word = scheduler.endpoints[0], QuotaWord("output_tokens", 10_000, 5_000, 50.0)
    request, _ = scheduler.next(START_S) or pytest.fail("nothing went")

    scheduler.heard(request, endpoint, [word], START_S + 0.1)
    for n in range(1, 30):
        sent, _ = scheduler.next(START_S + n) or pytest.fail("nothing went")
        scheduler.release(sent, endpoint, tokens_of(10, 100), START_S + n + 0.5)
        fallen = QuotaWord("output_tokens", 10_000, 5_000 - 100 * n, 50.0 - n)
        scheduler.heard(sent, endpoint, [fallen], START_S + n + 0.5)

    assert scheduler.counts_tokens
    assert endpoint.told["output_tokens"].pace_per_s == pytest.approx((2100 - 100) / 20.5, rel=0.1)


@pytest.mark.parametrize(
    "word",
    [
        QuotaWord("requests", 100, 90, 50.0),
        QuotaWord("requests", 100, None, 50.0),
        QuotaWord("requests"),
    ],
    ids=["plenty", "no remainder", "nothing"],
)
def test_words_that_ask_for_nothing_are_not_followed(word: QuotaWord) -> None:
    """They cost nothing at admission then."""
    scheduler = make_scheduler([{"adaptive": True}], requests=1)
    request, endpoint = scheduler.next(START_S) or pytest.fail("nothing went")
    scheduler.heard(request, endpoint, [word], START_S + 0.1)

    assert endpoint.told == {}


@pytest.mark.parametrize("reset_s", [None, 1.0, 3600.0])
def test_a_quota_of_a_second_or_of_a_day_is_not_spread(reset_s: float | None) -> None:
    """Neither is one whose end is not told."""
    told = ToldRate("told", None)
    for n in range(100):
        now = START_S + n / 10
        told.take(1.0, now)
        told.heard(QuotaWord("requests", 1000, 500 - n, reset_s), now, now + 0.05)

    assert told.pace_per_s == math.inf
    assert told.ready_at(1.0, START_S + 10) <= START_S + 10


@pytest.mark.parametrize("told_at", ["admission", "reply"])
def test_replies_that_overtake_each_other_show_when_their_words_were_written(told_at: str) -> None:
    """Ten a second of a counter's ten, answers of some seconds: nobody else is seen in the delay, nothing is held."""
    told, random, flights = ToldRate("told", 10.0), Random(3), list[tuple[float, float]]()
    for n in range(550):
        flights.append((START_S + n / 10 + random.lognormvariate(1.0, 1.0), START_S + n / 10))
    sends, slowest = iter([sent_s for _, sent_s in flights]), math.inf
    next_s = next(sends)
    for reply_s, sent_s in sorted(flights):
        if reply_s > START_S + WINDOW_S:
            break
        while next_s < reply_s:
            told.take(1.0, next_s)
            next_s = next(sends, math.inf)
        moment_s = (sent_s if told_at == "admission" else min(reply_s, START_S + 54.9)) - START_S
        word = QuotaWord("requests", 600, 599 - math.floor(10 * moment_s + 1e-6), START_S + WINDOW_S - reply_s)
        if told_at == "admission":
            word = QuotaWord("requests", 600, word.remaining, WINDOW_S - moment_s)
        told.heard(word, sent_s, reply_s)
        slowest = min(slowest, told.pace_per_s)

    assert slowest == math.inf
