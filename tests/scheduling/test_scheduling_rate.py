"""Rate: used to the full, never exceeded in any window, and credit is neither lost nor made."""

import heapq
import math
from collections.abc import Iterator
from itertools import count, pairwise, repeat
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmblast.scheduling import Rate
from llmblast.scheduling.limits import CATCH_UP_S, PACING_MARGIN
from tests.scheduling.scheduling_samples import most_within, sends_of

RATES = (0.1, 0.5, 1, 2, 7.3, 50, 199, 200, 399, 401, 1000, 20_000)
ANY_RATE = st.floats(math.log(0.1), math.log(20_000)).map(math.exp)
ANY_BURST = st.sampled_from([0.0, 0.01, 0.1, 1.0, 5.0])
GAPS = st.one_of(st.just(0.0), st.floats(0, 0.01), st.floats(0, 5))
LATENESS = st.floats(0, 0.001)
ROUNDING_S = 1e-6


def random_lateness(seed: int) -> Iterator[float]:
    random = Random(seed)
    return (random.uniform(0, 0.001) for _ in count())


def capacity(per_second: float, seconds: float) -> float:
    """Units that the paced rate passes in that time."""
    return per_second * (1 - PACING_MARGIN) * seconds


@pytest.mark.parametrize("per_second", RATES)
def test_no_window_of_a_second_or_more_holds_more_than_the_rate_allows(per_second: float) -> None:
    """Every send is up to 1 ms late, and lateness is made up for."""
    sends = sends_of(Rate("rps", per_second), random_lateness(1), until_s=max(2.5, 30 / per_second))

    for window_s in (1.0, 1.3, 2.0, 10 / per_second + 1):
        assert most_within(sends, window_s) <= math.ceil(per_second * window_s - 1e-9)


@pytest.mark.parametrize("per_second", RATES)
@pytest.mark.parametrize("burst_s", [0.0, 0.004, 0.03, 1.0])
def test_at_least_99_percent_of_the_rate_are_used(per_second: float, burst_s: float) -> None:
    """Whoever asks again within 1 ms loses nothing to the lateness."""
    sends = sends_of(Rate("rps", per_second, burst_s), random_lateness(2), until_s=max(2.0, 30 / per_second))

    assert (len(sends) - 1) / (sends[-1] - sends[0]) >= 0.99 * per_second


@settings(deadline=None, max_examples=200)
@given(ANY_RATE, ANY_BURST, st.lists(st.tuples(GAPS, LATENESS), min_size=2, max_size=80))
def test_single_requests_never_exceed_rate_and_burst(
    per_second: float, burst_s: float, steps: list[tuple[float, float]]
) -> None:
    """Any two sends bound a window; it is taken as one second when it is shorter."""
    rate, now, sends = Rate("rps", per_second, burst_s), 1000.0, []
    for gap_s, late_s in steps:
        now = max(now + gap_s, rate.ready_at(1.0, now) + late_s)
        rate.acquire(1.0, now)
        sends.append(now)

    for first, start_s in enumerate(sends):
        for last in range(first, len(sends)):
            window_s = max(sends[last] - start_s, 1.0)
            assert last - first + 1 <= math.ceil(per_second * (window_s + burst_s))


@settings(deadline=None, max_examples=200)
@given(ANY_RATE, ANY_BURST, st.lists(st.tuples(GAPS, LATENESS, st.floats(0.01, 500)), min_size=2, max_size=60))
def test_costs_never_exceed_rate_and_burst_but_by_the_last_one(
    per_second: float, burst_s: float, steps: list[tuple[float, float, float]]
) -> None:
    """A cost within the burst is covered before it goes; a larger one goes at full credit and is paid off after it."""
    rate, now, sends = Rate("tpm", per_second, burst_s), 1000.0, []
    for gap_s, late_s, cost in steps:
        now = max(now + gap_s, rate.ready_at(cost, now) + late_s)
        rate.acquire(cost, now)
        sends.append((now, cost))

    for first, (start_s, _) in enumerate(sends):
        total = 0.0
        for now, cost in sends[first:]:
            total += cost
            uncovered = max(0.0, cost - capacity(per_second, burst_s))
            allowed = capacity(per_second, now - start_s + burst_s + CATCH_UP_S + ROUNDING_S)
            assert total <= allowed * (1 + 1e-9) + uncovered


