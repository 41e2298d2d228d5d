"""Each policy agrees with a naive reference, and tells the truth about what it will admit and when."""

import math
from collections.abc import Callable
from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmblast.mocking.buckets import LeakyBucket, TokenBucket
from llmblast.mocking.limits import POLICIES
from llmblast.mocking.rates import Others, Policy, Rate
from llmblast.mocking.windows import FixedWindow, Quantised, SlidingWindow

# Multiples of 1/64 s are exact in binary, so that the edge of a window is where the test believes it to be.
GAPS = st.one_of(st.integers(0, 30), st.integers(0, 2000)).map(lambda ticks: ticks / 64)
Step = tuple[float, int, bool]
STEPS = st.lists(st.tuples(GAPS, st.integers(1, 4), st.sampled_from([False, False, False, True])), max_size=60)
"""Gap, cost, and whether the cost is charged without having been asked for."""

Taken = list[tuple[float, int]]
Reference = Callable[[Taken, float, int], bool]
"""Whether a cost fits at a moment, from all that was taken before."""


def play(policy: Policy, steps: list[Step], fits: Reference | None = None) -> Taken:
    """Plays the steps against the policy, compares each verdict, and returns all that was taken."""
    taken: Taken = []
    moments = accumulate(gap for gap, _, _ in steps)
    for now, (_, cost, is_forced) in zip(moments, steps, strict=True):
        if is_forced:
            policy.take(cost, now)
            taken.append((now, cost))
            continue
        expected = fits(taken, now, cost) if fits else None
        passed = not policy.admit(cost, now)
        assert expected is None or passed == expected, (now, cost, taken)
        if passed:
            taken.append((now, cost))
    return taken


def others_moments(others: Others, per_s: int, until_s: float) -> Taken:
    """The requests of somebody else, one by one."""
    pace = others.share * per_s
    count = math.floor(max(0.0, until_s - others.start_s) * pace)
    return [(others.start_s + number / pace, 1) for number in range(1, count + 1)]


SOMEBODY = st.sampled_from([Others(), Others(0.5, 2.0), Others(0.25, 0.5)])


@settings(deadline=None)
@given(STEPS, st.sampled_from([4, 8]), SOMEBODY)
def test_a_fixed_window_counts_what_was_taken_since_it_began(steps: list[Step], limit: int, others: Others) -> None:
    """Windows are aligned to the first request; what others will have of one counts from its start."""

    def fits(taken: Taken, now: float, cost: int) -> bool:
        if not taken:
            return True
        start = taken[0][0] + math.floor(now - taken[0][0])
        used = sum(units for moment, units in taken if moment >= start)
        theirs = others_moments(others, limit, start + 1) if now > others.start_s else []
        return used + sum(start < moment for moment, _ in theirs) + cost <= limit

    play(FixedWindow(Rate(limit, 1.0), others), [(0.0, 1, True), *steps], fits)


@settings(deadline=None)
@given(STEPS, st.sampled_from([4, 8]), SOMEBODY)
def test_a_sliding_window_counts_the_last_window(steps: list[Step], limit: int, others: Others) -> None:
    """Any stretch that is one window long is looked at."""

    def fits(taken: Taken, now: float, cost: int) -> bool:
        everybody = taken + others_moments(others, limit, now)
        return sum(units for moment, units in everybody if moment > now - 1.0) + cost <= limit

    play(SlidingWindow(Rate(limit, 1.0), others), steps, fits)


@settings(deadline=None)
@given(STEPS, st.integers(1, 4))
def test_slices_follow_the_clocks_seconds_and_carry_their_debt(steps: list[Step], limit: int) -> None:
    """Second by second: what a slice has not covered burdens the next."""

    def fits(taken: Taken, now: float, cost: int) -> bool:
        debt = 0
        for second in range(math.floor(now)):
            debt = max(0, debt + sum(units for moment, units in taken if math.floor(moment) == second) - limit)
        used = debt + sum(units for moment, units in taken if math.floor(moment) == math.floor(now))
        return used <= max(0, limit - cost)

    play(Quantised(Rate(limit * 60, 60.0, largest=4)), steps, fits)


