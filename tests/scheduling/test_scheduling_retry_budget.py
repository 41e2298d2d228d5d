"""Retry budget: out of the way while answers come, a brake when none do."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.scheduling import Kind, RequestQueue, SendOutcome
from llmblast.scheduling.health import FAILING_LINES
from llmblast.scheduling.retry_budget import RetryBudget
from tests.scheduling.scheduling_samples import answer, drain, end, make_attempt, make_endpoint

STEPS = st.lists(st.sampled_from(["send", "answer", "retry", "wait"]), max_size=400)


@given(STEPS)
def test_retries_are_never_more_than_what_was_earned(steps: list[str]) -> None:
    """A fifth of the sends, one for each answer, ten a second, and ten to begin with."""
    budget, now, counts = RetryBudget(), 1000.0, {"send": 0, "answer": 0, "retry": 0, "wait": 0}
    for step in steps:
        if step == "wait":
            now += 0.03
        elif step == "retry":
            if budget.ready_at(now) > now:
                continue
            budget.acquire()
        else:
            budget.earned += {"send": 0.2, "answer": 1.0}[step]
        counts[step] += 1

    earned = 0.2 * counts["send"] + counts["answer"] + 10 * 0.03 * counts["wait"]
    assert counts["retry"] <= 10 + earned + 1e-6


def test_the_next_moment_is_told_exactly() -> None:
    """Ten go at once, then one each tenth of a second."""
    budget = RetryBudget()
    moments = []
    now = 1000.0
    for _ in range(13):
        now = budget.ready_at(now)
        assert budget.ready_at(now) <= now
        budget.acquire()
        moments.append(now - 1000.0)

    assert moments == pytest.approx([0.0] * 10 + [0.1, 0.2, 0.3])


def test_what_failed_waits_for_its_budget_and_holds_up_nobody() -> None:
    """Twenty that failed are due: ten go, then what is new, and those that were turned away go before all."""
    queue = RequestQueue()
    for number in range(1, 21):
        queue.add_retry(make_attempt(number), 0.0, has_failed=True)
    queue.add(make_attempt(30))
    queue.add_retry(make_attempt(40), 0.0)

    assert drain(queue, 1000.0) == [40, *range(1, 11), 30]
    assert queue.next_due_s(1000.0) == pytest.approx(1000.08)
    assert drain(queue, 1001.1) == list(range(11, 21))
    assert queue.next_due_s(1001.1) == math.inf
    assert len(queue) == queue.size_bytes == 0


def test_lines_that_fail_in_a_row_take_an_endpoint_out_until_a_probe_is_answered() -> None:
    """Not one line that fails again and again."""
    endpoint = make_endpoint()
    for n in range(100):
        end(endpoint, Kind.FAILED, 0.0, float(n), is_first=n < FAILING_LINES - 1)
    assert endpoint.state(100.0) == ""

    end(endpoint, Kind.FAILED, 0.0, 100.0)
    assert endpoint.state(100.0).startswith("failing, ")
    assert endpoint.health.outage.ready_at(1.0, 100.0) == 101.0

    answer(endpoint, 101.0, 0.1)
    assert endpoint.state(101.0) == ""


def test_a_line_that_is_refused_shows_that_the_endpoint_works() -> None:
    """A 400 in between: no outage."""
    endpoint = make_endpoint()
    for n in range(5 * FAILING_LINES):
        end(endpoint, Kind.FAILED, float(n), n + 0.5)
        if n % 5 == 0:
            endpoint.on_outcome(make_attempt(sent_s=float(n)), SendOutcome(Kind.REFUSED, signature="400"), n + 0.5)

    assert not endpoint.health.outage.is_open


def test_answers_to_what_was_sent_before_do_not_hide_an_outage() -> None:
    """They still come in for a while, between the failures."""
    endpoint = make_endpoint()
    for n in range(FAILING_LINES):
        answer(endpoint, 90.0, 20.0)
        end(endpoint, Kind.FAILED, 100.0 + n, 100.5 + n)

    assert endpoint.health.outage.is_open


def test_lines_that_time_out_among_others_that_are_answered_are_no_outage() -> None:
    """A hundred of them, in a row when their time is over, and everything between them was answered long ago."""
    endpoint = make_endpoint()
    for n in range(100):
        answer(endpoint, n + 0.5, 0.1)
    for n in range(100):
        end(endpoint, Kind.FAILED, float(n), n + 200.0)

    assert not endpoint.health.outage.is_open


def test_sends_that_tell_nothing_do_not_hide_an_outage() -> None:
    """A hundred kept connections turn out closed, and each line that is sent again fails."""
    endpoint = make_endpoint()
    for n in range(100):
        endpoint.health.outage.acquire(1.0, n / 100)
        end(endpoint, Kind.INCONCLUSIVE if n % 10 else Kind.FAILED, n / 100, n / 100)

    assert endpoint.health.outage.is_open


def test_fast_errors_among_slow_answers_are_no_outage() -> None:
    """Of a hundred sent each second one fails at once; the first answer takes a minute."""
    endpoint = make_endpoint()
    for n in range(6000):
        endpoint.health.outage.acquire(1.0, n / 100)
        if n % 20 == 0:
            end(endpoint, Kind.FAILED, n / 100, n / 100)

    assert not endpoint.health.outage.is_open
