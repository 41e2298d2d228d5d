"""What follows from replies, with what other lines meet as the evidence: each rule on a fake clock."""

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmblast.errors import ExitCode
from llmblast.job.suspects import MAX_WAIT_S
from llmblast.models import Request
from llmblast.scheduling import Endpoint
from llmblast.scheduling.refusals import FIRST_PROBES, MIN_ROW, PROBES
from tests.job.run_driver import Provider, Replied, Run, say

pytestmark = pytest.mark.no_cover  # long in itself, and coverage would make it four times as long

ODD = say(400, "not acceptable")
FORBIDDEN = say(403, "access denied")
NO_CREDIT = say(402, "payment required")
NO_MODEL = say(404, "model not found", code="model_not_found")
RATE_LIMIT = say(429, "slow down")
IN_HOURS = say(429, "used up", retry_after="36000")


def refuse(bad: set[int], reply: Replied = ODD, answer: Replied | None = None) -> Provider:
    return lambda request, endpoint, now: reply if request.number in bad else answer or Replied()


def from_send(run: Callable[[], Run], number: int, reply: Replied) -> Provider:
    """Answers all sends before that one, and replies so from then on."""
    return lambda request, endpoint, now: reply if len(run().sends) >= number else Replied()


def all_but(bad: set[int], lines: int) -> list[int]:
    return [number for number in range(1, lines + 1) if number not in bad]


@pytest.mark.parametrize("concurrency", [1, 4, 64])
@pytest.mark.parametrize("bad", [{1}, {1, 2, 3}, {50}, {100}, set(range(40, 55))])
def test_what_later_lines_do_not_meet_is_the_lines_own(concurrency: int, bad: set[int]) -> None:
    """It is sent once and fails; nothing else does."""
    run = Run(refuse(bad), concurrency=concurrency)

    run.run(100)

    assert (run.exit_code, run.answered, run.failed) == (None, all_but(bad, 100), sorted(bad))
    assert len(run.sends) == 100


def test_what_an_answer_shows_to_be_the_lines_own_is_not_tried_again_by_the_next_run() -> None:
    """What nothing shows is: a file may end with the account."""
    shown, unshown = Run(refuse({50}), concurrency=1), Run(refuse({100}), concurrency=1)

    shown.run(100)
    unshown.run(100)

    assert [failure.transient for failure in (*shown.failures, *unshown.failures)] == [False, True]


@pytest.mark.parametrize(("reply", "probes"), [(ODD, FIRST_PROBES), (FORBIDDEN, FIRST_PROBES), (NO_CREDIT, PROBES)])
def test_an_endpoint_that_never_answers_is_out_after_probes(reply: Replied, probes: int) -> None:
    """The second line with the same refusal makes it suspected. All lines stay pending."""
    run = Run(lambda request, endpoint, now: reply, concurrency=1)

    run.run(100)

    assert (run.exit_code, run.outcomes, len(run.sends)) == (ExitCode.REFUSED, [], 2 + probes)
    assert run.reason.startswith(f"all endpoints rejected the requests: e0: HTTP {reply.status}: ")


@pytest.mark.parametrize(("lines", "reply"), [(1, NO_CREDIT), (1, say(404, "not here")), (3, ODD)])
def test_a_short_file_that_an_endpoint_refuses_stays_pending(lines: int, reply: Replied) -> None:
    """Words decide for one line; two with the same refusal and no answer are enough."""
    run = Run(lambda request, endpoint, now: reply, concurrency=1)

    run.run(lines)

    assert (run.exit_code, run.outcomes) == (ExitCode.REFUSED, [])


@pytest.mark.parametrize("reply", [ODD, FORBIDDEN, NO_CREDIT])
@pytest.mark.parametrize("concurrency", [1, 4, 32])
def test_an_account_that_runs_dry_in_mid_run_loses_no_line(reply: Replied, concurrency: int) -> None:
    """Whatever was in flight when that happened."""
    run = Run(from_send(lambda: run, 50, reply), concurrency=concurrency)

    run.run(300)

    assert (run.exit_code, run.failed) == (ExitCode.REFUSED, [])
    assert len(run.sends) <= 50 + max(MIN_ROW, 2 * concurrency) + PROBES + 1


def test_refusals_that_are_quicker_than_answers_take_nothing_out() -> None:
    """Of 64 in flight some are refused within a millisecond, all others are answered after two seconds."""
    bad = set(range(3, 1000, 20))
    run = Run(refuse(bad, ODD, Replied(latency_s=2.0)), concurrency=64)

    run.run(1000)

    assert (run.exit_code, run.failed) == (None, sorted(bad))
    assert run.now - 1000.0 < 2.0 * 1000 / 64 + 10


def test_a_refused_line_goes_to_an_endpoint_that_takes_it() -> None:
    """One send at each, and no error record."""
    run = Run(
        lambda request, endpoint, now: ODD if request.number == 7 and endpoint.index == 0 else Replied(), [{}, {}]
    )
    other = Run(
        lambda request, endpoint, now: ODD if request.number == 7 and endpoint.index == 1 else Replied(), [{}, {}]
    )

    for each in (run, other):
        each.run(20)
        assert each.answered == list(range(1, 21))
    assert sorted(len(each.sends) for each in (run, other)) == [20, 21]