def test_two_calls_a_second_suit_a_strict_server() -> None:
    """Ten calls, each up to 1 ms late and up to 1 ms of jitter on its way: within 4.6 s, never 3 in one second."""
    random = Random(3)
    for seed in range(50):
        sends = sends_of(Rate("rps", 2), random_lateness(seed), until_s=4.6)[:10]
        arrivals = sorted(moment + random.choice([-0.001, 0.001]) for moment in sends)

        assert len(sends) == 10
        assert sends[-1] - sends[0] <= 4.6
        assert most_within(sends, 1.0) == 2
        assert most_within(arrivals, 1.0) == 2


def test_the_first_requests_after_a_pause_are_paced_too() -> None:
    """Without burst no credit builds up while nothing is asked for."""
    rate = Rate("rps", 10)
    rate.acquire(1.0, 0.0)
    rate.acquire(1.0, 3600.0)

    assert rate.ready_at(1.0, 3600.0) == pytest.approx(3600.1, abs=0.003)


def test_a_burst_lets_exactly_its_credit_go_at_once() -> None:
    """Two seconds of credit at five a second are ten requests, in spite of the hour before."""
    rate, sent = Rate("rps", 5, burst_s=2.0), 0
    while rate.ready_at(1.0, 3600.0) <= 3600.0:
        rate.acquire(1.0, 3600.0)
        sent += 1

    assert sent == 9  # 9.96 with the pacing margin
    assert rate.ready_at(1.0, 3600.0) == pytest.approx(3600.0, abs=0.02)


def test_a_cost_beyond_the_burst_goes_at_full_credit_and_its_followers_wait() -> None:
    """Nothing deadlocks: 1,000 tokens at 100 a second with 1 s of burst hold the next one up for nearly 10 s."""
    rate = Rate("tpm", 100, burst_s=1.0)

    assert rate.ready_at(1000.0, 50.0) <= 50.0
    rate.acquire(1000.0, 50.0)
    assert rate.ready_at(1.0, 50.0) == pytest.approx(59.0, rel=0.01)
    assert rate.ready_at(1000.0, 50.0) == pytest.approx(60.0, rel=0.01)


def test_a_partly_used_burst_makes_a_large_cost_wait_until_it_is_full() -> None:
    """Else large costs would go unnoticed between small ones."""
    rate = Rate("tpm", 100, burst_s=1.0)
    rate.acquire(50.0, 0.0)

    assert rate.ready_at(1000.0, 0.0) == pytest.approx(0.5, abs=0.01)
    assert rate.ready_at(10.0, 0.0) <= 0.0


def test_lateness_is_made_up_for_but_not_a_long_sleep() -> None:
    """One millisecond late: the next one is on time. One second late: it is not."""
    prompt, sleepy = Rate("rps", 100), Rate("rps", 100)
    step_s = 1 / capacity(100, 1)
    prompt.acquire(1.0, 0.0)
    sleepy.acquire(1.0, 0.0)
    prompt.acquire(1.0, prompt.ready_at(1.0, 0.0) + 0.001)
    sleepy.acquire(1.0, 1.0)

    assert prompt.ready_at(1.0, 0.0) == pytest.approx(2 * step_s - CATCH_UP_S, abs=1e-9)
    assert sleepy.ready_at(1.0, 1.0) >= 1.0 + step_s - CATCH_UP_S - 1e-9


def test_a_settlement_lets_the_next_one_go_earlier() -> None:
    """900 of 1,000 tokens come back at once: the follower waits a tenth of the time."""
    rate = Rate("tpm", 100)
    rate.acquire(1000.0, 0.0)
    before_s = rate.ready_at(1.0, 0.0)
    rate.settle(1000.0, 100.0, 0.0)

    assert before_s == pytest.approx(10.0, rel=0.01)
    assert rate.ready_at(1.0, 0.0) == pytest.approx(1.0, rel=0.01)


def test_a_settlement_charges_what_was_paid_too_little() -> None:
    """An answer ten times longer than expected holds the next one back."""
    rate = Rate("tpm", 100)
    rate.acquire(100.0, 0.0)
    rate.settle(100.0, 1000.0, 0.5)

    assert rate.ready_at(1.0, 0.5) == pytest.approx(10.0, rel=0.01)


def at_once(rate: Rate, cost: float, now: float) -> float:
    """Units of that cost each that may go at this very moment."""
    sent = 0.0
    while rate.ready_at(cost, now) <= now:
        rate.acquire(cost, now)
        sent += cost
    return sent


