"""Several limits together, and what the headers say about them."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmblast.mocking.limits import POLICIES
from llmblast.mocking.quota import Quota
from llmblast.mocking.settings import MockSettings


def test_a_request_that_one_limit_refuses_pays_none_of_them() -> None:
    """Otherwise refusals on tokens would use up the requests."""
    quota = Quota(MockSettings(rps=2, tpm=10))
    quota.admit(10, 0, 0.0)
    refused = [quota.admit(10, 0, 0.0) for _ in range(5)]

    headers = quota.headers(0.0, 0.0)

    assert [rejection.kind for rejection in refused if rejection] == ["tokens"] * 5
    assert headers["x-ratelimit-remaining-requests"] == "1"


def test_the_limit_that_takes_longest_is_told() -> None:
    """A client that waits for the shorter one comes in vain."""
    quota = Quota(MockSettings(rps=1, rpm=1))
    quota.admit(1, 0, 0.0)

    rejection = quota.admit(1, 0, 0.25)

    assert rejection is not None
    assert rejection.wait_s == 59.75
    assert "(RPM): Limit 1, Requested 1. Please try again in 59.75s." in rejection.message


def test_the_headers_tell_the_tightest_limit_on_requests() -> None:
    """All names are there, with the values of the limit that has least left."""
    quota = Quota(MockSettings(rps=5, rpm=120, tpm=1000))
    quota.admit(40, 0, 0.0)

    headers = quota.headers(0.5, 0.0)

    assert headers == {
        "x-ratelimit-limit-requests": "5",
        "x-ratelimit-remaining-requests": "4",
        "x-ratelimit-reset-requests": "500ms",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "960",
        "x-ratelimit-reset-tokens": "59.5s",
    }


def test_a_request_that_can_never_fit_is_told_so() -> None:
    """It is no matter of waiting."""
    rejection = Quota(MockSettings(tpm=10)).admit(11, 0, 0.0)

    assert rejection is not None
    assert rejection.wait_s == math.inf
    assert rejection.message.startswith("Request too large on tokens per min (TPM): Limit 10, Requested 11.")


def test_a_bucket_holds_the_burst_in_requests_and_a_minute_in_tokens() -> None:
    """The burst counts requests, so it says nothing about tokens."""
    quota = Quota(MockSettings(rps=1, tpm=600, burst=3, policy="token-bucket"))

    verdicts = [quota.admit(100, 0, 0.0) for _ in range(4)]

    assert [verdict is None for verdict in verdicts] == [True, True, True, False]


def test_without_limits_there_is_nothing_to_tell() -> None:
    """No limit, no header."""
    quota = Quota(MockSettings())

    assert not quota.has_limits
    assert quota.headers(0.0, 0.0) == {}


def remaining(quota: Quota, now: float, kind: str = "tokens") -> int:
    """What the headers say is left."""
    return int(quota.headers(now, 0.0)[f"x-ratelimit-remaining-{kind}"])


@pytest.mark.parametrize("policy", ["fixed", "sliding", "token-bucket"])
def test_usage_charges_the_output_when_the_reply_is_complete(policy: str) -> None:
    """It may go into debt, which holds the next request back."""
    quota = Quota(MockSettings(tpm=600, policy=policy))
    admitted = quota.admit(100, 4096, 0.0)
    after_the_prompt = remaining(quota, 0.0)
    quota.settle(700, 0.0)

    refused = quota.admit(1, 4096, 0.0)

    assert admitted is None
    assert after_the_prompt == 500
    assert remaining(quota, 0.0) == 0
    assert refused is not None
    assert refused.wait_s == pytest.approx({"fixed": 60, "sliding": 60, "token-bucket": 20.1}[policy])


def test_max_tokens_is_charged_at_once_and_not_given_back() -> None:
    """Whatever the reply used."""
    quota = Quota(MockSettings(tpm=1000, charge="max_tokens"))
    admitted = quota.admit(100, 400, 0.0)
    quota.settle(3, 0.0)

    refused = quota.admit(100, 401, 0.0)

    assert admitted is None
    assert remaining(quota, 0.0) == 500
    assert refused is not None
    assert refused.kind == "tokens"
    assert quota.admit(100, 400, 0.0) is None


def test_input_and_output_have_limits_of_their_own() -> None:
    """The prompt pays the one, the reply the other; a request without output does not mind the latter."""
    quota = Quota(MockSettings(itpm=100, otpm=50))
    longer_than_the_limit = quota.admit(60, 100, 0.0)
    quota.settle(50, 0.0)

    no_output_left, no_output_wanted = quota.admit(10, 10, 0.0), quota.admit(10, 0, 0.0)
    no_input_left = quota.admit(31, 0, 0.0)

    assert longer_than_the_limit is None
    assert no_output_left is not None
    assert no_output_left.kind == "output-tokens"
    assert no_output_wanted is None
    assert no_input_left is not None
    assert no_input_left.kind == "input-tokens"


def test_a_day_is_counted_whatever_the_policy() -> None:
    """Strictly even pacing holds for the second, not for the day."""
    quota = Quota(MockSettings(rpd=3, policy="leaky"))

    waits = [rejection and rejection.wait_s for rejection in (quota.admit(1, 0, 10.0 * step) for step in range(4))]

    assert waits == [None, None, None, 86_370]


def test_anthropics_headers_tell_each_kind_and_the_tightest() -> None:
    """Dates are on the wall clock."""
    quota = Quota(MockSettings(rpm=60, itpm=1000, otpm=500, headers="anthropic"))
    quota.admit(100, 10, 0.0)
    quota.settle(20, 0.0)

    headers = quota.headers(0.5, 1_735_689_600.0)

    assert headers == {
        f"anthropic-ratelimit-{name}": value
        for kind, limit, left in (
            ("requests", "60", "59"),
            ("tokens", "500", "480"),
            ("input-tokens", "1000", "900"),
            ("output-tokens", "500", "480"),
        )
        for name, value in (
            (f"{kind}-limit", limit),
            (f"{kind}-remaining", left),
            (f"{kind}-reset", "2025-01-01T00:01:00Z"),
        )
    }


def test_none_tells_nothing() -> None:
    """The limits hold all the same."""
    quota = Quota(MockSettings(rps=1, headers="none"))
    quota.admit(1, 0, 0.0)

    assert quota.headers(0.0, 0.0) == {}
    assert quota.admit(1, 0, 0.0) is not None


def test_without_retry_after_the_message_does_not_tell_either() -> None:
    """A client is left to find out."""
    quota = Quota(MockSettings(rps=1, tell_retry_after=False))
    quota.admit(1, 0, 0.0)

    rejection = quota.admit(1, 0, 0.0)

    assert rejection is not None
    assert rejection.message.endswith("Requested 1.")


@pytest.mark.parametrize("policy", ["fixed", "sliding", "token-bucket", "leaky", "quantised"])
def test_somebody_else_takes_a_share_from_their_moment_on(policy: str) -> None:
    """Asked for all of it, the quota gives the whole rate before and the rest of it afterwards."""
    quota = Quota(MockSettings(rps=64, policy=policy, stolen=0.5, stolen_after=10))
    moments = [step / 128 for step in range(1, 20 * 128)]

    passed = [now for now in moments if quota.admit(1, 0, now) is None]

    assert sum(5 <= now < 9 for now in passed) == pytest.approx(256, abs=2)
    assert sum(14 <= now < 18 for now in passed) == pytest.approx(128, abs=2)


def test_the_headers_tell_that_somebody_else_takes_a_share() -> None:
    """Less remains of an unchanged limit, although nobody here sends."""
    quota = Quota(MockSettings(rps=100, policy="sliding", stolen=0.5, stolen_after=3))
    quota.admit(1, 0, 0.0)

    assert remaining(quota, 2.5, "requests") == 100
    assert remaining(quota, 3.5, "requests") == 75
    assert remaining(quota, 9.0, "requests") == 50
    assert quota.headers(9.0, 0.0)["x-ratelimit-limit-requests"] == "100"


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(POLICIES)),
    st.sampled_from(["usage", "max_tokens"]),
    st.lists(st.tuples(st.integers(0, 200), st.integers(1, 40), st.integers(0, 40)), max_size=60),
)
def test_the_headers_never_promise_what_is_refused(policy: str, charge: str, steps: list[tuple[int, int, int]]) -> None:
    """As many requests as are told to remain are admitted at once, and no more; after the reset the quota is full."""
    quota = Quota(MockSettings(rps=8, tpm=48_000, policy=policy, burst=3, charge=charge))
    full = remaining(quota, 0.0, "requests")
    now = 0.0
    for gap, prompt, output in steps:
        now += gap / 64
        if quota.admit(prompt, 40, now) is None:
            quota.settle(output, now)
    left = remaining(quota, now, "requests")
    passed = sum(quota.admit(0, 0, now) is None for _ in range(left))
    beyond = quota.admit(0, 0, now)

    assert passed == left
    assert beyond is not None
    assert remaining(quota, now + 1.0, "requests") <= full
    assert remaining(quota, now + 20.0, "requests") == full
