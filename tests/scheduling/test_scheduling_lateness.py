"""Requests at a high rate that leave later than they were admitted: the schedule moves with them, and only once."""

import heapq
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmblast.models import Attempt
from llmblast.scheduling import Endpoint, Scheduler
from tests.scheduling.scheduling_samples import admit_all, make_scheduler, most_within

pytestmark = pytest.mark.no_cover  # long in itself, and coverage would make it four times as long

START_S = 1000.0
LATENESS = st.floats(0, 0.05)


def admit_one(scheduler: Scheduler, now: float) -> tuple[Attempt, Endpoint]:
    admitted = scheduler.next(now)
    assert admitted is not None
    return admitted


def ready_s(scheduler: Scheduler, now: float) -> float:
    """When the next one may go, by the endpoint's and the run's limits together."""
    assert scheduler.next(now) is None
    return scheduler.wake_at


@pytest.mark.parametrize("level", ["run", "endpoint"])
def test_a_late_one_moves_the_schedule_of_its_level(level: str) -> None:
    """Five hundred a second, 40 ms late: the next one goes 40 ms later than it would have."""
    scheduler = make_scheduler([{}], 9, rps=500) if level == "run" else make_scheduler([{"rps": 500}], 9)
    attempt, endpoint = admit_one(scheduler, START_S)
    before_s = ready_s(scheduler, START_S)
    scheduler.on_delayed_send(attempt, endpoint, START_S + 0.04)

    assert ready_s(scheduler, START_S + 0.04) == pytest.approx(before_s + 0.04)


def test_those_that_were_late_together_move_the_schedule_once_by_the_latest() -> None:
    """Three some milliseconds apart, late by 30, 60 and 45 ms; the order in which they leave does not matter."""
    scheduler = make_scheduler([{"rps": 500}], 9, rps=500)
    crowd, now = [], START_S
    for late_s in (0.03, 0.06, 0.045):
        crowd.append((now + late_s, admit_one(scheduler, now)))
        now = before_s = ready_s(scheduler, now)
    for left_s, (attempt, endpoint) in sorted(crowd, key=lambda late: late[0]):
        scheduler.on_delayed_send(attempt, endpoint, left_s)

    assert ready_s(scheduler, START_S + 0.07) == pytest.approx(before_s + 0.06)


@pytest.mark.parametrize(("late_s", "further_s"), [(0.02, 0.0), (0.04, 0.0), (0.06, 0.02)])
def test_in_one_second_the_schedule_moves_by_the_latest_and_no_further(late_s: float, further_s: float) -> None:
    """The first is late by 40 ms; what was admitted after that move needs only what goes beyond it."""
    scheduler = make_scheduler([{"rps": 500}], 9)
    first = admit_one(scheduler, START_S)
    scheduler.on_delayed_send(*first, START_S + 0.04)
    second_s = ready_s(scheduler, START_S + 0.04)
    second = admit_one(scheduler, second_s)
    before_s = ready_s(scheduler, second_s)
    scheduler.on_delayed_send(*second, second_s + late_s)

    assert ready_s(scheduler, second_s) == pytest.approx(before_s + further_s)


def test_in_the_next_second_it_moves_again() -> None:
    """Who was late a second ago makes no room for who is late now."""
    scheduler = make_scheduler([{"rps": 500}], 9)
    first = admit_one(scheduler, START_S)
    scheduler.on_delayed_send(*first, START_S + 0.04)
    second_s = START_S + 1.04
    second = admit_all(scheduler, second_s)[-1]
    before_s = ready_s(scheduler, second_s)
    scheduler.on_delayed_send(*second, second_s + 0.02)

    assert ready_s(scheduler, second_s) == pytest.approx(before_s + 0.02)


@pytest.mark.parametrize(("late_s", "is_fresh"), [(0.003, True), (0.05, False)])
def test_what_the_pace_makes_up_for_moves_nothing(late_s: float, is_fresh: bool) -> None:
    """Some milliseconds, or a stall of this process, which holds those behind it up as well."""
    scheduler = make_scheduler([{"rps": 500}], 9)
    attempt, endpoint = admit_one(scheduler, START_S)
    before_s = ready_s(scheduler, START_S)
    scheduler.on_delayed_send(attempt, endpoint, START_S + late_s, is_fresh=is_fresh)

    assert ready_s(scheduler, START_S) == pytest.approx(before_s)


