"""EvenRate: no interval is shorter than the rate's, however late wake-ups and connections are, and the rate is used."""

import heapq
import math
from collections.abc import Iterator
from itertools import cycle, pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmblast.endpoint_settings import RateSettings
from llmblast.models import NO_TOKENS
from llmblast.scheduling import EvenRate, LimitSet, RequestRate, Scheduler, limit_set
from llmblast.scheduling.even_rate import MAX_EVEN_PER_S
from tests.scheduling.scheduling_samples import admit_all, make_scheduler, most_within

RATES = (0.5, 1, 2, 7.3, 20, 50, 199, 200, 300)
ANY_RATE = st.floats(math.log(0.5), math.log(MAX_EVEN_PER_S)).map(math.exp)
LATENESS = st.lists(st.one_of(st.just(0.0), st.floats(0, 0.001), st.floats(0, 0.05), st.floats(0, 3)), min_size=1)
START_S = 1000.0


def departures_at(per_second: float, lateness: Iterator[float], until_s: float) -> list[float]:
    """Moments at which requests leave one rate, when each wake-up is so late."""
    rate, now, left = EvenRate("rps", per_second), START_S, list[float]()
    while now < START_S + until_s:
        rate.acquire(1.0, now)
        while rate.leaves_at > now:
            now = rate.leaves_at + next(lateness)
        rate.record_departure(now)
        left.append(now)
        ready_s = rate.ready_at(1.0, now)
        if ready_s > now:
            now = ready_s + next(lateness)
    return left


def shortest_interval(moments: list[float]) -> float:
    return min((later - earlier for earlier, later in pairwise(moments)), default=math.inf)


@settings(deadline=None, max_examples=300)
@given(ANY_RATE, LATENESS)
def test_no_interval_is_shorter_than_the_rates_however_late_wake_ups_are(
    per_second: float, lateness: list[float]
) -> None:
    """Microseconds, milliseconds and stalls of seconds, in any order."""
    sends = departures_at(per_second, cycle(lateness), until_s=max(1.0, 80 / per_second))

    assert shortest_interval(sends) >= 1 / per_second


@settings(deadline=None, max_examples=150)
@given(ANY_RATE, LATENESS)
def test_no_moving_second_holds_more_than_the_rate_allows(per_second: float, lateness: list[float]) -> None:
    """Both ends of the second belong to it. Below one a second, the window is the time of one request."""
    sends = departures_at(per_second, cycle(lateness), until_s=max(3.0, 10 / per_second))
    window_s = max(1.0, 1 / per_second)

    assert most_within(sends, window_s) <= math.ceil(per_second * window_s)


@pytest.mark.parametrize("per_second", RATES)
def test_at_least_99_percent_are_used_when_wake_ups_are_precise(per_second: float) -> None:
    """Late by 30 microseconds on average, and one in a hundred by half a millisecond."""
    random = Random(5)
    lateness = iter(lambda: 0.0005 if random.random() < 0.01 else random.uniform(0, 0.00005), None)
    sends = departures_at(per_second, lateness, until_s=max(10.0, 100 / per_second))

    assert (len(sends) - 1) / (sends[-1] - sends[0]) >= 0.99 * per_second


def test_a_stall_of_milliseconds_is_made_up_for_in_small_parts() -> None:
    """3 ms late at 20 a second: a hundred requests later the schedule is where it would have been."""
    on_time = departures_at(20, cycle([0.0]), until_s=6.0)
    late = departures_at(20, iter([0.0] * 10 + [0.003] + [0.0] * 200), until_s=6.0)

    assert late[11] - on_time[11] == pytest.approx(0.003)
    assert late[-1] == pytest.approx(on_time[-1])
    assert shortest_interval(late) >= 1.004 / 20


def test_a_long_stall_moves_the_schedule() -> None:
    """Nothing is made up for after a second."""
    on_time = departures_at(20, cycle([0.0]), until_s=6.0)
    late = departures_at(20, iter([0.0] * 10 + [1.0] + [0.0] * 200), until_s=7.0)

    assert late[100] - on_time[100] == pytest.approx(1.0, abs=0.005)