@settings(deadline=None)
@given(st.floats(10, 1000), st.floats(0, 1), st.floats(0, 100), st.floats(0, 1e5), st.booleans())
def test_what_was_given_back_can_be_used_and_never_more(
    paid: float, share: float, reply_s: float, idle_s: float, is_twice: bool
) -> None:
    """Early or late, once or with another settlement after it, no time makes more of it."""
    rate = Rate("tpm", 100)
    rate.acquire(paid, 0.0)
    owed = max(0.0, paid - capacity(100, reply_s + CATCH_UP_S))
    rate.settle(paid, paid * share, reply_s)
    if is_twice:
        rate.settle(1.0, 1.0, reply_s)
    usable = paid * (1 - share) - owed
    now = reply_s + idle_s
    earned = capacity(100, idle_s + CATCH_UP_S)

    sent = at_once(rate, 1.0, now)

    assert sent >= min(usable, paid * (1 - share)) - 1e-3
    assert sent <= max(0.0, paid * (1 - share)) + min(earned, capacity(100, CATCH_UP_S)) + 1 + 1e-3


def test_what_was_given_back_can_be_used_only_once() -> None:
    """After that, a pause brings no more credit than the burst again."""
    rate = Rate("tpm", 100)
    rate.acquire(100.0, 0.0)
    rate.settle(100.0, 0.0, 2.0)

    assert [at_once(rate, 1.0, now) for now in (2.0, 1000.0, 2000.0)] == [101, 1, 1]


@settings(deadline=None, max_examples=200)
@given(
    ANY_BURST,
    st.lists(
        st.tuples(GAPS, st.floats(1, 500), st.one_of(st.just(1.0), st.floats(0, 3)), st.floats(0, 20)),
        min_size=2,
        max_size=60,
    ),
)
def test_the_rate_holds_over_all_that_was_paid_and_given_back(
    burst_s: float, steps: list[tuple[float, float, float, float]]
) -> None:
    """Since the first send: what was paid, less what came back, never exceeds rate x time + burst."""
    rate, now, net = Rate("tpm", 100, burst_s), 1000.0, 0.0
    flights: list[tuple[float, float, float]] = []
    for gap_s, paid, share, latency_s in steps:
        now += gap_s
        while flights and (flights[0][0] <= now or flights[0][0] <= rate.ready_at(paid, now)):
            landed_s, old_paid, real = heapq.heappop(flights)
            now = max(now, landed_s)
            rate.settle(old_paid, real, now)
            net += real - old_paid
        now = max(now, rate.ready_at(paid, now))
        rate.acquire(paid, now)
        net += paid
        heapq.heappush(flights, (now + latency_s, paid, paid * share))

        uncovered = max(0.0, paid - capacity(100, burst_s))
        assert net <= capacity(100, now - 1000.0 + burst_s + CATCH_UP_S + ROUNDING_S) + uncovered


@pytest.mark.parametrize("burst_s", [0.0, 0.05])
def test_high_estimates_do_not_leave_token_rate_unused(burst_s: float) -> None:
    """Answers take half of their estimate on average, after random latencies: 98 % of the real tokens get through."""
    random, rate, order = Random(4), Rate("tpm", 3000, burst_s), count()
    now, end_s, used = 0.0, 300.0, 0.0
    flights: list[tuple[float, int, float]] = []
    while now < end_s:
        ready_s = rate.ready_at(500.0, now)
        if ready_s <= now:
            rate.acquire(500.0, now)
            real = random.uniform(0, 500)
            used += real
            heapq.heappush(flights, (now + random.uniform(0.2, 2), next(order), real))
        elif flights and flights[0][0] < ready_s:
            now, _, real = heapq.heappop(flights)
            rate.settle(500.0, real, now)
        else:
            now = ready_s + random.uniform(0, 0.001)

    assert 0.98 <= used / (3000 * end_s) <= 1.01


def test_requests_go_in_order_and_evenly() -> None:
    """Strictly increasing moments, a constant distance apart when nobody is late."""
    sends = sends_of(Rate("rps", 20), repeat(0.0), until_s=3.0)
    gaps = [later - earlier for earlier, later in pairwise(sends)]

    assert min(gaps[1:]) == pytest.approx(max(gaps[1:]), abs=1e-6)
