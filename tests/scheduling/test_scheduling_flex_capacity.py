"""Flex capacity: what the refusals of some lines save the others."""

import time
from math import inf

from llmblast.models import NO_TOKENS, Attempt, Request, Terms
from llmblast.scheduling import FlexCapacity, Scheduler
from llmblast.scheduling.flex_capacity import ENOUGH, MAX_WAIT_S, MIN_REFUSALS, NEAR_S
from tests.scheduling.scheduling_samples import admit_all, make_attempt, make_scheduler

MAX_WAIT = 900.0
IN_FLIGHT = 20


def make_line(number: int, left_s: float = inf) -> Attempt:
    attempt = Attempt(
        Request(number, f"{number:016x}", b"{}", number, terms=Terms(True, deadline_s=time.time() + left_s))
    )
    attempt.flex_at = 1
    return attempt


class Run:
    """One endpoint whose flex tier answers at once: `capacity` requests of each crowd, refusals for the rest."""

    def __init__(self, lines: int = 500) -> None:
        self.now = 1000.0
        self.capacity = 0
        self.refused = self.answered = self.standard = 0
        self.scheduler: Scheduler = make_scheduler([{"concurrency": IN_FLIGHT}])
        for number in range(1, lines + 1):
            self.scheduler.queue.add(make_line(number))

    def go_on(self, seconds: float) -> "Run":
        """Send for some seconds, in steps of 0.1 s."""
        until_s = self.now + seconds
        while self.now < until_s:
            for place, (attempt, endpoint) in enumerate(admit_all(self.scheduler, self.now)):
                self.scheduler.release(attempt, endpoint, NO_TOKENS, self.now)
                if not attempt.flex_at:
                    self.standard += 1
                    continue
                if endpoint.flex is None:
                    endpoint.flex = FlexCapacity(MAX_WAIT)
                if place < self.capacity:
                    self.answered += 1
                    endpoint.flex.on_answer()
                else:
                    self.refused += 1
                    endpoint.flex.on_refusal(attempt.sent_s, self.now, 1.0)
                    self.scheduler.queue.add_retry(attempt, self.now + 1.0)
            self.now += 0.1
        return self


def test_without_capacity_all_lines_together_ask_now_and_then() -> None:
    """One crowd meets it, and then single requests: after 1, 2, 4, ... and 60 seconds."""
    run = Run().go_on(600.0)

    assert run.answered == run.standard == 0
    assert run.refused <= IN_FLIGHT + 6 + 600.0 / MAX_WAIT_S


def test_all_lines_go_soon_after_there_is_capacity_again() -> None:
    """The next one that asks is followed by two, by four and so on."""
    run = Run().go_on(10.0)
    run.capacity = IN_FLIGHT

    run.go_on(12.0)

    assert run.answered == 500


def test_a_tier_with_little_capacity_is_not_met_by_crowds() -> None:
    """It answers what it can, and refuses hardly more."""
    run = Run(lines=5000)
    run.capacity = 3

    run.go_on(60.0)

    assert run.answered > 150
    assert run.refused < 1.2 * run.answered


def test_single_refusals_hold_no_other_line() -> None:
    """They say no more than that there was no room at that moment."""
    capacity = FlexCapacity(MAX_WAIT)
    for _ in range(MIN_REFUSALS - 1):
        capacity.on_refusal(0.0, 1.0, 1.0)
    assert capacity.ready_at(1.0) == 1.0
    capacity.on_answer()
    capacity.on_refusal(0.0, 1.0, 1.0)

    assert capacity.ready_at(1.0) == 1.0


def test_the_refusals_of_one_crowd_count_as_one() -> None:
    """Else the first pause would be the longest."""
    capacity = FlexCapacity(MAX_WAIT)
    for _ in range(ENOUGH):
        capacity.on_refusal(0.0, 1.0, 1.0)

    assert capacity.ready_at(1.0) == 2.0


def test_lines_that_have_waited_too_long_go_in_the_standard_tier() -> None:
    """Also those that were never refused themselves."""
    run = Run().go_on(MAX_WAIT - 1.0)
    assert run.standard == 0

    run.go_on(10.0)

    assert run.standard >= 480


def test_a_line_whose_deadline_is_near_goes_in_the_standard_tier_at_once() -> None:
    """The others still wait."""
    run = Run().go_on(5.0)
    run.scheduler.queue.add(make_line(999, NEAR_S - 1))

    run.go_on(1.0)

    assert run.standard == 1


def test_other_lines_go_meanwhile() -> None:
    """Those that wait for the tier are put aside."""
    run = Run().go_on(5.0)
    run.scheduler.queue.add(make_attempt(999, deferred=True))

    run.go_on(0.3)

    assert run.standard == 1
