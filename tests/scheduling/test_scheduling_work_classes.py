"""Classes of work: who goes next among immediate, urgent and deferred lines, with priorities and deadlines."""

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmblast.models import IMMEDIATE, Attempt, Terms
from llmblast.scheduling import RequestQueue
from tests.scheduling.class_simulation import line
from tests.scheduling.scheduling_samples import drain

DEFERRED = Terms(is_deferred=True)
TERMS = st.builds(
    Terms,
    st.booleans(),
    st.sampled_from([-1, 0, 0, 0, 7]),
    st.sampled_from([inf, inf, 100.0, 200.0, 300.0]),
)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.one_of(st.just(IMMEDIATE), TERMS), st.just(0.0)),
        st.tuples(st.just("retry"), TERMS, st.integers(0, 20).map(float)),
        st.tuples(st.just("next"), TERMS, st.just(0.0)),
        st.tuples(st.just("pop"), st.just(IMMEDIATE), st.integers(0, 20).map(float)),
        st.tuples(st.just("park"), st.just(IMMEDIATE), st.integers(0, 20).map(float)),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=400)
@given(OPERATIONS)
def test_the_queue_agrees_with_a_sorted_list(operations: list[tuple[str, Terms, float]]) -> None:
    """Class, then retries by due time, then what goes first, then priority, deadline and order."""
    queue = RequestQueue(deferred_floor=0.0, wall_clock=lambda: 0.0)
    model: list[tuple[tuple[float, ...], Attempt]] = []
    for number, (kind, terms, moment) in enumerate(operations, start=1):
        attempt = line(number, terms)
        if kind == "add":
            queue.add(attempt)
            model.append(((terms.is_deferred, 2, -terms.priority, terms.deadline_s, number), attempt))
        elif kind == "next":
            queue.add_next(attempt)
            model.append(((terms.is_deferred, 1, 0, -number), attempt))
        elif kind == "retry":
            queue.add_retry(attempt, moment)
            model.append(((terms.is_deferred, 0, moment, number), attempt))
        else:
            ready = [entry for entry in model if entry[0][1] or entry[0][2] <= moment]
            expected = min(ready, key=lambda entry: entry[0], default=None)
            assert queue.peek(moment) is (expected[1] if expected else None)
            if expected is not None:
                model.remove(expected)
                if kind == "pop":
                    assert queue.pop(moment) is expected[1]
                else:
                    queue.park(moment + 1, moment)
                    model.append(((expected[0][0], 0, moment + 1, number), expected[1]))

        assert len(queue) == len(model)
        assert bool(queue) == bool(model)
        assert queue.size_bytes == sum(attempt.size_bytes for _, attempt in model)
        for is_deferred in (False, True):
            mine = [attempt for _, attempt in model if attempt.request.terms.is_deferred is is_deferred]
            assert queue.size_of(is_deferred) == (len(mine), sum(attempt.size_bytes for attempt in mine))
        due = [key[2] for key, _ in model if not key[1]]
        assert queue.next_due_s(0.0) == min(due, default=inf)
    assert len(queue.deadlines) == sum(
        key[1] > 0 and attempt.request.terms.is_deferred and attempt.request.terms.deadline_s < inf
        for key, attempt in model
    )


def test_a_deferred_retry_goes_behind_a_fresh_immediate_line() -> None:
    """A retry keeps its class."""
    queue = RequestQueue()
    queue.add(line(1, DEFERRED))
    queue.peek(0.0)
    queue.add_retry(queue.pop(0.0), 1.0)
    queue.add(line(2))

    assert drain(queue, 1.0) == [2, 1]


def test_a_retry_after_a_failure_of_either_class_needs_the_budget() -> None:
    """Ten are free, the others wait for it."""
    queue = RequestQueue()
    for number in range(1, 16):
        queue.add_retry(line(number, DEFERRED if number % 2 else IMMEDIATE), 0.0, has_failed=True)

    assert drain(queue, 0.0) == [2, 4, 6, 8, 10, 12, 14, 1, 3, 5]


