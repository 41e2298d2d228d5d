"""Lanes: who goes next, and what they hold."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmblast.records import Request
from llmblast.scheduling import Lanes
from tests.scheduling.scheduling_samples import drain, make_request

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["immediate", "deferred"]), st.just(0.0)),
        st.tuples(st.just("retry"), st.integers(0, 20).map(float)),
        st.tuples(st.just("pop"), st.integers(0, 20).map(float)),
    ),
    max_size=60,
)


def test_due_retries_go_before_immediate_before_deferred() -> None:
    """Whatever came first."""
    lanes = Lanes()
    lanes.add(make_request(1, deferred=True))
    lanes.add(make_request(2))
    lanes.add_retry(make_request(3), due_s=5.0)

    assert drain(lanes, 5.0) == [3, 2, 1]


def test_a_retry_that_is_not_due_holds_nobody_up() -> None:
    """It is not even seen."""
    lanes = Lanes()
    lanes.add_retry(make_request(1), due_s=5.0)
    lanes.add(make_request(2))

    assert drain(lanes, 4.9) == [2]
    assert len(lanes) == 1
    assert lanes.next_due_s(0.0) == 5.0


def test_equals_go_in_the_order_in_which_they_came() -> None:
    """Retries of one moment too, which have nothing else to compare them by."""
    lanes = Lanes()
    for number in (1, 2, 3):
        lanes.add_retry(make_request(number), due_s=5.0)
        lanes.add(make_request(number + 10))
        lanes.add(make_request(number + 20, deferred=True))

    assert drain(lanes, 5.0) == [1, 2, 3, 11, 12, 13, 21, 22, 23]


def test_retries_go_by_due_time() -> None:
    """Not by the order in which they failed."""
    lanes = Lanes()
    lanes.add_retry(make_request(1), due_s=9.0)
    lanes.add_retry(make_request(2), due_s=4.0)

    assert lanes.next_due_s(0.0) == 4.0
    assert drain(lanes, 10.0) == [2, 1]
    assert lanes.next_due_s(0.0) == math.inf


def test_taking_from_empty_lanes_is_an_error() -> None:
    """A waiting retry is nothing to take either."""
    lanes = Lanes()
    lanes.add_retry(make_request(1), due_s=5.0)

    assert lanes.peek(0.0) is None
    with pytest.raises(IndexError):
        lanes.pop(0.0)
    assert len(lanes) == 1


@settings(deadline=None, max_examples=200)
@given(OPERATIONS)
def test_lanes_agree_with_a_plain_list(operations: list[tuple[str, float]]) -> None:
    """Any sequence of operations: the same head, the same length, the same bytes; pop takes what peek returned."""
    lanes = Lanes()
    model: list[tuple[tuple[int, float, int], Request]] = []
    for number, (kind, moment) in enumerate(operations, start=1):
        request = make_request(number, deferred=kind == "deferred")
        if kind == "retry":
            lanes.add_retry(request, moment)
            model.append(((0, moment, number), request))
        elif kind != "pop":
            lanes.add(request)
            model.append(((1 + request.deferred, 0.0, number), request))
        else:
            ready = [entry for entry in model if entry[0][1] <= moment]
            expected = min(ready, key=lambda entry: entry[0], default=None)
            assert lanes.peek(moment) is (expected[1] if expected else None)
            if expected:
                assert lanes.pop(moment) is expected[1]
                model.remove(expected)

        assert len(lanes) == len(model)
        assert lanes.size_bytes == sum(request.size_bytes for _, request in model)