@settings(deadline=None)
@given(STEPS, st.sampled_from([1, 2, 8]), st.integers(4, 6), SOMEBODY)
def test_a_token_bucket_refills_evenly_up_to_its_burst(
    steps: list[Step], limit: int, burst: int, others: Others
) -> None:
    """Step by step: refilled at the rate, less what the others take of it, and emptied by each cost."""

    def fits(taken: Taken, now: float, cost: int) -> bool:
        tokens, last_s = float(burst), 0.0
        for moment, units in [*taken, (now, cost)]:
            pieces = sorted({last_s, min(max(others.start_s, last_s), moment), moment})
            for begin, end in pairwise(pieces):
                share = others.share if begin >= others.start_s else 0.0
                tokens = min(burst, tokens + (end - begin) * limit * (1 - share))
            tokens, last_s = tokens - units, moment
        return tokens >= 0

    play(TokenBucket(Rate(limit, 1.0, burst), others), steps, fits)


@settings(deadline=None)
@given(st.lists(GAPS, max_size=60), st.sampled_from([0.5, 1, 8]), st.integers(0, 3))
def test_a_leaky_bucket_is_nginxs(gaps: list[float], rate: float, burst: int) -> None:
    """The excess of `ngx_http_limit_req_lookup`: less the leak, plus one, not below zero, refused above the burst."""
    policy = LeakyBucket(Rate(rate, 1.0, burst))
    excess, last_s, now = 0.0, -math.inf, 0.0
    for gap in gaps:
        now += gap
        tried = max(0.0, excess - rate * (now - last_s) + 1) if last_s > -math.inf else 0.0

        passed = not policy.admit(1, now)

        assert passed == (tried <= burst)
        if passed:
            excess, last_s = tried, now


def test_a_leaky_bucket_of_tokens_admits_any_size_and_then_lets_it_leak() -> None:
    """Up to a window's quota, beyond it never."""
    policy = LeakyBucket(Rate(600, 60.0, largest=600))

    assert policy.admit(600, 0.0) == 0
    assert policy.admit(1, 20.0) == pytest.approx(40)
    assert policy.admit(300, 60.0) == 0
    assert policy.admit(601, 200.0) == math.inf


def made(name: str, limit: float, window_s: float = 1.0) -> Policy:
    """A policy of a rate of which one request may cost 4."""
    return POLICIES[name](Rate(limit, window_s, 4, largest=1))


@settings(deadline=None)
@given(st.sampled_from(sorted(POLICIES)), STEPS, st.integers(4, 9), st.integers(1, 4))
def test_the_wait_that_is_told_is_neither_too_short_nor_too_long(
    name: str, steps: list[Step], limit: int, cost: int
) -> None:
    """Whoever waits as told is admitted, also out of debt; half of it is not enough."""
    policy = made(name, limit)
    play(policy, steps)
    now = sum(gap for gap, _, _ in steps)
    wait_s = policy.wait_s(cost, now)

    assert wait_s == 0 or policy.wait_s(cost, now + wait_s / 2) > 0
    assert policy.wait_s(cost, now + wait_s + 1e-9) == 0


@settings(deadline=None)
@given(st.sampled_from(sorted(POLICIES)), STEPS, st.integers(4, 9))
def test_what_is_told_to_remain_is_what_would_be_admitted(name: str, steps: list[Step], limit: int) -> None:
    """The remaining cost passes at once and no more, and the reset is when everything does, not earlier."""
    policy = made(name, limit)
    full = policy.remaining(0.0)
    play(policy, steps)
    now = sum(gap for gap, _, _ in steps)
    left, reset_s = policy.remaining(now), policy.reset_s(now)

    assert left <= 0 or policy.wait_s(left, now) == 0
    assert policy.wait_s(max(left, 0) + 0.5, now) > 0
    assert reset_s == 0 or policy.remaining(now + reset_s * 0.99) < full
    assert policy.remaining(now + reset_s + 1e-9) == pytest.approx(full)


@pytest.mark.parametrize("name", ["fixed", "sliding", "token-bucket", "quantised"])
def test_a_cost_above_the_limit_never_fits(name: str) -> None:
    """No wait helps, and the others are not held up by it."""
    policy = POLICIES[name](Rate(10, 60.0, largest=10))

    assert policy.admit(11, 0.0) == math.inf
    assert policy.admit(10, 0.0) == 0.0


@pytest.mark.parametrize("name", sorted(POLICIES))
@pytest.mark.parametrize(("rate", "gap_s"), [(0.1, 10), (0.5, 2.0), (2.5, 0.4), (2, 0.5), (200, 0.005), (1e4, 1e-4)])
def test_even_pacing_at_the_rate_is_admitted_by_every_policy(name: str, rate: float, gap_s: float) -> None:
    """Strictly even pacing suits all of them, twice as fast none."""
    paced, hasty = POLICIES[name](Rate(rate, 1.0)), POLICIES[name](Rate(rate, 1.0))
    count = max(50, round(3 * rate))

    even = play(paced, [(gap_s + 1e-9, 1, False)] * count)
    rushed = play(hasty, [(gap_s / 2, 1, False)] * 2 * count)

    assert len(even) == count
    # The first window, or what a bucket holds, comes on top; a moment between two steps is missed.
    assert count * 0.8 <= len(rushed) <= count + rate + 2