@pytest.mark.parametrize(
    ("rate", "burst_s", "is_even"),
    [
        (RateSettings(rps=20), 0.0, True),
        (RateSettings(rps=20), 0.04, True),
        (RateSettings(rps=20), 0.05, False),
        (RateSettings(rpm=300), 0.0, True),
        (RateSettings(rps=MAX_EVEN_PER_S + 1), 0.0, False),
    ],
)
def test_a_rate_is_even_unless_it_is_high_or_may_burst(rate: RateSettings, burst_s: float, is_even: bool) -> None:
    """A burst of less than one request is none."""
    (limit,) = limit_set("run", rate, burst_s).all()

    assert type(limit) is (EvenRate if is_even else RequestRate)


def test_a_request_that_leaves_late_holds_back_the_next_departure_and_not_its_admission() -> None:
    """Its connection takes 80 ms. The next one is admitted in time and leaves a tenth of a second after it."""
    limits = LimitSet(per_request=[EvenRate("rps", 10)])
    limits.acquire(NO_TOKENS, START_S)
    was_ready = limits.is_ready(NO_TOKENS, START_S + 0.1)
    limits.record_departure(START_S + 0.08, is_fresh=True)

    assert not was_ready
    assert limits.is_ready(NO_TOKENS, START_S + 0.101)
    assert START_S + 0.18 <= limits.leaves_at < START_S + 0.181


def test_a_late_departure_on_a_kept_connection_holds_the_next_admission_back() -> None:
    """Else it would be admitted, and no pause could hold it back any more, while it waits for its departure."""
    rate = EvenRate("rps", 10)
    rate.acquire(1.0, START_S)
    rate.record_departure(START_S + 0.003)

    assert rate.ready_at(1.0, START_S) == rate.leaves_at >= START_S + 0.103


@pytest.mark.parametrize("level", ["run", "endpoint"])
def test_the_schedule_moves_after_the_first_request_to_each_endpoint(level: str) -> None:
    """A server that has just started takes its first request some 8 ms later than the next ones."""
    scheduler = make_scheduler([{}], 9, rps=10) if level == "run" else make_scheduler([{"rps": 10}], 9)
    sends = [START_S]
    admit_all(scheduler, START_S)
    for _ in range(3):
        sends.append(scheduler.wake_at)
        assert len(admit_all(scheduler, scheduler.wake_at)) == 1
    first, *others = (later - earlier for earlier, later in pairwise(sends))

    assert others == pytest.approx([others[0]] * 2)
    assert first - others[0] >= 0.016


def departures(scheduler: Scheduler, connect_s: list[float]) -> list[float]:
    """Moments at which all that is queued leaves. The n-th request waits so long for a connection; 0: it has one."""
    now, number, left = START_S, 0, list[float]()
    waiting: list[tuple[float, int, bool]] = []
    (endpoint,) = scheduler.endpoints
    while scheduler.queue or waiting:
        for _ in admit_all(scheduler, now):
            wait_s = connect_s[number % len(connect_s)]
            heapq.heappush(waiting, (now + wait_s, number, wait_s > 0))
            number += 1
        wakes = [scheduler.wake_at]
        if waiting:
            leaves_at = max(waiting[0][0], scheduler.leaves_at(endpoint))
            if leaves_at <= now:
                _, _, is_fresh = heapq.heappop(waiting)
                scheduler.leave(endpoint, now, is_fresh=is_fresh)
                left.append(now)
                continue
            wakes.append(leaves_at)
        now = min(wakes)
    return left


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from([2.0, 20.0, 200.0]),
    st.sampled_from(["run", "endpoint", "both"]),
    st.lists(st.one_of(st.just(0.0), st.floats(0.0001, 0.01), st.floats(0, 0.2)), min_size=1, max_size=30),
)
def test_departures_keep_apart_however_long_connections_take(
    per_second: float, level: str, connect_s: list[float]
) -> None:
    """Those that open one meet those that have one."""
    endpoint = {} if level == "run" else {"rps": per_second}
    run = {} if level == "endpoint" else {"rps": per_second}
    scheduler = make_scheduler([endpoint], 60, **run)  # type: ignore[list-item, arg-type]  # rps only

    moments = departures(scheduler, connect_s)

    assert len(moments) == 60
    assert shortest_interval(moments) >= 1 / per_second


def test_opening_a_connection_for_each_request_costs_no_rate() -> None:
    """A thousand at 200 a second, each 30 ms later than it was admitted: all leave 30 ms later, and no slower."""
    on_time = departures(make_scheduler([{"rps": 200}], 1000), [0.0])
    late = departures(make_scheduler([{"rps": 200}], 1000), [0.03])

    assert late[-1] - on_time[-1] == pytest.approx(0.03, abs=0.002)