def test_one_that_leaves_on_time_moves_nothing() -> None:
    """Nor does one that is less late than the schedule was moved since."""
    scheduler = make_scheduler([{"rps": 500}], 9, rps=500)
    first = admit_one(scheduler, START_S)
    second_s = ready_s(scheduler, START_S)
    second = admit_one(scheduler, second_s)
    before_s = ready_s(scheduler, second_s)
    scheduler.on_delayed_send(*first, START_S)
    unmoved_s = ready_s(scheduler, second_s)
    scheduler.on_delayed_send(*first, START_S + 0.05)
    scheduler.on_delayed_send(*second, second_s + 0.05)

    assert unmoved_s == before_s
    assert ready_s(scheduler, second_s + 0.05) == pytest.approx(before_s + 0.05)


def test_what_has_no_rate_is_not_moved() -> None:
    """Slots and pauses know no schedule."""
    scheduler = make_scheduler([{"concurrency": 2}], 2, concurrency=2)
    attempt, endpoint = admit_one(scheduler, START_S)
    scheduler.on_delayed_send(attempt, endpoint, START_S + 5.0)

    assert len(admit_all(scheduler, START_S)) == 1


def departures(scheduler: Scheduler, lateness_of: Callable[[int], float], *, is_fresh: bool = True) -> list[float]:
    """Moments at which all that is queued leaves, when the n-th line leaves so late after its admission."""
    now, order, left = START_S, 0, []
    leaving: list[tuple[float, int, Attempt, Endpoint]] = []
    while scheduler.queue or leaving:
        for attempt, endpoint in admit_all(scheduler, now):
            order += 1
            heapq.heappush(leaving, (now + lateness_of(attempt.request.number), order, attempt, endpoint))
        if leaving and leaving[0][0] <= scheduler.wake_at:
            now, _, attempt, endpoint = heapq.heappop(leaving)
            left.append(now)
            if now > attempt.sent_s:
                scheduler.on_delayed_send(attempt, endpoint, now, is_fresh=is_fresh)
        else:
            now = scheduler.wake_at
    return left


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from([500, 700, 1000]),
    st.sampled_from(["run", "endpoint", "both"]),
    st.lists(LATENESS, min_size=1, max_size=60),
    st.integers(1, 120),
    st.booleans(),
)
def test_departures_never_exceed_the_rate_however_late_some_are(
    per_second: int, level: str, lateness: list[float], first: int, is_fresh: bool
) -> None:
    """Each of a stretch is late by up to 50 ms, those before and after it leave at once."""
    endpoint_rps = {"rps": float(per_second)} if level != "run" else {}
    run_rps = {"rps": float(per_second)} if level != "endpoint" else {}
    scheduler = make_scheduler([endpoint_rps], first + len(lateness) + 2 * per_second, **run_rps)  # type: ignore[list-item, arg-type]  # rps only
    late = dict(enumerate(lateness, start=first))

    moments = departures(scheduler, lambda number: late.get(number, 0.0), is_fresh=is_fresh)

    assert moments == sorted(moments)
    assert most_within(moments, 1.0) <= per_second


def test_lateness_costs_no_more_than_the_latest() -> None:
    """Fifty in a row are late by 50 ms, as when a pool of connections is opened: the run ends 50 ms later."""
    on_time = departures(make_scheduler([{"rps": 500}], 500), lambda number: 0.0)
    late = departures(make_scheduler([{"rps": 500}], 500), lambda number: 0.05 if 20 <= number < 25 else 0.0)

    assert 0.045 < late[-1] - on_time[-1] < 0.05 + 1e-6


def test_a_pool_of_connections_costs_what_the_latest_costs_each_second() -> None:
    """Every other one of 2,500 opens a connection and is late by 30 ms: 5 s become longer by 30 ms for each second."""
    on_time = departures(make_scheduler([{"rps": 500}], 2500), lambda number: 0.0)
    late = departures(make_scheduler([{"rps": 500}], 2500), lambda number: 0.03 * (number % 2))

    assert late[-1] - on_time[-1] <= 7 * 0.03
