"""Rolling quota: all of it usable at once, never more of it in any window, whatever was given back."""

import heapq
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmblast.scheduling import RollingQuota

WINDOW_S = 100.0
GAPS = st.one_of(st.just(0.0), st.floats(0, 2), st.floats(0, 150))
COSTS = st.integers(1, 10)
ROUNDING_S = 1e-6

Log = list[tuple[float, float]]


def most_in_a_window(log: Log) -> float:
    """The most units in any stretch of a window's length, of which one end belongs to it."""
    return max(sum(units for moment, units in log if start <= moment < start + WINDOW_S) for start, _ in log)


def exact_moment(log: Log, cost: float, units: float, now: float) -> float:
    """When a quota that remembers every single send would let the next one go."""
    inside = [(moment + WINDOW_S, spent) for moment, spent in log if moment + WINDOW_S > now]
    missing = sum(spent for _, spent in inside) + cost - units
    for leaves_s, spent in inside:
        if missing <= 0:
            break
        missing -= spent
        now = leaves_s
    return now


@settings(deadline=None, max_examples=300)
@given(st.integers(10, 40), st.integers(1, 50), st.lists(st.tuples(GAPS, COSTS), min_size=1, max_size=60))
def test_no_window_holds_more_and_nobody_waits_a_part_too_long(
    units: int, slots: int, steps: list[tuple[float, int]]
) -> None:
    """Against a log of every send: at most one part of the window later, never earlier."""
    quota, log, now = RollingQuota("rpd", units, WINDOW_S, slots), Log(), 1000.0
    for gap_s, cost in steps:
        now += gap_s
        exact_s = exact_moment(log, cost, units, now)
        ready_s = quota.ready_at(cost, now)
        assert exact_s - ROUNDING_S <= ready_s <= exact_s + WINDOW_S / slots + ROUNDING_S
        now = max(now, ready_s)
        assert quota.ready_at(cost, now) == now
        quota.acquire(cost, now)
        log.append((now, cost))

    assert most_in_a_window(log) <= units


@settings(deadline=None, max_examples=300)
@given(
    st.integers(10, 40),
    st.integers(1, 50),
    st.lists(st.tuples(GAPS, COSTS, st.floats(0, 1), st.floats(0, 0.99 * WINDOW_S)), min_size=1, max_size=60),
)
@example(20, 10, [(0.0, 10, 0.0, 50.0), (20.0, 10, 1.0, 90.0), (85.0, 10, 1.0, 90.0), (0.0, 10, 1.0, 90.0)])
def test_no_window_holds_more_when_replies_give_back(
    units: int, slots: int, steps: list[tuple[float, int, float, float]]
) -> None:
    """Replies come up to a window later and in any order; what was really used counts at the moment of its send."""
    quota, log, now = RollingQuota("rpd", units, WINDOW_S, slots), Log(), 1000.0
    flights: list[tuple[float, int, float, float]] = []
    for sent, (gap_s, cost, share, latency_s) in enumerate(steps):
        now += gap_s
        while flights and flights[0][0] <= max(now, quota.ready_at(cost, min(now, flights[0][0]))):
            landed_s, place, paid, real = heapq.heappop(flights)
            quota.settle(paid, real, landed_s)
            log[place] = (log[place][0], real)
            now = max(now, landed_s)
        now = max(now, quota.ready_at(cost, now))
        quota.acquire(cost, now)
        log.append((now, cost))
        heapq.heappush(flights, (now + latency_s, sent, cost, cost * share))

    assert most_in_a_window(log) <= units + ROUNDING_S


def at_once(quota: RollingQuota, now: float) -> int:
    """Units that may go at this very moment."""
    sent = 0
    while quota.ready_at(1.0, now) <= now:
        quota.acquire(1.0, now)
        sent += 1
    return sent


def test_all_of_a_quota_can_be_used_at_once() -> None:
    """A day's requests need not last for the day; the next day's can be used at once too."""
    quota = RollingQuota("rpd", 50, WINDOW_S)

    assert at_once(quota, 7.0) == 50
    assert at_once(quota, 7.0 + WINDOW_S) == 0
    assert at_once(quota, quota.ready_at(1.0, 8.0)) == 50


def test_a_quota_comes_back_as_it_was_used() -> None:
    """Twenty early and thirty late: the twenty are free again first."""
    quota = RollingQuota("rpd", 50, WINDOW_S)
    for now, units in ((0.0, 20.0), (60.0, 30.0)):
        quota.acquire(units, now)

    assert quota.ready_at(20.0, 60.0) == pytest.approx(WINDOW_S, abs=0.1)
    assert quota.ready_at(21.0, 60.0) == pytest.approx(60.0 + WINDOW_S, abs=0.1)
    assert at_once(quota, 60.0 + 0.9 * WINDOW_S) == 20


def test_a_cost_beyond_the_quota_goes_when_nothing_else_is_counted() -> None:
    """Nothing deadlocks, and its followers wait until it has left the window."""
    quota = RollingQuota("rpd", 5, WINDOW_S)
    quota.acquire(1.0, 0.0)
    ready_s = quota.ready_at(100.0, 0.0)
    assert ready_s == pytest.approx(WINDOW_S, abs=0.1)
    quota.acquire(100.0, ready_s)

    assert quota.ready_at(1.0, ready_s) == pytest.approx(ready_s + WINDOW_S, abs=0.1)


def test_a_part_of_a_request_a_day_still_is_one() -> None:
    """Half a request cannot be sent."""
    quota = RollingQuota("rpd", 0.5, WINDOW_S)

    assert at_once(quota, 0.0) == 1
    assert at_once(quota, 1.2 * WINDOW_S) == 1


def test_what_a_settlement_gives_back_can_be_used_at_once() -> None:
    """Once."""
    quota = RollingQuota("rpd", 50, WINDOW_S)
    quota.acquire(50.0, 0.0)
    quota.settle(50.0, 20.0, 1.0)

    assert at_once(quota, 1.0) == 30
    assert at_once(quota, 1.0) == 0


def test_what_a_settlement_charges_holds_the_next_one_back() -> None:
    """Until it has left the window."""
    quota = RollingQuota("rpd", 50, WINDOW_S)
    quota.acquire(10.0, 0.0)
    quota.settle(10.0, 50.0, 1.0)

    assert quota.ready_at(1.0, 1.0) == pytest.approx(WINDOW_S, abs=0.1)
    assert at_once(quota, 1.1 * WINDOW_S) == 50


def test_a_settlement_after_the_window_changes_nothing() -> None:
    """What it was for is not counted any more."""
    quota = RollingQuota("rpd", 50, WINDOW_S)
    quota.acquire(50.0, 0.0)
    now = 2 * WINDOW_S
    assert quota.ready_at(1.0, now) == now
    quota.settle(50.0, 0.0, now)
    quota.settle(1.0, 50.0, now)

    assert at_once(quota, now) == 50


def test_the_memory_of_a_quota_does_not_grow_with_its_sends() -> None:
    """Fifty thousand of them over twenty windows of ten parts each: some numbers, not a log."""
    quota = RollingQuota("rpd", 1e9, WINDOW_S, slots=10)
    tracemalloc.start()
    try:
        for step in range(50_000):
            now = step * 20 * WINDOW_S / 50_000
            assert quota.ready_at(1.0, now) == now
            quota.acquire(1.0, now)
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept_bytes < 8_000
