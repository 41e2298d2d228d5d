"""Advertised rates: rate-limit headers are followed where they make sense, and do no harm where they do not."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmblast.mocking.limits import POLICIES
from llmblast.mocking.rates import Others
from llmblast.mocking.rates import Rate as ServerRate
from llmblast.models import NO_TOKENS, Attempt, RateLimitInfo, Tokens
from llmblast.scheduling import Endpoint, Kind, Scheduler, SendOutcome
from llmblast.scheduling.advertised_rate import AdvertisedRate
from tests.scheduling.scheduling_samples import Driver, EndpointOptions, make_attempt, make_scheduler, tokens_of

pytestmark = pytest.mark.no_cover  # long in itself, and coverage would make it four times as long

START_S = 1000.3
LATENCY_S = 0.05
WINDOW_S = 60.0
STOLEN_AFTER_S = 40.0


@dataclass(slots=True)
class _Provider:
    """One quota a minute, advertised in every reply; others may take half of it from the fortieth second on."""

    policy: str
    per_minute: float
    burst: float | None = None
    stolen: float = 0.0
    resolution_s: float = 0.001
    accepted: list[float] = field(default_factory=list)
    rejected: int = 0

    def judge_with(
        self, scheduler: Scheduler, now: Callable[[], float]
    ) -> Callable[[Attempt, Endpoint], tuple[Tokens, float | None]]:
        others = Others(self.stolen, START_S + STOLEN_AFTER_S if self.stolen else math.inf)
        limit = POLICIES[self.policy](ServerRate(self.per_minute, WINDOW_S, self.burst), others)

        def advertise() -> RateLimitInfo:
            remaining, reset_s = max(0, math.floor(limit.remaining(now()))), limit.reset_s(now())
            rounded_s = math.ceil((now() + reset_s) / self.resolution_s) * self.resolution_s - now()
            return RateLimitInfo("requests", self.per_minute, remaining, rounded_s, self.resolution_s)

        def judge(attempt: Attempt, endpoint: Endpoint) -> tuple[Tokens, float | None]:
            arrived_s = now() - LATENCY_S / 2
            wait_s = limit.admit(1.0, arrived_s)
            scheduler.on_rate_limit_headers(attempt, endpoint, [advertise()], now())
            if not wait_s:
                self.accepted.append(arrived_s)
                return NO_TOKENS, None
            self.rejected += 1
            scheduler.on_outcome(attempt, endpoint, SendOutcome(Kind.RATE_LIMITED, wait_s=wait_s), now())
            return NO_TOKENS, 0.0

        return judge

    def used(self, since_s: float, until_s: float) -> float:
        """Return the share of what the others left that was used between two moments since the start."""
        count = sum(since_s <= moment - START_S < until_s for moment in self.accepted)
        return count / (until_s - since_s) / (self.per_minute / WINDOW_S) / (1 - self.stolen)


def run_against(provider: _Provider, seconds: float, **options: float) -> Scheduler:
    """Send as many requests as may go in that time."""
    named: EndpointOptions = {"adaptive": True, "concurrency": 64, **options}  # type: ignore[typeddict-item]  # rates
    scheduler, random = make_scheduler([named]), Random(1)
    for number in range(1, round(provider.per_minute / WINDOW_S * seconds) + 200):
        scheduler.queue.add(make_attempt(number))
    judge = provider.judge_with(scheduler, lambda: driver.now)
    driver = Driver(scheduler, lambda endpoint: LATENCY_S, judge, lambda: random.uniform(0, 0.001), START_S)
    driver.run(until_s=seconds)
    return scheduler


@pytest.mark.parametrize("resolution_s", [0.001, 1.0])
@pytest.mark.parametrize(
    ("policy", "burst"),
    [("fixed", None), ("sliding", None), ("token-bucket", None), ("token-bucket", 1200), ("quantised", None)],
)
def test_headers_hold_nothing_back_while_the_quota_has_one_user(
    policy: str, burst: float | None, resolution_s: float
) -> None:
    """Whatever a provider means by remaining and reset, a configured rate is used in full."""
    provider = _Provider(policy, 1200, burst, resolution_s=resolution_s)
    run_against(provider, 140.0, rpm=1200)

    assert provider.used(5, 135) >= 0.99
    assert provider.rejected == 0


@pytest.mark.parametrize("resolution_s", [0.001, 1.0])
def test_what_others_take_of_a_counter_is_left_to_them(resolution_s: float) -> None:
    """Half of it is theirs from the fortieth second on: the other half is used, and hardly anything is rejected."""
    provider = _Provider("fixed", 1200, stolen=0.5, resolution_s=resolution_s)
    run_against(provider, 250.0, rpm=1200)

    assert provider.rejected <= 0.001 * len(provider.accepted)
    assert provider.used(60, 240) >= 0.95


@pytest.mark.parametrize(("policy", "burst"), [("sliding", None), ("token-bucket", None), ("quantised", None)])
def test_where_headers_are_of_no_use_push_back_teaches_the_same(policy: str, burst: float | None) -> None:
    """At most three in two hundred are rejected when others begin to use half."""
    provider = _Provider(policy, 6000, burst, stolen=0.5)
    run_against(provider, 120.0, rpm=6000)

    assert provider.rejected <= 0.015 * len(provider.accepted)
    assert provider.used(60, 115) >= 0.85


@pytest.mark.parametrize(("policy", "burst"), [("fixed", None), ("token-bucket", 1200)])
def test_a_limit_that_is_not_configured_is_learned_from_the_headers(policy: str, burst: float | None) -> None:
    """1,200 a minute are used and none is rejected, after what a counter's first window or a full bucket give."""
    provider = _Provider(policy, 1200, burst)
    scheduler = run_against(provider, 200.0)

    assert provider.rejected == 0
    assert provider.used(62, 140) >= 0.97
    assert "requests" in scheduler.endpoints[0].learned.advertised


