"""Counted requests: servers that count requests get those that are late at once, all others at the rate's interval."""

import math
from collections.abc import Iterator, Sequence
from itertools import cycle
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmblast.models import RateLimitInfo
from llmblast.scheduling import EvenRate, Kind, Scheduler, SendOutcome
from llmblast.scheduling.counted_requests import MAX_SPARE_S, SPARE_GROWTH, SPARE_S
from llmblast.scheduling.even_rate import MAX_EVEN_PER_S
from tests.scheduling.scheduling_samples import make_attempt, make_scheduler, most_within

ANY_RATE = st.floats(math.log(0.5), math.log(MAX_EVEN_PER_S)).map(math.exp)
LATENESS = st.lists(st.one_of(st.just(0.0), st.floats(0, 0.001), st.floats(0, 0.05), st.floats(0, 3)), min_size=1)
RPS = 10
START_S = 1000.0
LATE_S = 0.0015


def departures_at(per_second: float, lateness: Iterator[float], until_s: float) -> list[float]:
    """Moments at which requests leave for a server that counts them, when each wake-up is so late."""
    rate, now, left = EvenRate("rps", per_second), START_S, list[float]()
    rate.spare_time(SPARE_S)
    while now < START_S + until_s:
        rate.acquire(1.0, now)
        rate.record_departure(now)
        left.append(now)
        ready_s = rate.ready_at(1.0, now)
        if ready_s > now:
            now = ready_s + next(lateness)
    return left


@settings(deadline=None, max_examples=150)
@given(ANY_RATE, LATENESS)
def test_no_moving_second_holds_more_than_the_rate_allows(per_second: float, lateness: list[float]) -> None:
    """Nor does one that a server sees as shorter by the spare time. Below one a second, the window is the time of one
    request.
    """
    sends = departures_at(per_second, cycle(lateness), until_s=max(3.0, 10 / per_second))
    window_s = max(1.0, 1 / per_second)

    assert most_within(sends, window_s + SPARE_S - 0.0001) <= math.ceil(per_second * window_s)


@settings(deadline=None, max_examples=150)
@given(ANY_RATE, st.lists(st.floats(0, 0.3), min_size=1, max_size=20))
def test_no_moving_second_holds_more_although_connections_have_to_be_opened(
    per_second: float, opening_s: list[float]
) -> None:
    """Requests are admitted in time, and each leaves once its connection is open."""
    rate, now, sends = EvenRate("rps", per_second), START_S, [-math.inf]
    rate.spare_time(SPARE_S)
    for delay_s, _ in zip(cycle(opening_s), range(max(10, int(3 * per_second))), strict=False):
        now = max(now, rate.ready_at(1.0, now))
        rate.acquire(1.0, now)
        sends.append(max(now + delay_s, rate.leaves_at, sends[-1]))
        rate.record_departure(sends[-1], is_fresh=True)
    window_s = max(1.0, 1 / per_second)

    assert most_within(sends[1:], window_s + SPARE_S - 0.0001) <= math.ceil(per_second * window_s)


@pytest.mark.parametrize("per_second", [2, 20, 50, 200, 300])
def test_at_least_99_percent_are_used_although_wake_ups_are_late(per_second: float) -> None:
    """By half a millisecond on average."""
    random = Random(5)
    lateness = iter(lambda: random.uniform(0, 0.001), None)
    sends = departures_at(per_second, lateness, until_s=max(10.0, 100 / per_second))

    assert (len(sends) - 1) / (sends[-1] - sends[0]) >= 0.99 * per_second


def told(limit: float, remaining: float, kind: str = "requests") -> list[RateLimitInfo]:
    return [RateLimitInfo(kind, limit, remaining)]


def send(scheduler: Scheduler, now: float) -> float:
    """Lets one request leave. Returns when the next one may."""
    attempt_and_endpoint = scheduler.next(now)
    assert attempt_and_endpoint is not None
    scheduler.leave(attempt_and_endpoint[1], now)
    assert scheduler.next(now) is None
    return scheduler.wake_at


def keeps_interval(scheduler: Scheduler) -> bool:
    """Whether a request waits for the rate's interval although the one before it left late."""
    now = START_S + 10
    late_s = send(scheduler, now) + LATE_S
    return send(scheduler, late_s) - late_s >= 1 / RPS


def run_of(level: str, endpoints: int = 1) -> Scheduler:
    """A run whose rate, or whose endpoints', is even, and in which nothing has been learned yet."""
    limits = make_scheduler([{}] * endpoints, 99, rps=RPS)
    return limits if level == "run" else make_scheduler([{"rps": RPS}] * endpoints, 99)