@pytest.mark.parametrize("name", ["token-bucket", "leaky"])
def test_a_bucket_admits_exact_pacing(name: str) -> None:
    """Float rounding does not turn a punctual request away."""
    policy = POLICIES[name](Rate(10, 1.0, 1 if name == "token-bucket" else 0))

    assert [policy.admit(1, 1000 + index / 10) for index in range(100)] == [0.0] * 100


def test_a_sliding_window_lets_go_neither_early_nor_late() -> None:
    """What was admitted counts for one whole window."""
    policy = SlidingWindow(Rate(2, 1.0))

    assert [policy.admit(1, now) for now in (0.0, 0.5, 0.984375, 1.0, 1.25)] == [0.0, 0.0, 0.015625, 0.0, 0.25]


def test_a_fixed_window_allows_two_full_windows_back_to_back() -> None:
    """That is what sets it apart from a sliding one."""
    rush = [(0.0, 1, False), (0.9, 1, False), (0.1, 1, False), (0.05, 1, False)]

    assert len(play(FixedWindow(Rate(2, 1.0)), rush)) == 4
    assert len(play(SlidingWindow(Rate(2, 1.0)), rush)) == 3


def test_a_minutes_quota_is_handed_out_by_the_second() -> None:
    """60 a minute is 1 in each second of the clock, 90 a minute 2 in each second and a third."""
    sixty, ninety = Quantised(Rate(60, 60.0)), Quantised(Rate(90, 60.0))

    assert [sixty.admit(1, now) for now in (7.75, 7.875, 8.0, 8.5)] == [0, 0.125, 0, 0.5]
    assert len(play(ninety, [(1 / 64, 1, False)] * (64 * 60 - 1))) == 90


def test_a_token_bucket_holds_a_seconds_worth_of_requests_and_a_minutes_of_tokens() -> None:
    """Unless it is told otherwise, and at least one request."""
    sizes = [
        TokenBucket(rate).remaining(0.0)
        for rate in (Rate(10, 1.0), Rate(0.5, 1.0), Rate(600, 60.0), Rate(600, 60.0, largest=600), Rate(10, 1.0, 3))
    ]

    assert sizes == [10, 1, 10, 600, 3]


def test_a_sliding_window_full_of_others_says_to_wait_for_one_window() -> None:
    """Nothing of one's own would leave."""
    policy = SlidingWindow(Rate(4, 1.0), Others(0.5, 0.0))

    assert policy.wait_s(3, 10.0) == 1.0
    assert policy.reset_s(10.0) == 1.0
    assert policy.wait_s(2, 10.0) == 0


def test_slices_carry_the_others_debt_too() -> None:
    """One a second of which half is taken leaves one every other second."""
    policy = Quantised(Rate(60, 60.0), Others(0.5, 0.0))

    passed = play(policy, [(0.25, 1, False)] * 400)

    assert len(passed) == pytest.approx(50, abs=2)


@settings(deadline=None)
@given(st.sampled_from(["fixed", "quantised"]), st.floats(0, 1e7), st.floats(1e-3, 100), st.floats(0, 1e4))
def test_a_window_always_ends_in_the_future(name: str, start: float, window_s: float, gap_s: float) -> None:
    """A rounded division does not leave it in a window that is over."""
    policy = POLICIES[name](Rate(1 / window_s, 1.0))
    policy.take(10_000, start)
    policy.take(10_000, start + gap_s)

    assert policy.wait_s(1, start + gap_s) > 0


@pytest.mark.parametrize(
    ("policy", "start", "now"),
    [
        (FixedWindow(Rate(1, 0.1)), 0.1, 133.2),
        (FixedWindow(Rate(1, 1 / 3)), 1.1, 323.76666666666665),
        (Quantised(Rate(2.7, 1.0)), 0.0, 2122.2222222222217),
    ],
)
def test_the_edge_of_a_window_belongs_to_the_next(policy: Policy, start: float, now: float) -> None:
    """Also where the quotient of floats lies below the whole number that it should be."""
    policy.take(3, start)
    policy.take(3, now)

    assert policy.reset_s(now) > 0.09
