"""The learned rate finds what an endpoint allows, with few rejections, and leaves rejections at random alone."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.scheduling.learned_rate import LearnedRate
from tests.scheduling.push_back_simulation import (
    Both,
    Changing,
    FixedWindow,
    Noise,
    Options,
    Outage,
    Server,
    Simulation,
    SlidingWindow,
    TokenBucket,
    Told,
    constant,
    exactly,
    rounded_up,
    simulate,
    untold,
)

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SERVERS: dict[str, Callable[[], Server]] = {
    "bucket": lambda: TokenBucket(300, 30),
    "fixed window": lambda: FixedWindow(300, 1.0),
    "sliding window": lambda: SlidingWindow(300, 1.0),
}
SEEDS = range(3)


def test_it_is_free_until_something_is_rejected() -> None:
    rate = LearnedRate("rate")
    for n in range(1000):
        assert rate.ready_at(1, n / 1e4) <= n / 1e4
        rate.acquire(1, n / 1e4)
    assert rate.learned_per_s == math.inf


def test_what_was_accepted_until_the_quota_was_used_up_is_the_first_rate() -> None:
    """The probe that was let in at the end belongs to the next window; a window is a second long at least."""
    rate = LearnedRate("rate")
    for n in range(201):
        rate.acquire(1, 10 + n / 100)
    rate.on_exhausted(12.0, 12.5)
    assert 95 <= rate.learned_per_s <= 100


def test_then_what_is_accepted_from_one_refill_to_the_next_is_the_rate() -> None:
    """A window of 10 s that is used up in the first one; the first time may have been an overload."""
    rate = LearnedRate("rate")
    for window in range(12):
        for n in range(100):
            rate.acquire(1, 10 * window + n / 100)
        rate.on_exhausted(10 * window + 1.0, 10 * window + 10.0)
    assert 9 <= rate.learned_per_s <= 13


def test_rejections_that_come_long_after_all_sends_are_no_trouble() -> None:
    rate = LearnedRate("rate")
    rate.acquire(1, 0.0)
    for n in range(20):
        rate.on_rejected(0.0, 100.0 + n)
    assert 0.02 <= rate.learned_per_s <= 1


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("told", [untold, exactly, constant(0.5)])
def test_an_unknown_limit_is_found_in_a_second(name: str, told: Told) -> None:
    """Of a run of 5 s, 85 % are used, at once with 2 % rejected; the median of some seeds."""
    runs = [simulate(SERVERS[name](), Options(lines=1500, told=told, seed=seed)) for seed in SEEDS]
    used = sorted(1500 / 300 / run.elapsed_s for run in runs)
    rejected = sorted(len(run.rejected_s) / 1500 for run in runs)
    assert used[1] >= (0.7 if name == "sliding window" else 0.85)
    assert rejected[1] <= 0.02


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("latency_s", [0.05, 0.2])
def test_an_unknown_limit_is_used_in_full_after_some_seconds(name: str, latency_s: float) -> None:
    runs = [simulate(SERVERS[name](), Options(lines=6000, latency_s=latency_s, seed=seed)) for seed in SEEDS]
    used = sorted(6000 / 300 / run.elapsed_s for run in runs)
    rejected = sorted(len(run.rejected_s) / 6000 for run in runs)
    assert used[1] >= 0.92
    assert rejected[1] <= 0.011


@pytest.mark.parametrize("server", [lambda: FixedWindow(2, 1.0, 0.3), lambda: SlidingWindow(2, 1.0)])
def test_two_a_second_are_found(server: Callable[[], Server]) -> None:
    runs = [simulate(server(), Options(lines=60, latency_s=0.005, seed=seed)) for seed in range(5)]
    assert max(run.elapsed_s for run in runs) <= 1.15 * 30
    assert max(len(run.rejected_s) for run in runs) <= 16


@pytest.mark.parametrize("told", [untold, exactly, constant(2.0)])
@pytest.mark.parametrize("start_s", [0.0, 0.05, 0.2, 0.6])
def test_an_overload_at_the_start_says_nothing_of_the_rate(start_s: float, told: Told) -> None:
    """Everything is rejected for some seconds; then the run goes on as if nothing had been."""
    free = simulate(Outage(start_s, start_s + 2.0), Options(lines=1000, slots=100, told=told))
    with_rate = simulate(Outage(start_s, start_s + 3.0), Options(lines=300, slots=50, told=told, set_per_s=100))

    assert free.elapsed_s <= start_s + 4.0
    assert with_rate.elapsed_s <= 3.0 + start_s + 4.5


@pytest.mark.parametrize("told", [untold, exactly, rounded_up])
@pytest.mark.parametrize("server", [lambda: FixedWindow(300, 60.0), lambda: SlidingWindow(300, 60.0)])
def test_a_limit_a_minute_ends_in_time(server: Callable[[], Server], told: Told) -> None:
    run = simulate(server(), Options(lines=1200, told=told))
    assert run.elapsed_s <= 220
    assert len(run.rejected_s) <= 0.11 * 1200


@pytest.mark.parametrize("rejection_s", [0.001, math.inf])
def test_a_set_rate_is_kept_where_a_lower_one_does_not_help(rejection_s: float) -> None:
    """In nearly all of 20 runs, 1.35 times the time of the lines alone."""
    options = Options(lines=200, latency_s=0.02, told=constant(1.0), set_per_s=20, rejection_s=rejection_s)
    assert sum(simulate(Noise(0.1, seed), options).elapsed_s <= 13.5 for seed in range(20)) >= 18


def test_a_rejection_of_a_set_rate_costs_no_second() -> None:
    """A token limit rejects one request of 200: nine tenths of the rate go on."""
    run = simulate(Outage(2.0, 2.04), Options(lines=200, told=rounded_up, set_per_s=50))
    assert len(run.rejected_s) <= 4
    assert run.accepted_within(2.0, 3.0) >= 40


@pytest.mark.parametrize("slots", [100, 256])
def test_after_a_used_up_quota_the_former_rate_comes_back(slots: int) -> None:
    run = simulate(Outage(1.0, 3.0), Options(lines=120 * slots, slots=slots))
    assert run.accepted_within(6.0, 7.0) >= 0.85 * slots / 0.05


@pytest.mark.parametrize("name", SERVERS)
def test_a_second_run_starts_at_the_rate_that_was_learned(name: str) -> None:
    for seed in SEEDS:
        first = Simulation(SERVERS[name](), Options(lines=6000, seed=seed))
        first.play()
        established_per_s = first.rate.established_per_s
        run = simulate(SERVERS[name](), Options(lines=1500, seed=seed, learned_per_s=established_per_s))
        assert 1500 / 300 / run.elapsed_s >= 0.9
        assert len(run.rejected_s) <= 0.005 * 1500


def test_rejections_at_random_hide_no_limit() -> None:
    """In nearly all runs; a rate that was lowered too far takes some seconds to come back."""
    used = [
        6000 / 300 / simulate(Both(Noise(0.05, seed), TokenBucket(300, 30)), Options(lines=6000, seed=seed)).elapsed_s
        for seed in range(6)
    ]
    assert sum(share >= 0.8 for share in used) >= 5
    assert min(used) >= 0.6


def test_a_limit_that_falls_is_followed_at_once_and_one_that_rises_in_some_seconds() -> None:
    server = Changing(30, [(0, 300), (8, 150), (18, 300)])
    run = simulate(server, Options(lines=8 * 300 + 10 * 150 + 6000))
    assert run.accepted_within(10, 18) >= 0.9 * 8 * 150
    assert sum(8 <= sent_s < 18 for sent_s in run.rejected_s) <= 60
    assert run.accepted_within(30, 35) >= 0.9 * 5 * 300


@given(
    st.lists(st.tuples(st.sampled_from(["acquire", "reject", "held", "exhausted", "free"]), FLOATS, FLOATS)),
    st.floats(min_value=1e-9, allow_nan=False),
    st.floats(min_value=1e-9, allow_nan=False),
)
def test_no_order_of_events_and_no_number_breaks_it(
    events: list[tuple[str, float, float]], set_per_s: float, learned_per_s: float
) -> None:
    rate = LearnedRate("rate", set_per_s, learned_per_s)
    for kind, sent_s, now in events:
        match kind:
            case "acquire":
                rate.acquire(1, now)
            case "reject":
                rate.on_rejected(sent_s, now)
            case "held":
                rate.on_held_rejected()
            case "exhausted":
                rate.on_exhausted(sent_s, now)
            case _:
                rate.set_free(now)
        assert rate.learned_per_s >= 0.02
        assert 0 <= rate.tolerated_share <= 0.3
        assert not math.isnan(rate.ready_at(1, now))