def test_what_cannot_make_its_deadline_goes_behind_what_can() -> None:
    """And before what has none; else one late line would make each one behind it late, too."""
    queue = RequestQueue(wall_clock=lambda: 0.0)
    for number, deadline_s in enumerate((10.0, 20.0, 30.0, inf), start=1):
        queue.add(line(number, Terms(is_deferred=True, deadline_s=deadline_s)))
    queue.lateness.expect(0.0, 12.0, 12.0)

    assert drain(queue, 0.0) == [2, 3, 1, 4]


def test_an_urgent_line_takes_turns_with_immediate_ones() -> None:
    """Neither waits for all of the other."""
    queue = RequestQueue(wall_clock=lambda: 0.0)
    for number in (1, 2, 3):
        queue.add(line(number))
        queue.add(line(number + 10, Terms(is_deferred=True, deadline_s=5.0)))
    queue.add(line(20, Terms(is_deferred=True, deadline_s=50.0)))
    queue.promote(5.1, 100, 0.0)

    assert drain(queue, 0.0) == [11, 1, 12, 2, 13, 3, 20]


def test_the_retry_of_an_urgent_line_is_urgent() -> None:
    """Its deadline is no later than before."""
    queue = RequestQueue(wall_clock=lambda: 0.0)
    queue.promote(5.1, 100, 0.0)
    queue.add(line(1))
    queue.add_retry(line(2, Terms(is_deferred=True, deadline_s=5.0)), 0.0)

    assert drain(queue, 0.0) == [2, 1]


def test_the_earliest_lines_are_promoted_whatever_their_priority_and_tenant() -> None:
    """No more of them than asked for."""
    queue = RequestQueue(wall_clock=lambda: 0.0)
    for number, (priority, tenant) in enumerate(((0, "a"), (-3, "b"), (0, "b"), (9, "a")), start=1):
        queue.add(line(number, Terms(True, priority, 10.0 - number, tenant)))
    queue.promote(8.1, 2, 0.0)
    queue.add(line(100))

    assert drain(queue, 0.0) == [4, 100, 3, 1, 2]


def test_the_floor_gives_deferred_lines_their_share_of_endless_immediate_ones() -> None:
    """Over minutes 5 %; a burst of immediate lines meets none of them."""
    queue = RequestQueue(deferred_floor=0.05)
    for number in range(1000):
        queue.add(line(number, DEFERRED))
    deferred = []
    for send in range(40_000):
        queue.add(line(send))
        queue.peek(send / 200)
        deferred.append(queue.pop(send / 200).request.terms.is_deferred)

    assert sum(deferred[:500]) == 0
    assert sum(deferred[20_000:]) == pytest.approx(1000 - sum(deferred[:20_000]), abs=1)


def test_without_a_floor_deferred_lines_wait_for_all_immediate_ones() -> None:
    """As long as there are any."""
    queue = RequestQueue(deferred_floor=0.0)
    queue.add(line(1, DEFERRED))
    for number in range(2, 3000):
        queue.add(line(number))

    assert drain(queue, 0.0)[-1] == 1


def test_a_probe_is_the_line_that_was_read_last_an_immediate_one_first() -> None:
    """Every endpoint is held back: the lines at the head lose nothing by it."""
    queue = RequestQueue()
    for number in (1, 2):
        queue.add(line(number, DEFERRED))
        queue.add(line(number + 10))
    queue.add_retry(line(20), 0.0)
    queue.is_probing = True

    assert drain(queue, 0.0) == [12, 11, 2, 1, 20]


def test_in_an_outage_lines_that_have_not_failed_go_before_those_that_have() -> None:
    """Also a deferred one before an immediate one."""
    queue = RequestQueue()
    queue.add_retry(line(1), 0.0, has_failed=True)
    queue.add(line(2, DEFERRED))
    queue.is_outage = True

    assert drain(queue, 0.0) == [2, 1]


def test_plain_lines_stay_in_one_deque() -> None:
    """However many were sent, and after others came between."""
    queue = RequestQueue()
    for number in range(5):
        queue.add(line(number))
    assert queue.is_plain
    queue.add(line(5, Terms(priority=3)))
    assert drain(queue, 0.0) == [5, 0, 1, 2, 3, 4]

    assert queue.is_plain
    queue.add(line(6))
    assert queue.size_of(is_deferred=False)[0] == 1
