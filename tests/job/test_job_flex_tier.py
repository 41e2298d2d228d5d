"""The flex tier: who asks for it, and what happens where it has no capacity."""

from math import inf

import pytest

from llmblast.job.flex_tier import FlexTier
from llmblast.models import Attempt, Reply, Request, Terms
from llmblast.scheduling.flex_capacity import NEAR_S
from llmblast.sending import Action, Verdict
from tests.scheduling.scheduling_samples import make_endpoint

NOW_S = 1_000_000.0
ENDPOINT = make_endpoint()
FULL = Verdict(Action.PUSH_BACK, "HTTP 429: Flex has no resources", "resource_unavailable")


def make_tier(max_wait_s: float = 900.0) -> tuple[FlexTier, list[str]]:
    said: list[str] = []
    return FlexTier(lambda request: 1, lambda: NOW_S, max_wait_s, said.append, lambda: 1.0), said


def make_attempt(left_s: float = inf, *, is_deferred: bool = True) -> Attempt:
    terms = Terms(is_deferred=is_deferred, deadline_s=NOW_S + left_s)
    return Attempt(Request(1, "0" * 16, b"{}", 1, body=b"{}", terms=terms))


@pytest.mark.parametrize(
    ("attempt", "expected"),
    [
        pytest.param(make_attempt(), 1, id="deferred"),
        pytest.param(make_attempt(is_deferred=False), 0, id="immediate"),
        pytest.param(make_attempt(3600.0), 1, id="much time"),
        pytest.param(make_attempt(NEAR_S - 1), 0, id="deadline near"),
    ],
)
def test_lines_that_can_wait_ask_for_it(attempt: Attempt, expected: int) -> None:
    """It may take a quarter of an hour."""
    make_tier()[0].mark(attempt)

    assert attempt.flex_at == expected


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (429, FULL),
        (498, Verdict(Action.RETRY, "HTTP 498: over capacity", "capacity_exceeded")),
        (503, Verdict(Action.PUSH_BACK, "HTTP 503: try again later", "UNAVAILABLE")),
    ],
)
def test_without_capacity_a_line_waits_ever_longer_and_then_goes_in_the_standard_tier(
    status: int, verdict: Verdict
) -> None:
    """Each provider has its own words for it."""
    tier, _ = make_tier(max_wait_s=20.0)
    endpoint, attempt = make_endpoint(), make_attempt()
    tier.mark(attempt)

    waits = [tier.on_refusal(attempt, endpoint, Reply(status), verdict, 0.0) for _ in range(5)]

    assert waits == [1.0, 2.0, 4.0, 8.0, 0.0]
    assert attempt.flex_at == 0


def test_a_line_tries_again_soon_while_others_are_answered() -> None:
    """There is some capacity."""
    tier, _ = make_tier()
    endpoint, attempt = make_endpoint(), make_attempt()
    tier.mark(attempt)
    waits = []
    for _ in range(5):
        waits.append(tier.on_refusal(attempt, endpoint, Reply(429), FULL, 0.0))
        assert endpoint.flex is not None
        endpoint.flex.on_answer()

    assert waits == [1.0] * 5


def test_near_its_deadline_a_line_goes_in_the_standard_tier_at_once() -> None:
    """There is no time for another try."""
    tier, _ = make_tier()
    attempt = make_attempt(NEAR_S + 0.5)
    tier.mark(attempt)

    assert tier.on_refusal(attempt, ENDPOINT, Reply(429), FULL, 0.0) == 0.0
    assert attempt.flex_at == 0


def test_where_the_model_has_no_such_tier_that_is_said_once_and_no_line_asks_again() -> None:
    """The line itself is not to blame."""
    tier, said = make_tier()
    attempt, other, later = make_attempt(), make_attempt(), make_attempt()
    tier.mark(attempt)
    tier.mark(other)
    verdict = Verdict(Action.REFUSED, "HTTP 400: Invalid service_tier argument", "invalid_request_error")

    assert tier.on_refusal(attempt, ENDPOINT, Reply(400), verdict, 0.0) == 0.0
    assert tier.on_refusal(other, ENDPOINT, Reply(400), verdict, 0.0) == 0.0
    tier.mark(later)

    assert (attempt.flex_at, other.flex_at, later.flex_at) == (0, 0, 0)
    assert len(said) == 1
    assert "no flex tier" in said[0]


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (429, Verdict(Action.PUSH_BACK, "HTTP 429: Rate limit reached for requests", "rate_limit_exceeded")),
        (400, Verdict(Action.REFUSED, "HTTP 400: too many tokens", "context_length_exceeded")),
        (500, Verdict(Action.RETRY, "HTTP 500: unavailable", "server_error")),
    ],
)
def test_other_refusals_are_what_they_are_in_the_standard_tier(status: int, verdict: Verdict) -> None:
    """A rate limit holds for both."""
    tier, _ = make_tier()
    attempt = make_attempt()
    tier.mark(attempt)

    assert tier.on_refusal(attempt, ENDPOINT, Reply(status), verdict, 0.0) is None
    assert attempt.flex_at == 1