def test_tokens_are_followed_by_their_kind() -> None:
    """No limit on output tokens is configured; once the headers say that they run out, they are estimated and paced."""
    scheduler = make_scheduler([{"adaptive": True}], requests=50)
    endpoint, info = scheduler.endpoints[0], RateLimitInfo("output_tokens", 10_000, 5_000, 50.0)
    attempt, _ = scheduler.next(START_S) or pytest.fail("nothing went")

    scheduler.on_rate_limit_headers(attempt, endpoint, [info], START_S + 0.1)
    for n in range(1, 30):
        sent, _ = scheduler.next(START_S + n) or pytest.fail("nothing went")
        scheduler.release(sent, endpoint, tokens_of(10, 90), START_S + n + 0.5)
        fallen = RateLimitInfo("output_tokens", 10_000, 5_000 - 90 * n, 50.0 - n)
        scheduler.on_rate_limit_headers(sent, endpoint, [fallen], START_S + n + 0.5)

    assert scheduler.counts_tokens
    advertised = endpoint.learned.advertised["output_tokens"]
    assert advertised.pace_per_s == pytest.approx((5_000 - 90 * 29 - 100) / 21, rel=0.01)


@pytest.mark.parametrize(
    "info",
    [
        RateLimitInfo("requests", 100, 90, 50.0),
        RateLimitInfo("requests", 100, None, 50.0),
        RateLimitInfo("requests"),
    ],
    ids=["plenty", "no remainder", "nothing"],
)
def test_headers_that_ask_for_nothing_are_not_followed(info: RateLimitInfo) -> None:
    """They cost nothing at admission."""
    scheduler = make_scheduler([{"adaptive": True}], requests=1)
    attempt, endpoint = scheduler.next(START_S) or pytest.fail("nothing went")
    scheduler.on_rate_limit_headers(attempt, endpoint, [info], START_S + 0.1)

    assert endpoint.learned.advertised == {}


@pytest.mark.parametrize("reset_s", [None, 1.0, 3600.0])
def test_a_quota_of_a_second_or_of_a_day_is_not_spread(reset_s: float | None) -> None:
    """Neither is one whose end is not advertised."""
    rate = AdvertisedRate("advertised")
    for n in range(100):
        now = START_S + n / 10
        rate.acquire(1.0, now)
        rate.on_rate_limit_headers(RateLimitInfo("requests", 1000, 500 - n, reset_s), now, now + 0.05)

    assert rate.pace_per_s == math.inf
    assert rate.ready_at(1.0, START_S + 10) <= START_S + 10


