"""The policies never admit more than they allow, and tell the truth about when they will."""

import math
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmblast.mocking.limits import WINDOWS, FixedWindow, LeakyBucket, MovingWindow, Policy

# Multiples of 1/64 s are exact in binary, so that the edge of a window is where the test believes it to be.
GAPS = st.one_of(st.integers(0, 30), st.integers(0, 2000)).map(lambda ticks: ticks / 64)
STEPS = st.lists(st.tuples(GAPS, st.integers(1, 4)), max_size=60)


def admitted(policy: Policy, steps: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """Plays (gap, cost) against the policy and returns (moment, cost) of what was admitted."""
    moments = accumulate(gap for gap, _ in steps)
    return [(now, cost) for now, (_, cost) in zip(moments, steps, strict=True) if not policy.admit(cost, now)]


@settings(deadline=None)
@given(STEPS, st.integers(4, 9), st.sampled_from([1.0, 60.0]))
def test_a_fixed_window_never_admits_more_than_its_limit(
    steps: list[tuple[float, int]], limit: int, window_s: float
) -> None:
    """Windows are aligned to the first request."""
    passed = admitted(FixedWindow(limit, window_s, 1), steps)

    used: dict[int, int] = {}
    for now, cost in passed:
        index = math.floor((now - passed[0][0]) / window_s)
        used[index] = used.get(index, 0) + cost
    assert all(total <= limit for total in used.values())


@settings(deadline=None)
@given(STEPS, st.integers(4, 9), st.sampled_from([1.0, 60.0]))
def test_a_moving_window_never_admits_more_than_its_limit(
    steps: list[tuple[float, int]], limit: int, window_s: float
) -> None:
    """Any stretch that is one window long is looked at."""
    passed = admitted(MovingWindow(limit, window_s, 1), steps)

    for end, _ in passed:
        assert sum(cost for now, cost in passed if end - window_s < now <= end) <= limit


@settings(deadline=None)
@given(STEPS, st.integers(1, 9), st.integers(4, 6))
def test_a_bucket_never_admits_more_than_capacity_and_rate(
    steps: list[tuple[float, int]], limit: int, capacity: int
) -> None:
    """Between any two requests the bucket has leaked at its rate, not faster."""
    passed = admitted(LeakyBucket(limit, 1.0, capacity), steps)

    for first, (start, _) in enumerate(passed):
        for last in range(first, len(passed)):
            total = sum(cost for _, cost in passed[first : last + 1])
            assert total <= capacity + limit * (passed[last][0] - start) + 1e-3


@settings(deadline=None)
@given(st.sampled_from(sorted(WINDOWS)), STEPS, st.integers(4, 9), st.integers(1, 4))
def test_the_wait_that_is_told_is_neither_too_short_nor_too_long(
    window: str, steps: list[tuple[float, int]], limit: int, cost: int
) -> None:
    """Whoever waits as told is admitted; half of it is not enough."""
    policy = WINDOWS[window](limit, 1.0, 4)
    admitted(policy, steps)
    now = sum(gap for gap, _ in steps)
    wait_s = policy.wait_s(cost, now)

    assert wait_s == 0 or policy.wait_s(cost, now + wait_s / 2) > 0
    assert policy.wait_s(cost, now + wait_s + 1e-9) == 0


@settings(deadline=None)
@given(st.sampled_from(sorted(WINDOWS)), STEPS, st.integers(4, 9))
def test_what_is_told_to_remain_is_what_would_be_admitted(
    window: str, steps: list[tuple[float, int]], limit: int
) -> None:
    """The remaining cost passes at once, and after the reset everything does."""
    policy = WINDOWS[window](limit, 1.0, 4)
    admitted(policy, steps)
    now = sum(gap for gap, _ in steps)
    left = policy.remaining(now)
    later = now + policy.reset_s(now) + 1e-9

    assert policy.wait_s(left, now) == 0
    assert policy.wait_s(left + 0.5, now) > 0
    assert policy.remaining(later) == pytest.approx(4 if window == "bucket" else limit)


@pytest.mark.parametrize("window", sorted(WINDOWS))
def test_a_cost_above_the_limit_never_fits(window: str) -> None:
    """No wait helps, and the others are not held up by it."""
    policy = WINDOWS[window](10, 60.0, 10)

    assert policy.admit(11, 0.0) == math.inf
    assert policy.admit(10, 0.0) == 0.0


@pytest.mark.parametrize("window", ["fixed", "moving"])
@pytest.mark.parametrize(("rate", "gap_s"), [(0.5, 2.0), (2.5, 0.4), (2, 0.5)])
def test_a_rate_that_is_no_whole_number_can_be_used_to_the_full(window: str, rate: float, gap_s: float) -> None:
    """Even pacing at the rate is admitted, twice as fast is not."""
    paced, hasty = WINDOWS[window](rate, 1.0, 1), WINDOWS[window](rate, 1.0, 1)

    assert len(admitted(paced, [(gap_s + 1e-9, 1)] * 50)) == 50
    assert len(admitted(hasty, [(gap_s / 2, 1)] * 50)) == pytest.approx(25, abs=2)


def test_a_bucket_of_one_admits_exact_pacing() -> None:
    """Float rounding does not turn a punctual request away."""
    policy = LeakyBucket(10, 1.0, 1)

    assert [policy.admit(1, 1000 + index / 10) for index in range(100)] == [0.0] * 100


def test_a_moving_window_lets_go_neither_early_nor_late() -> None:
    """What was admitted counts for one whole window."""
    policy = MovingWindow(2, 1.0, 1)

    assert [policy.admit(1, now) for now in (0.0, 0.5, 0.984375, 1.0, 1.25)] == [0.0, 0.0, 0.015625, 0.0, 0.25]


def test_a_fixed_window_allows_two_full_windows_back_to_back() -> None:
    """That is what sets it apart from a moving one."""
    rush = [(0.0, 1), (0.9, 1), (0.1, 1), (0.05, 1)]

    assert len(admitted(FixedWindow(2, 1.0, 1), rush)) == 4
    assert len(admitted(MovingWindow(2, 1.0, 1), rush)) == 3


@settings(deadline=None)
@given(st.floats(0, 1e7), st.floats(1e-3, 100), st.floats(0, 1e4))
def test_a_fixed_window_always_ends_in_the_future(start: float, window_s: float, gap_s: float) -> None:
    """A rounded division does not leave it in a window that is over."""
    policy = FixedWindow(1, window_s, 1)
    policy.admit(1, start)
    policy.admit(1, start + gap_s)

    assert policy.wait_s(1, start + gap_s) > 0
