"""RequestRate: stalls of our own are made up for, and still no second holds more than allowed."""

import math
from itertools import repeat
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmblast.scheduling import RequestRate
from tests.scheduling.scheduling_samples import most_within, sends_of

RATES = (0.1, 0.5, 1, 2, 7.3, 50, 199, 200, 399, 401, 1000, 10_000, 20_000)
STALLS = st.one_of(st.just(0.0), st.floats(0, 0.001), st.floats(0, 0.05))


def least_used(per_second: float) -> float:
    return 0.98 if per_second >= 10_000 else 0.99


@pytest.mark.parametrize("per_second", RATES)
@pytest.mark.parametrize("burst_s", [0.0, 0.03, 1.0])
def test_a_rate_is_used_though_every_send_is_late_and_some_very(per_second: float, burst_s: float) -> None:
    """Each by up to 1 ms, and one in a hundred milliseconds by 4."""
    random = Random(4)
    lateness = iter(lambda: 0.004 if random.random() < 10 / per_second / 100 else random.uniform(0, 0.001), None)
    sends = sends_of(RequestRate("rps", per_second, burst_s), lateness, until_s=max(3.0, 30 / per_second))

    assert (len(sends) - 1) / (sends[-1] - sends[0]) >= least_used(per_second) * per_second


@pytest.mark.parametrize("per_second", RATES)
def test_no_stretch_of_a_second_or_more_holds_more_than_the_rate_allows(per_second: float) -> None:
    """Every send is up to 8 ms late, and lateness is made up for."""
    random = Random(1)
    lateness = iter(lambda: random.uniform(0, 0.008), None)
    sends = sends_of(RequestRate("rps", per_second), lateness, until_s=max(2.5, 30 / per_second))

    for window_s in (1.0, 1.3, 2.0, 10 / per_second + 1):
        assert most_within(sends, window_s) <= math.ceil(per_second * window_s - 1e-9)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([1, 10, 100, 1000]), st.sampled_from([0.0, 0.1, 1.0]), st.lists(STALLS, min_size=1))
def test_no_second_holds_more_than_rate_and_burst_whatever_stalls(
    per_second: int, burst_s: float, stalls: list[float]
) -> None:
    """What comes again and again: a stall, then a crowd of what it held up."""
    lateness = (stall for _ in repeat(None) for stall in stalls)
    sends = sends_of(RequestRate("rps", per_second, burst_s), lateness, until_s=3.0)

    assert most_within(sends, 1.0) <= math.ceil(per_second * (1 + burst_s))


def test_one_that_was_on_its_way_for_longer_than_a_second_counts_too() -> None:
    """Its admission is forgotten by then: what counts is when the provider sees it."""
    rate = RequestRate("rps", 2)
    rate.acquire(1.0, 100.0)
    rate.acquire(1.0, 101.5)
    rate.record_late_departure(100.0, 101.6, 0.0)

    assert rate.ready_at(1.0, 102.1) == pytest.approx(102.5, abs=0.01)


def test_the_memory_does_not_grow_with_the_run() -> None:
    """A minute of 2,000/s leaves what one second has parts."""
    rate, now = RequestRate("rps", 2000), 0.0
    for _ in range(120_000):
        rate.acquire(1.0, now)
        now = max(now, rate.ready_at(1.0, now))

    assert len(rate._before) <= 502  # what nobody can see from outside


def test_the_first_one_was_not_late() -> None:
    """Nothing is made up for before there was anything to be late."""
    rate = RequestRate("rps", 10)
    rate.acquire(1.0, 50.0)

    assert rate.ready_at(1.0, 50.0) >= 50.1
