"""Rates, totals and the time that is left, by a clock that the test holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.watching.counters import Counters
from llmblast.watching.rate_meter import RateMeter
from llmblast.watching.rates import Pace, TotalLines, total_lines
from llmblast.watching.time_left import Allowance
from tests.watching.watching_helpers import FakeClock, endpoint


def test_the_rate_now_forgets_what_is_older_than_its_window() -> None:
    """A run that has slowed down shows it within seconds; the average remembers."""
    clock = FakeClock()
    meter = RateMeter(clock)
    total = 0
    for per_tick in [25] * 40 + [5] * 40:
        clock.advance(0.25)
        total += per_tick
        meter.feed(total)

    assert meter.now_per_s == pytest.approx(20)
    assert meter.average_per_s == pytest.approx(1200 / 20)


def test_the_rate_now_covers_the_last_tick_when_ticks_are_far_apart() -> None:
    """The plain display ticks less often than the window is long."""
    clock = FakeClock()
    meter = RateMeter(clock)
    for total in (1000, 1500):
        clock.advance(10)
        meter.feed(total)

    assert meter.now_per_s == pytest.approx(50)


def test_the_average_starts_when_the_total_begins_to_grow() -> None:
    """Reading what an earlier run finished takes time in which nothing is sent."""
    clock = FakeClock()
    meter = RateMeter(clock)
    for total in (0, 0, 100):
        clock.advance(10)
        meter.feed(total)

    assert meter.average_per_s == pytest.approx(10)


def test_no_time_means_no_rate() -> None:
    """A first tick at the very start divides by nothing."""
    meter = RateMeter(FakeClock())

    meter.feed(100)

    assert meter.now_per_s == 0
    assert meter.average_per_s == 0


@given(st.lists(st.floats(0, 0.3), min_size=1, max_size=20))
def test_the_memory_of_a_meter_does_not_depend_on_how_often_it_is_fed(steps: list[float]) -> None:
    """Constant memory, and a steady rate is still measured as what it is."""
    clock = FakeClock(0.0)
    meter = RateMeter(clock)
    for step in steps * 30:
        clock.advance(step)
        meter.feed(clock.now * 40)

    assert len(meter._samples) <= 50
    assert clock.now < 0.01 or meter.now_per_s == pytest.approx(40, rel=0.01)


@pytest.mark.parametrize(
    ("counters", "expected"),
    [
        (Counters(lines_read=100, bytes_read=1000, input_bytes=10_000), TotalLines(1000, False)),
        (Counters(lines_read=100, bytes_read=1000, input_bytes=10_000, input_ended=True), TotalLines(100, True)),
        (Counters(lines_read=100, bytes_read=2000, input_bytes=1000), TotalLines(100, False)),
        (Counters(lines_read=100, bytes_read=1000, input_bytes=10_000, lines_limit=500), TotalLines(500, False)),
        (Counters(lines_read=100, bytes_read=1000), None),
        (Counters(input_bytes=1000), None),
        (Counters(bytes_read=10, input_bytes=1000), None),
        (Counters(input_ended=True), TotalLines(0, True)),
    ],
    ids=["estimated", "exact", "file that shrank", "--limit", "pipe", "not begun", "blank lines", "empty"],
)
def test_the_total_is_estimated_by_size_until_the_input_has_ended(
    counters: Counters, expected: TotalLines | None
) -> None:
    """Lines read x size / bytes read, never less than what was read."""
    assert total_lines(counters) == expected


def test_the_eta_counts_only_lines_that_this_run_finishes() -> None:
    """Half a million skipped lines say nothing about the time that the others take."""
    clock = FakeClock()
    counters = Counters(lines_read=1100, input_ended=True)
    pace = Pace(counters, clock)
    clock.advance(10)
    counters.skipped, counters.succeeded, counters.failed = 500, 90, 10

    snapshot = pace.snapshot()

    assert snapshot.elapsed_s == 10
    assert snapshot.done == 600
    assert snapshot.eta_s == pytest.approx(50)


def test_a_snapshot_tells_requests_per_second_and_tokens_per_minute() -> None:
    """Tokens are limited per minute, so they are shown per minute."""
    clock = FakeClock()
    counters = Counters(endpoints=[endpoint("only")])
    pace = Pace(counters, clock)
    clock.advance(2)
    counters.sent = 100
    counters.endpoints[0].used.all.add(300, 0, 700)

    snapshot = pace.snapshot()

    assert snapshot.requests_per_s == pytest.approx(50)
    assert snapshot.average_per_s == pytest.approx(50)
    assert snapshot.tokens_per_min == pytest.approx(30_000)


@pytest.mark.parametrize(
    ("counters", "eta_s"),
    [
        (Counters(lines_read=10, input_ended=True), None),
        (Counters(lines_read=10, succeeded=10), None),
        (Counters(lines_read=10, bytes_read=10, input_bytes=10, succeeded=10), None),
        (Counters(lines_read=10, input_ended=True, succeeded=10), 0.0),
    ],
    ids=["nothing finished yet", "total not known", "estimate reached", "all done"],
)
def test_an_eta_is_only_told_when_something_says_how_long(counters: Counters, eta_s: float | None) -> None:
    """No division by zero and no false promise."""
    assert Pace(counters, FakeClock()).snapshot().eta_s == eta_s


def test_a_run_that_is_stopping_takes_as_long_as_what_is_in_flight() -> None:
    """Nothing more is sent: the other lines are left to the next run."""
    clock, allowance = FakeClock(), Allowance()
    counters = Counters(endpoints=[endpoint("gpu")], lines_read=10_000, input_ended=True, sent=10, in_flight=10)
    pace = Pace(counters, clock, lambda: allowance)
    for _ in range(40):
        clock.advance(0.25)
        pace.snapshot()
        if clock.now % 2 == 0:
            counters.sent += 10
            counters.succeeded += 10
            for _ in range(10):
                counters.endpoints[0].latency.add(2.0)
    before = pace.snapshot().eta_s

    allowance = Allowance(is_ending=True)

    assert before == pytest.approx(1990, rel=0.05)
    assert pace.snapshot().eta_s == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("is_ending", [False, True])
def test_no_line_takes_no_time(is_ending: bool) -> None:
    """A run that is stopped may be looked at when nothing is in flight any more."""
    clock = FakeClock()
    counters = Counters(endpoints=[endpoint("gpu1")], lines_read=100, input_bytes=1000, bytes_read=900)
    pace = Pace(counters, clock, lambda: Allowance(is_ending=is_ending))
    counters.sent = counters.succeeded = 50
    counters.endpoints[0].latency.add(0.5)
    clock.advance(4)
    pace.snapshot()
    clock.advance(4)

    assert (pace.snapshot().eta_s == 0.0) is is_ending