def test_a_line_that_all_endpoints_refuse_fails_once() -> None:
    """It is sent to each of them."""
    run = Run(refuse({7}), [{}, {}, {}])

    run.run(40)

    assert (run.failed, Counter(number for _, number, _ in run.sends)[7]) == ([7], 3)
    assert run.failures[0].attempts == 3


def test_lines_of_an_endpoint_that_is_out_are_answered_by_the_other() -> None:
    """None fails."""
    run = Run(lambda request, endpoint, now: NO_CREDIT if endpoint.index else Replied(), [{}, {}])

    run.run(100)

    assert (run.exit_code, len(run.answered)) == (None, 100)
    assert run.scheduler.endpoints[1].health.disabled == "HTTP 402: payment required"


@pytest.mark.parametrize("reply", [NO_CREDIT, ODD])
def test_two_endpoints_that_are_out_leave_all_lines_pending(reply: Replied) -> None:
    """Also those that both have refused before the second one was out."""
    run = Run(lambda request, endpoint, now: FORBIDDEN if endpoint.index else reply, [{}, {}])

    run.run(200)

    assert (run.exit_code, run.outcomes) == (ExitCode.REFUSED, [])


def test_a_line_in_a_quiet_pipe_is_decided_after_some_seconds() -> None:
    """No other line comes, and the input stays open."""
    run = Run(refuse({5}), concurrency=1)

    run.run(5, stays_open_s=60.0)

    assert run.failed == [5]
    assert run.now - 1000.0 == pytest.approx(MAX_WAIT_S, abs=1.0)


def test_a_line_whose_model_nobody_else_asks_for_is_decided_though_others_go_on() -> None:
    """Lines of another model show nothing of it."""
    run = Run(refuse({5}, FORBIDDEN), concurrency=1)

    run.run(1000, models=lambda number: "rare" if number == 5 else "usual")

    (failure,) = run.failures
    assert failure.line.number == 5
    assert run.ended_s[run.outcomes.index(failure)] - 1000.0 == pytest.approx(MAX_WAIT_S, abs=1.0)


def test_an_unknown_model_costs_only_its_own_lines() -> None:
    """Though its lines are the first, and many; some are sent, all fail, those of the other model are answered."""
    run = Run(lambda request, endpoint, now: NO_MODEL if request.model == "typo" else Replied(), concurrency=4)

    run.run(300, models=lambda number: "typo" if 20 < number <= 220 else "good")

    assert (run.exit_code, len(run.answered), len(run.failed)) == (None, 100, 200)
    assert sum(20 < number <= 220 for _, number, _ in run.sends) <= 20


def test_a_model_that_loses_its_access_costs_only_its_own_lines() -> None:
    """They are for the next run."""
    run = Run(
        lambda request, endpoint, now: FORBIDDEN if request.model == "a" and len(run.sends) > 60 else Replied(),
        concurrency=4,
    )

    run.run(300, models=lambda number: "ab"[number % 2])

    assert run.exit_code is None
    assert all(number % 2 == 0 for number in run.failed)
    assert all(failure.transient for failure in run.failures)
    assert len(run.answered) + len(run.failed) == 300


def test_a_missing_page_after_answers_is_tried_again() -> None:
    """And the line fails after its attempts, however quiet it is: one line is no row."""
    run = Run(refuse({300}, say(404, "not here")), concurrency=1, max_attempts=30)

    run.run(300)

    assert (run.exit_code, run.failed, run.failures[0].attempts) == (None, [300], 30)


# Rate limits.


@pytest.mark.parametrize("rps", [20.0, 1000.0])
def test_a_line_that_is_rejected_while_others_pass_fails(rps: float) -> None:
    """After `max_attempts` of them, and the next run tries it again."""
    run = Run(refuse({50}, RATE_LIMIT), concurrency=8, rps=rps)

    run.run(5000 if rps > 100 else 400)

    assert (run.exit_code, run.failed) == (None, [50])
    assert run.failures[0].transient
    assert 5 <= run.failures[0].attempts <= 12


@pytest.mark.parametrize("retry_after", ["", "6"])
def test_a_line_that_is_rejected_alone_at_the_end_fails(retry_after: str) -> None:
    """It does not keep the run waiting for `--max-wait`, and gets more time than the minute of a usual quota."""
    run = Run(refuse({50}, say(429, "slow down", retry_after=retry_after)), concurrency=1)

    run.run(50)

    assert (run.exit_code, run.failed) == (None, [50])
    assert (20 if retry_after else 60) < run.now - 1000.0 < 200


def test_a_moment_beyond_the_longest_wait_ends_the_run_at_once() -> None:
    """No line fails, and the moment is named."""
    run = Run(from_send(lambda: run, 30, IN_HOURS))

    run.run(100)

    assert (run.exit_code, run.failed) == (ExitCode.STOPPED, [])
    assert run.reason.startswith("e0: its rate limit lasts until ")
    assert run.now - 1000.0 < 10