@pytest.mark.parametrize("written_at", ["admission", "reply"])
def test_replies_that_overtake_each_other_hold_nothing_back(written_at: str) -> None:
    """Ten a second of a counter's ten, with answers of some seconds: no use by others is seen in the delay, whether
    the server writes the headers when a request arrives or when its reply leaves.
    """
    rate, random, flights = AdvertisedRate("advertised", 10.0), Random(3), list[tuple[float, float]]()
    for n in range(550):
        flights.append((START_S + n / 10 + random.lognormvariate(1.0, 1.0), START_S + n / 10))
    sends, slowest = iter([sent_s for _, sent_s in flights]), math.inf
    next_s = next(sends)
    for reply_s, sent_s in sorted(flights):
        if reply_s > START_S + WINDOW_S:
            break
        while next_s < reply_s:
            rate.acquire(1.0, next_s)
            next_s = next(sends, math.inf)
        moment_s = (sent_s if written_at == "admission" else min(reply_s, START_S + 54.9)) - START_S
        remaining, reset_s = 599 - math.floor(10 * moment_s + 1e-6), START_S + WINDOW_S - reply_s
        if written_at == "admission":
            reset_s = WINDOW_S - moment_s
        rate.on_rate_limit_headers(RateLimitInfo("requests", 600, remaining, reset_s), sent_s, reply_s)
        slowest = min(slowest, rate.pace_per_s)

    assert slowest == math.inf


def use_counter(rate: AdvertisedRate, remaining: int, seconds: float, *, is_counted: bool = True) -> float:
    """Send up to a hundred a second of a counter of 1,200 with so many left; return the moment after."""
    for n in range(round(100 * seconds)):
        now = START_S + n / 100
        if rate.ready_at(1.0, now) <= now:
            rate.acquire(1.0, now)
            remaining -= is_counted
        rate.on_rate_limit_headers(RateLimitInfo("requests", 1200, remaining, WINDOW_S - n / 100), now, now + LATENCY_S)
    return START_S + seconds


def test_a_counter_is_spread_evenly_over_the_time_to_its_reset() -> None:
    """388 requests for a minute, and 12 that are kept in reserve."""
    rate = AdvertisedRate("advertised")
    use_counter(rate, 400, 20.0)

    assert rate.pace_per_s == pytest.approx(388 / WINDOW_S, rel=0.02)


def test_headers_that_always_say_zero_remaining_are_not_followed() -> None:
    """A quota that is used up is known by its 429."""
    rate = AdvertisedRate("advertised")
    use_counter(rate, 0, 20.0, is_counted=False)

    assert rate.pace_per_s == math.inf


def test_a_pace_does_not_outlive_its_window() -> None:
    """Where later replies have no such headers, a full quota is spread over its window."""
    rate = AdvertisedRate("advertised")
    now = use_counter(rate, 40, 20.0)
    assert rate.pace_per_s < 1.0
    rate.acquire(1.0, now + WINDOW_S)

    assert rate.pace_per_s == pytest.approx(1200 / WINDOW_S)


def test_a_wait_shrinks_when_a_new_window_begins() -> None:
    """What would have waited for seconds at the end of a window goes at the new one's pace."""
    rate = AdvertisedRate("advertised")
    now = use_counter(rate, 40, 20.0)
    rate.acquire(1.0, now)
    assert rate.ready_at(1.0, now) > now + 1.0
    rate.on_rate_limit_headers(RateLimitInfo("requests", 1200, 1199, WINDOW_S), now + 0.1, now + 0.2)

    assert rate.ready_at(1.0, now + 0.2) < now + 0.5


