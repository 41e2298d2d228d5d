"""What cannot make its deadline is told early, with the number of lines and what would help."""

import heapq
import re
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.job.deadlines import Deadlines, Forecast, Others, find_shortage
from llmblast.models import Terms
from llmblast.watching import Allowance, Counters, EndpointCounters

WALL_S = 1_800_000_000.0


class Run:
    """A run that finishes so many lines a second, on a clock that a test moves. Of these, `others_share` are lines
    without a deadline.
    """

    def __init__(self, per_s: float, run_deadline_s: float = inf, others_share: float = 0.0) -> None:
        self.others_share = others_share
        self.now = WALL_S
        self.per_s = per_s
        self.told: list[str] = []
        self.counters = Counters(endpoints=[EndpointCounters("e")])
        self.deadlines = Deadlines(self.counters, lambda: self.now)
        self.forecast = Forecast(
            self.deadlines,
            self.counters,
            lambda: Allowance(lines_per_s=per_s, paced_s=self.now - WALL_S),
            run_deadline_s,
            self.told.append,
            clock=lambda: self.now,
            wall_clock=lambda: self.now,
        )

    def go_on(self, seconds: float) -> None:
        for _ in range(round(seconds * 4)):
            self.now += 0.25
            self.counters.sent = self.counters.succeeded = round((self.now - WALL_S) * self.per_s)
            self.deadlines.finished = round(self.counters.succeeded * (1.0 - self.others_share))
            self.forecast.look()


def moore(deadlines: list[int], per_s: float) -> int:
    """The fewest lines that can be late, found line by line (Moore and Hodgson)."""
    kept: list[float] = []
    for deadline in sorted(deadlines):
        heapq.heappush(kept, 1.0)
        if len(kept) / per_s > deadline:
            heapq.heappop(kept)
    return len(deadlines) - len(kept)


@given(st.lists(st.integers(1, 30), max_size=80), st.sampled_from([1.0, 2.0, 4.0]))
def test_the_number_is_that_of_the_best_order(deadlines: list[int], per_s: float) -> None:
    """As found line by line."""
    steps = [(WALL_S + deadline, deadlines.count(deadline)) for deadline in set(deadlines)]

    shortage = find_shortage(steps, per_s, WALL_S)

    assert shortage.lines == moore(deadlines, per_s)
    assert (shortage.needed_per_s <= per_s) == (shortage.lines == 0)


@pytest.mark.parametrize(
    ("others", "lines", "needed_per_s", "done_s"),
    [
        (Others(), 0, 400 / 6, 4.0),
        (Others(1000, 40.0), 40, 640 / 6, 400 / 60),
        (Others(1000, 60.0), 100, 760 / 6, 8.0),
        (Others(1000, 100.0), 100, 800 / 6, 8.0),
        (Others(250, 90.0), 50, 650 / 6, 6.5),
        (Others(100, 90.0), 0, 500 / 6, 5.0),
    ],
)
def test_lines_without_a_deadline_take_their_part_and_at_most_half(
    others: Others, lines: int, needed_per_s: float, done_s: float
) -> None:
    """Of 100 a second, beside 400 lines that are due in 6 s; no more than are left."""
    shortage = find_shortage([(WALL_S + 6, 400)], 100.0, WALL_S, others)

    assert shortage.lines == lines
    assert shortage.needed_per_s == pytest.approx(needed_per_s)
    assert shortage.done_s - WALL_S == pytest.approx(done_s)


def test_lines_without_a_deadline_count_from_a_tenth_of_the_time_on() -> None:
    """A burst of them at the start may end soon. 1,200 lines for 200 s have half of 10 a second beside others."""
    run = Run(10.0, others_share=0.5)
    run.deadlines.on_read(Terms(True, deadline_s=WALL_S + 200), lines=1200)

    run.go_on(19)
    early = list(run.told)
    run.go_on(3)

    assert early == []
    assert len(run.told) == 1
    assert " cannot be answered in time at 10.0/s, of which lines without a deadline take " in run.told[0]


def test_lines_without_a_deadline_that_are_soon_through_are_no_reason() -> None:
    """100 of them and 600 with a deadline are less than 10 a second."""
    run = Run(10.0, others_share=0.5)
    run.counters.lines_read, run.counters.input_ended = 700, True
    run.deadlines.on_read(Terms(True, deadline_s=WALL_S + 100), lines=600)

    for _ in range(20):
        run.go_on(1)
        for _ in range(5):
            run.deadlines.on_end(Terms(True, deadline_s=WALL_S + 100), is_answered=True)

    assert run.told == []


def test_lines_that_cannot_be_in_time_are_told_once_with_what_would_help() -> None:
    """1,200 lines for 100 s at 10 a second; then again when there are twice as many."""
    run = Run(10.0)
    run.deadlines.on_read(Terms(True, deadline_s=WALL_S + 100), lines=1200)
    run.go_on(40)
    first = list(run.told)
    run.deadlines.on_read(Terms(True, deadline_s=WALL_S + 100), lines=900)
    run.go_on(10)

    assert len(first) == 1
    assert "lines cannot be answered in time at 10.0/s: " in first[0]
    assert "/s would be enough, by higher limits or more endpoints; or give them until " in first[0]
    assert len(run.told) == 2


def test_a_later_deadline_of_other_lines_delays_no_message() -> None:
    """180 lines for 8 s at 10 a second are told in the first half of these 8 s."""
    run = Run(10.0, WALL_S + 8)
    run.deadlines.on_read(Terms(True, deadline_s=WALL_S + 8), lines=180)
    run.deadlines.on_read(Terms(True, deadline_s=WALL_S + 7200), lines=20)

    run.go_on(4)

    assert len(run.told) == 1
    assert re.search(r"^\d+ lines cannot be answered by \d\d:\d\d:\d\d at 10.0/s: ", run.told[0])


def test_what_can_be_in_time_is_not_told() -> None:
    """At 80 % load, say."""
    run = Run(10.0)
    run.deadlines.on_read(Terms(True, deadline_s=WALL_S + 100), lines=800)

    for _ in range(90):
        run.go_on(1)
        for _ in range(8):
            run.deadlines.on_end(Terms(True, deadline_s=WALL_S + 100), is_answered=True)

    assert run.told == []
    assert run.counters.late == 0


def test_lines_that_are_not_read_yet_have_the_deadline_of_the_run() -> None:
    """As far as the size of the input tells their number."""
    run = Run(10.0, WALL_S + 100)
    counters = run.counters
    counters.input_bytes, counters.bytes_read, counters.lines_read = 200_000, 10_000, 100

    run.go_on(20)

    assert len(run.told) == 1
    assert " cannot be answered by " in run.told[0]


@pytest.mark.parametrize(("seconds", "late"), [(9, 0), (11, 1)])
def test_an_answer_after_its_deadline_is_late(seconds: float, late: int) -> None:
    """A line without an answer is not."""
    run = Run(1.0)
    terms = Terms(deadline_s=WALL_S + 10)
    run.deadlines.on_read(terms, lines=2)
    run.now += seconds

    run.deadlines.on_end(terms, is_answered=True)
    run.deadlines.on_end(terms, is_answered=False)

    assert run.counters.late == late
    assert not run.deadlines.unfinished