def test_a_moment_beyond_the_end_of_the_run_ends_it_at_once() -> None:
    """The run has a minute, the provider names two."""
    run = Run(from_send(lambda: run, 30, say(429, "full", retry_after="120")))
    run.wait_limit.ends_s = run.now + 60

    run.run(100)

    assert (run.exit_code, run.failed) == (ExitCode.STOPPED, [])
    assert run.now - 1000.0 < 10


def test_rate_limit_replies_without_an_answer_end_the_run_after_the_longest_wait() -> None:
    """No moment is named."""
    run = Run(from_send(lambda: run, 30, RATE_LIMIT), max_wait_s=120.0)

    run.run(100)

    assert (run.exit_code, run.failed) == (ExitCode.STOPPED, [])
    assert run.reason == "e0: no request was accepted for 2 min 00 s: all met a rate limit (HTTP 429 or similar)"
    assert 120 < run.now - 1000.0 < 200


def test_a_model_whose_quota_is_used_up_leaves_its_lines_pending_and_holds_up_no_other() -> None:
    """Its lines are taken from the queue at once."""
    run = Run(lambda request, endpoint, now: IN_HOURS if request.model == "a" else Replied())

    run.run(100, models=lambda number: "ab"[number % 2])

    assert (run.exit_code, run.failed, len(run.answered)) == (None, [], 50)
    assert run.handler.counters.left_pending == 50
    assert run.line_ends.waits_for.startswith("the model a at e0: its rate limit lasts until ")
    assert run.now - 1000.0 < 15


def test_a_line_that_only_a_used_up_endpoint_would_take_stays_pending() -> None:
    """The other one has refused it, and answers all others."""

    def provider(request: Request, endpoint: Endpoint, now: float) -> Replied:
        if endpoint.index == 0:
            return IN_HOURS
        return ODD if request.number == 7 else Replied()

    run = Run(provider, [{}, {}])

    run.run(60)

    assert (run.exit_code, run.failed, run.handler.counters.left_pending) == (None, [], 1)
    assert run.line_ends.waits_for.startswith("e0: its rate limit lasts until ")


def test_a_failure_whose_wait_is_too_long_ends_the_line() -> None:
    """A 500 with `retry-after` of ten hours is no rate limit; the next run tries the line again."""
    run = Run(refuse({7}, say(500, "broken", retry_after="36000")))

    run.run(30)

    assert (run.failed, run.failures[0].transient) == ([7], True)
    assert run.now - 1000.0 < 5


REPLIES = [
    *([Replied(latency_s=latency_s) for latency_s in (0.001, 0.05, 2.0)] * 2),
    *(say(status, "no", latency_s) for status in (400, 401, 403, 404, 422, 429, 500) for latency_s in (0.001, 2.0)),
    say(400, "too long", code="context_length_exceeded"),
    say(400, "no", code="insufficient_quota"),
    say(404, "no", code="model_not_found"),
    say(429, "later", retry_after="3"),
    say(429, "much later", retry_after="36000"),
    say(503, "later", retry_after="1"),
    say(500, "broken", retry_after="36000"),
    Replied(body=b"<html>"),
]
replies = st.sampled_from(REPLIES)


@settings(deadline=None)  # some runs take thousands of events
@given(
    script=st.lists(replies, max_size=40),
    finally_=st.lists(replies, min_size=4, max_size=4),
    endpoints=st.integers(1, 3),
    models=st.integers(0, 3),
    lines=st.integers(1, 40),
    concurrency=st.sampled_from([1, 4, 32]),
    stays_open_s=st.sampled_from([0.0, 30.0]),
)
def test_every_line_ends_exactly_once_and_nothing_waits_for_ever(
    script: list[Replied],
    finally_: list[Replied],
    endpoints: int,
    models: int,
    lines: int,
    concurrency: int,
    stays_open_s: float,
) -> None:
    """Whatever is replied in whatever order, by several endpoints and for several models; in the end each of them goes
    on with one reply for ever. Lines stay pending only where the run says why, and it ends within bounded time.
    """
    left = list(script)

    def provider(request: Request, endpoint: Endpoint, now: float) -> Replied:
        if left:
            return left.pop()
        return finally_[(endpoint.index + (ord(request.model) if request.model else 0)) % 4]

    run = Run(provider, [{}] * endpoints, concurrency=concurrency, max_wait_s=60.0)

    run.run(lines, models=lambda number: "abc"[number % models] if models else None, stays_open_s=stays_open_s)

    ended = Counter([*run.answered, *run.failed])
    assert set(ended.values()) <= {1}
    pending = lines - len(ended)
    assert pending == 0 or run.exit_code is not None or run.handler.counters.left_pending == pending
    assert not run.scheduler.in_flight
    assert run.now - 1000.0 < lines * 5 * 30 + 1200  # an outage is probed every 30 s, which takes a line's attempts