def tell(scheduler: Scheduler, infos: Sequence[RateLimitInfo], index: int = 0, sent_s: float = START_S) -> None:
    scheduler.on_rate_limit_headers(make_attempt(sent_s=sent_s), scheduler.endpoints[index], infos, sent_s)


def reject(scheduler: Scheduler, kind: Kind = Kind.RATE_LIMITED, sent_s: float = START_S) -> None:
    scheduler.on_outcome(make_attempt(sent_s=sent_s), scheduler.endpoints[0], SendOutcome(kind), sent_s)


@pytest.mark.parametrize("level", ["run", "endpoint"])
@pytest.mark.parametrize(
    ("infos", "is_counted"),
    [
        ([], False),
        (told(10, 9), True),
        (told(600, 598), True),
        (told(10, 2), True),
        (told(10, 1), False),  # as a bucket that holds one
        (told(10, 0), False),
        (told(9, 8), False),  # it counts less than a second of the rate
        (told(100_000, 99_000, "tokens"), False),
        ([RateLimitInfo("requests", None, 9)], False),
        ([RateLimitInfo("requests", 10, None)], False),
        (told(1000, 998) + told(9, 8), False),
    ],
)
def test_a_server_that_says_that_several_more_may_come_counts_requests(
    level: str, infos: list[RateLimitInfo], is_counted: bool
) -> None:
    scheduler = run_of(level)
    tell(scheduler, infos)

    assert keeps_interval(scheduler) is not is_counted


@pytest.mark.parametrize("level", ["run", "endpoint"])
@pytest.mark.parametrize("infos", [[], told(10, 1), told(10, 9)])
def test_the_interval_is_kept_again_after_a_rejection_that_the_count_does_not_explain(
    level: str, infos: list[RateLimitInfo]
) -> None:
    """Whatever later replies say."""
    scheduler = run_of(level)
    tell(scheduler, told(10, 9))
    tell(scheduler, infos, sent_s=START_S + 1)
    reject(scheduler, sent_s=START_S + 1)
    tell(scheduler, told(10, 9), sent_s=START_S + 2)

    assert keeps_interval(scheduler)


def reject_with_none_left(scheduler: Scheduler, sent_s: float) -> None:
    tell(scheduler, told(10, 0), sent_s=sent_s)
    reject(scheduler, sent_s=sent_s)


def spare_time_of(scheduler: Scheduler, now: float = START_S) -> float:
    """By how much longer than a second as many requests take as the rate allows in it; below 0: no second is counted,
    but the interval is kept.
    """
    [rate] = (*scheduler.run_limits.even, *scheduler.endpoints[0].limits.even)
    for _ in range(RPS):
        rate.record_departure(now)
    return rate.leaves_at - (now + 1.0)


@pytest.mark.parametrize("level", ["run", "endpoint"])
def test_a_rejection_with_none_left_makes_the_spare_time_longer(level: str) -> None:
    """Once a second: those behind it were sent before it was known. After the fourth one the interval is kept."""
    scheduler = run_of(level)
    tell(scheduler, told(10, 9))
    spare_times = [spare_time_of(scheduler)]
    for second in range(4):
        for part in (0.0, 0.1, 0.9):
            reject_with_none_left(scheduler, START_S + 2 * second + part)
        spare_times.append(spare_time_of(scheduler, START_S + 2 * second + 2))

    assert spare_times[:4] == pytest.approx([SPARE_S * SPARE_GROWTH**times for times in range(4)])
    assert spare_times[3] < MAX_SPARE_S
    assert spare_times[4] < 0


def test_a_quota_that_was_used_up_at_the_start_says_nothing() -> None:
    scheduler = run_of("endpoint")
    reject_with_none_left(scheduler, START_S)
    tell(scheduler, told(10, 9), sent_s=START_S + 1)

    assert spare_time_of(scheduler, START_S + 2) == pytest.approx(SPARE_S)


def test_an_error_is_no_rejection() -> None:
    scheduler = run_of("endpoint")
    tell(scheduler, told(10, 9))
    reject(scheduler, Kind.FAILED)

    assert not keeps_interval(scheduler)


@pytest.mark.parametrize(("others", "is_counted"), [([], False), (told(9, 8), False), (told(20, 19), True)])
def test_the_run_keeps_its_interval_unless_all_endpoints_count(others: list[RateLimitInfo], is_counted: bool) -> None:
    """Any of them may get all requests of the run."""
    scheduler = run_of("run", endpoints=2)
    tell(scheduler, told(10, 9))
    tell(scheduler, others, 1)

    assert keeps_interval(scheduler) is not is_counted
