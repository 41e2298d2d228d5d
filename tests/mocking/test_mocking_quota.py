"""Several limits together, and what the headers say about them."""

import math

import pytest

from llmblast.mocking.quota import Quota, go_duration, retry_headers
from llmblast.mocking.settings import MockSettings


def test_a_request_that_one_limit_refuses_pays_none_of_them() -> None:
    """Otherwise refusals on tokens would use up the requests."""
    quota = Quota(MockSettings(rps=2, tpm=10))
    quota.admit(10, 0.0)
    refused = [quota.admit(10, 0.0) for _ in range(5)]

    headers = quota.headers(0.0)

    assert [rejection.kind for rejection in refused if rejection] == ["tokens"] * 5
    assert headers["x-ratelimit-remaining-requests"] == "1"


def test_the_limit_that_takes_longest_is_told() -> None:
    """A client that waits for the shorter one comes in vain."""
    quota = Quota(MockSettings(rps=1, rpm=1))
    quota.admit(1, 0.0)

    rejection = quota.admit(1, 0.25)

    assert rejection is not None
    assert rejection.wait_s == 59.75
    assert "(RPM): Limit 1, Requested 1. Please try again in 59.75s." in rejection.message


def test_the_headers_tell_the_tightest_limit_on_requests() -> None:
    """All names are there, with the values of the limit that has least left."""
    quota = Quota(MockSettings(rps=5, rpm=120, tpm=1000))
    quota.admit(40, 0.0)

    headers = quota.headers(0.5)

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
    rejection = Quota(MockSettings(tpm=10)).admit(11, 0.0)

    assert rejection is not None
    assert not rejection.can_fit
    assert rejection.wait_s == math.inf
    assert rejection.message.startswith("Request too large on tokens per min (TPM): Limit 10, Requested 11.")


def test_a_bucket_holds_the_burst_in_requests_and_a_minute_in_tokens() -> None:
    """The burst counts requests, so it says nothing about tokens."""
    quota = Quota(MockSettings(rps=1, tpm=600, burst=3, window="bucket"))

    verdicts = [quota.admit(100, 0.0) for _ in range(4)]

    assert [verdict is None for verdict in verdicts] == [True, True, True, False]


def test_without_limits_there_is_nothing_to_tell() -> None:
    """No limit, no header."""
    quota = Quota(MockSettings())

    assert not quota.has_limits
    assert quota.headers(0.0) == {}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.012, "12ms"),
        (0.0121, "13ms"),
        (0.9999, "1s"),
        (1.2, "1.2s"),
        (20, "20s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
        (3723.5, "1h2m3.5s"),
    ],
)
def test_durations_have_the_form_of_the_real_headers(seconds: float, text: str) -> None:
    """Rounded up to milliseconds."""
    assert go_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(1, "1"), (0.0201, "0.021"), (10, "10"), (1234.5, "1234.5"), (1e-9, "0.001")]
)
def test_retry_after_is_rounded_up(seconds: float, text: str) -> None:
    """Nobody is told to come too early."""
    assert retry_headers(seconds) == {"retry-after": text}
