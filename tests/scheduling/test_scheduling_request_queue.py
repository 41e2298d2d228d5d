"""Request queue: who goes next, and what it holds."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmblast.models import Attempt, Prompt, Request
from llmblast.scheduling import RequestQueue
from tests.scheduling.scheduling_samples import drain, make_attempt

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
    queue = RequestQueue()
    queue.add(make_attempt(1, deferred=True))
    queue.add(make_attempt(2))
    queue.add_retry(make_attempt(3), due_s=5.0)

    assert drain(queue, 5.0) == [3, 2, 1]


def test_a_retry_that_is_not_due_holds_nobody_up() -> None:
    """It is not even seen."""
    queue = RequestQueue()
    queue.add_retry(make_attempt(1), due_s=5.0)
    queue.add(make_attempt(2))

    assert drain(queue, 4.9) == [2]
    assert len(queue) == 1
    assert queue.next_due_s(0.0) == 5.0


def test_equals_go_in_the_order_in_which_they_came() -> None:
    """Retries of one moment too, which have nothing else to compare them by."""
    queue = RequestQueue()
    for number in (1, 2, 3):
        queue.add_retry(make_attempt(number), due_s=5.0)
        queue.add(make_attempt(number + 10))
        queue.add(make_attempt(number + 20, deferred=True))

    assert drain(queue, 5.0) == [1, 2, 3, 11, 12, 13, 21, 22, 23]


def test_retries_go_by_due_time() -> None:
    """Not by the order in which they failed."""
    queue = RequestQueue()
    queue.add_retry(make_attempt(1), due_s=9.0)
    queue.add_retry(make_attempt(2), due_s=4.0)

    assert queue.next_due_s(0.0) == 4.0
    assert drain(queue, 10.0) == [2, 1]
    assert queue.next_due_s(0.0) == math.inf


def test_taking_from_empty_queue_is_an_error() -> None:
    """A waiting retry is nothing to take either."""
    queue = RequestQueue()
    queue.add_retry(make_attempt(1), due_s=5.0)

    assert queue.peek(0.0) is None
    with pytest.raises(IndexError):
        queue.pop(0.0)
    assert len(queue) == 1


@settings(deadline=None, max_examples=200)
@given(OPERATIONS)
def test_queue_agree_with_a_plain_list(operations: list[tuple[str, float]]) -> None:
    """Any sequence of operations: the same head, the same length, the same bytes; pop takes what peek returned."""
    queue = RequestQueue()
    model: list[tuple[tuple[int, float, int], Attempt]] = []
    for number, (kind, moment) in enumerate(operations, start=1):
        attempt = make_attempt(number, deferred=kind == "deferred")
        if kind == "retry":
            queue.add_retry(attempt, moment)
            model.append(((0, moment, number), attempt))
        elif kind != "pop":
            queue.add(attempt)
            model.append(((1 + attempt.request.terms.is_deferred, 0.0, number), attempt))
        else:
            ready = [entry for entry in model if entry[0][1] <= moment]
            expected = min(ready, key=lambda entry: entry[0], default=None)
            assert queue.peek(moment) is (expected[1] if expected else None)
            if expected:
                assert queue.pop(moment) is expected[1]
                model.remove(expected)

        assert len(queue) == len(model)
        assert queue.size_bytes == sum(attempt.size_bytes for _, attempt in model)


@pytest.mark.parametrize(("content", "size_bytes"), [(None, 110), (Prompt("x", None, (), {}), 310)])
def test_media_that_are_kept_for_another_provider_count(content: Prompt | None, size_bytes: int) -> None:
    """The prompt holds them, and a second rendering does."""
    queue = RequestQueue()

    queue.add(Attempt(Request(1, "k", b"t" * 10, 1, body=b"b" * 100, content=content, image_bytes=100)))

    assert queue.size_bytes == queue.held_bytes == size_bytes