def test_headers_of_two_servers_with_windows_of_their_own_do_not_slow_a_configured_rate() -> None:
    """A load balancer mixes two counters, half a window apart."""
    rate, random, slowest = AdvertisedRate("advertised", 20.0), Random(5), list[float]()
    for n in range(2400):
        now = START_S + n / 20
        rate.acquire(1.0, now)
        phase_s = (n / 20 + random.choice((0.0, WINDOW_S / 2))) % WINDOW_S
        info = RateLimitInfo("requests", 1200, 1200 - math.floor(10 * phase_s), WINDOW_S - phase_s)
        rate.on_rate_limit_headers(info, now, now + LATENCY_S)
        slowest.append(rate.pace_per_s)

    assert sum(pace < 19.0 for pace in slowest) <= 0.05 * len(slowest)


def test_two_clients_share_a_bucket_equally() -> None:
    """1,200 a minute for two that may send as many each: none is rejected, all is used, in halves."""
    limit = POLICIES["token-bucket"](ServerRate(1200, WINDOW_S, 1200), Others())
    rates, sent, rejected = (AdvertisedRate("one", 20.0), AdvertisedRate("two", 20.0)), [0, 0], 0
    ready_s = [START_S, START_S + 0.02]
    for tick in range(30_000):
        now = START_S + tick / 100
        for n, rate in enumerate(rates):
            if now < max(ready_s[n], rate.ready_at(1.0, now)):
                continue
            rate.acquire(1.0, now)
            ready_s[n] = now + 1 / 20
            rejected += bool(limit.admit(1.0, now))
            sent[n] += now > START_S + 100
            info = RateLimitInfo("requests", 1200, math.floor(limit.remaining(now)), limit.reset_s(now))
            rate.on_rate_limit_headers(info, now, now)

    assert rejected == 0
    assert sent == pytest.approx([2000, 2000], rel=0.05)


ODD = st.none() | st.floats() | st.sampled_from([0.0, -1.0, 5e-324, 1.0, 60.0, 1e308, math.inf])
GAPS = st.sampled_from([0.0, 0.001, 0.05, 1.0, 10.0]) | st.floats(-10, 100)
COSTS = st.sampled_from([0.0, 1.0, 1000.0]) | st.floats(0, 1e12)
STEPS = st.tuples(GAPS, COSTS, st.sampled_from(["counter", "bucket", "odd"]), st.floats(0, 1), st.tuples(ODD, ODD, ODD))


@settings(deadline=None, max_examples=300)
@given(
    st.lists(STEPS, max_size=40),
    st.sampled_from([5e-324, 1e-9, 1.0, 1200.0, 1e308]),
    st.sampled_from([math.inf, 20.0, 1e-9]),
    st.sampled_from([0.0, 0.001, 1.0]),
)
@example(  # costs of zero, then a bucket with nothing to spare
    [(0.05, 0.0, "bucket", 0.5, (None, None, None))] * 300 + [(1.0, 0.0, "bucket", 0.999, (None, None, None))],
    1.0,
    math.inf,
    0.001,
)
@example([(0.05, 1e12, "counter", n / 8, (None, None, None)) for n in range(8)], 1e308, math.inf, 0.001)
@example([(0.05, 1.0, "bucket", n / 8, (None, None, None)) for n in range(8)] * 2, 1200.0, math.inf, 0.001)
def test_whatever_the_headers_say_a_pace_remains(
    steps: list[tuple[float, float, str, float, tuple[float | None, float | None, float | None]]],
    limit: float,
    set_per_s: float,
    resolution_s: float,
) -> None:
    """No exception, no pace of zero, no wait without an end, in any mix of counters, buckets and odd numbers."""
    rate, now = AdvertisedRate("advertised", set_per_s), START_S
    for gap_s, cost, kind, used, odd in steps:
        now += gap_s
        rate.acquire(cost, now)
        reset_s = 500 * used if kind == "bucket" else START_S + 500.0 - now
        numbers = odd if kind == "odd" else (limit, limit - limit * used, reset_s)
        rate.on_rate_limit_headers(RateLimitInfo("requests", *numbers, resolution_s), now, now + 0.001)
        rate.settle(cost, cost / 2, now)

        assert rate.pace_per_s > 0
        assert rate.ready_at(1.0, now) < math.inf
