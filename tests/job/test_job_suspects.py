"""Suspects: which answers show that a refused line is to blame, and when nobody will show it any more."""

from llmblast.job.suspects import MAX_WAIT_S, Suspect, Suspects
from llmblast.models import NO_TOKENS, Attempt, Reply
from llmblast.scheduling import Endpoint
from llmblast.sending import Action, Verdict
from tests.scheduling.scheduling_samples import make_attempt, make_endpoint


def send(endpoint: Endpoint, number: int, now: float, model: str | None = None) -> Attempt:
    attempt = make_attempt(number, model=model, sent_s=now)
    endpoint.limits.acquire(NO_TOKENS, now)
    endpoint.record_send(attempt, now)
    return attempt


def bring_back(endpoint: Endpoint, attempt: Attempt, now: float) -> None:
    endpoint.record_return(attempt, now)
    endpoint.limits.release(NO_TOKENS, NO_TOKENS, now)


def refused(endpoint: Endpoint, number: int = 1, model: str | None = None, *others: Endpoint) -> Suspect:
    """A line sent at 10 s whose refusal came at 11 s."""
    attempt = send(endpoint, number, 10.0, model)
    bring_back(endpoint, attempt, 11.0)
    attempt.refused_by = endpoint.bit | sum(other.bit for other in others)
    return Suspect(attempt, endpoint, Reply(400), Verdict(Action.REFUSED, "no"), 11.0)


def test_an_answer_shows_it_where_it_was_sent_after_the_refusal() -> None:
    """What was sent before may have been let in before the account ran dry."""
    endpoint = make_endpoint()
    suspect = refused(endpoint)

    assert not suspect.is_shown_by(send(endpoint, 2, 10.5), endpoint)
    assert suspect.is_shown_by(send(endpoint, 3, 11.0), endpoint)


def test_an_answer_of_an_endpoint_that_has_not_refused_it_shows_nothing() -> None:
    """Each of those that have refused it may show it."""
    first, second, third = (make_endpoint(index) for index in range(3))
    suspect = refused(first, 1, None, second)

    assert [suspect.is_shown_by(send(e, 2, 12.0), e) for e in (first, second, third)] == [True, True, False]


def test_an_answer_for_another_model_shows_nothing() -> None:
    """A line that names no model is shown by any of them."""
    endpoint = make_endpoint()
    named, unnamed = refused(endpoint, 1, "a"), refused(endpoint, 2)

    other, same = send(endpoint, 3, 12.0, "b"), send(endpoint, 4, 12.0, "a")

    assert [named.is_shown_by(answered, endpoint) for answered in (other, same)] == [False, True]
    assert [unnamed.is_shown_by(answered, endpoint) for answered in (other, same)] == [True, True]


def test_it_is_left_alone_when_nothing_that_could_show_it_was_sent_for_some_seconds() -> None:
    """Not while a request of its model is in flight, however many of another there are."""
    endpoint = make_endpoint()
    suspect = refused(endpoint, 1, "a")
    assert not suspect.has_timed_out(11.0 + MAX_WAIT_S / 2)

    same = send(endpoint, 2, 12.0, "a")
    assert not suspect.has_timed_out(100.0)
    bring_back(endpoint, same, 100.0)
    send(endpoint, 3, 100.0, "b")

    assert suspect.has_timed_out(100.0)


def test_those_that_are_taken_are_gone() -> None:
    """The others stay."""
    suspects = Suspects()
    for number in (1, 2, 3):
        suspects.add(refused(make_endpoint(), number))

    taken = suspects.take(lambda suspect: suspect.attempt.request.number == 2)

    assert [suspect.attempt.request.number for suspect in taken] == [2]
    assert [suspect.attempt.request.number for suspect in suspects.take_all()] == [1, 3]
    assert not suspects
