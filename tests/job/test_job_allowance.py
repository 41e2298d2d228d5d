"""What the limits are said to allow: of endpoints that are there, with what is learned, and per line."""

import math

import pytest

from llmblast.job.allowance import allowance_of, kept_for
from llmblast.scheduling import Rate, Scheduler
from llmblast.watching import Allowance, Counters, EndpointCounters
from tests.scheduling.scheduling_samples import make_scheduler

NOW = 1000.0


def allowed(scheduler: Scheduler, counters: Counters | None = None) -> Allowance:
    counters = counters or Counters(endpoints=[EndpointCounters(e.name) for e in scheduler.endpoints])
    return allowance_of(scheduler, counters, 0, NOW, lambda: 0.0)


def test_endpoints_add_up_to_what_the_run_allows() -> None:
    """The lesser of both counts."""
    assert allowed(make_scheduler([{"rps": 3}, {"rpm": 120}])).lines_per_s == pytest.approx(5, rel=0.02)
    assert allowed(make_scheduler([{"rps": 3}, {"rpm": 120}], rps=4)).lines_per_s == pytest.approx(4, rel=0.02)
    assert allowed(make_scheduler([{"rps": 3}, {}])).lines_per_s == math.inf


def test_an_endpoint_that_is_off_or_down_allows_nothing() -> None:
    """It does not take its share of the lines."""
    scheduler = make_scheduler([{"rps": 3}, {"rps": 4}, {"rps": 5}])
    scheduler.pool.disable(scheduler.endpoints[0], "HTTP 401")
    for seconds in (0, 2, 6):  # so that the next try is some seconds ahead
        scheduler.endpoints[1].health.breaker.trip(NOW - 6 + seconds)

    assert allowed(scheduler).lines_per_s == pytest.approx(5, rel=0.02)
    assert allowed(scheduler).blocked_s == 0


def test_a_run_whose_endpoints_are_all_down_is_blocked_until_the_first_is_tried_again() -> None:
    """Their rates count from then on."""
    scheduler = make_scheduler([{"rps": 4}, {"rps": 5}])
    for seconds in (0, 2, 6):
        scheduler.endpoints[0].health.breaker.trip(NOW - 6 + seconds)
    for seconds in (0, 2, 6, 6):
        scheduler.endpoints[1].health.breaker.trip(NOW - 6 + seconds)

    assert allowed(scheduler).blocked_s == 4
    assert allowed(scheduler).lines_per_s == pytest.approx(9, rel=0.02)


@pytest.mark.pure
def test_a_rate_that_was_learned_counts_as_one_that_was_set() -> None:
    """It holds the run back all the same."""

    class Learned(Rate):
        is_learned = True

    scheduler = make_scheduler([{"rps": 20}])
    scheduler.endpoints[0].limits.add(Learned("e0 learned rate", 2.0))

    assert allowed(scheduler).lines_per_s == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize(
    ("limits", "per_s"), [({"tpm": 6000}, 1.0), ({"itpm": 6000}, 2.0), ({"otpm": 600}, 0.2), ({"rps": 1}, 0.5)]
)
def test_limits_are_told_in_lines(limits: dict[str, float], per_s: float) -> None:
    """By the tokens and by the sends that a line took so far: 50 + 50 tokens, and each was sent twice."""
    scheduler = make_scheduler([{}], **limits)  # type: ignore[arg-type] # the names are those of Levels
    rows = [EndpointCounters("e0")]
    rows[0].used.all.add(500, 0, 500)
    counters = Counters(endpoints=rows, sent=20, succeeded=10)

    assert allowed(scheduler, counters).lines_per_s == pytest.approx(per_s, rel=0.02)


def test_a_token_limit_says_nothing_before_the_first_answer() -> None:
    """An estimate of the tokens may be off by far."""
    assert allowed(make_scheduler([{}], tpm=6000)).lines_per_s is None


def test_what_is_allowed_is_found_out_twice_a_second_at_most() -> None:
    """Several displays may ask for it at each tick."""
    made, now = list[Allowance](), [NOW]

    def make() -> Allowance:
        made.append(Allowance(finished_before=len(made)))
        return made[-1]

    get = kept_for(0.5, make, lambda: now[0])

    told = []
    for moment in (0.0, 0.25, 0.49, 0.5, 0.75, 1.1):
        now[0] = NOW + moment
        told.append(get().finished_before)
    assert told == [0, 0, 0, 1, 1, 2]
