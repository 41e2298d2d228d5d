"""Waits that an error names in its body."""

from email.utils import formatdate

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.http_time import MAX_WAIT_S
from llmblast.models import Reply, ReplyError
from llmblast.providers.reply_errors import read_error
from llmblast.providers.wait_hints import named_wait_s

NOW_S = 1_800_000_000.0
DATE = {b"Date": formatdate(NOW_S, usegmt=True).encode()}


def waited_s(body: object, headers: dict[bytes, bytes] = DATE) -> float | None:
    reply = Reply(429, headers, orjson.dumps(body))
    return named_wait_s(read_error(reply), reply, NOW_S)


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        (
            "Rate limit reached for m: Limit 200, Used 200, Requested 1. Please try again in 7m12s. Visit https://x",
            432.0,
        ),
        ("Please try again in 1m26.4s.", 86.4),
        ("Please try again in 350ms.", 0.35),
        ("Please try again in 20s. Contact us", 20.0),
        ("Please retry in 47.434392449s.", 47.434392449),
        ("Please retry after 86400 seconds. Please contact", 86_400.0),
        ("Your request exceeds the maximum usage size. Please retry after 20 seconds.", 20.0),
        ("Rate limit is exceeded. Try again in 30 seconds.", 30.0),
        ("Retry in 2 minutes", 120.0),
        ("try again in 1 hour", 3600.0),
        ("Try again in 1 hour, 2 minutes and 3 seconds", 3723.0),
        ("try again in 1h2m3s", 3723.0),
        ("wait for at least 5 sec", 5.0),
        ("Limit resets in 2 days", 172_800.0),
        ("No deployments available for selected model, Try again in 60 seconds. Passed model=m", 60.0),
        ("Please try again later.", None),
        ("retry after 3 attempts", None),
        ("30 requests in 60 seconds are allowed", None),
        ("gave up after waiting 30 seconds", None),
        ("Please try again in 5 moons", None),
        ("", None),
    ],
)
def test_a_wait_in_words(message: str, seconds: float | None) -> None:
    """A number and a unit behind the words that ask to wait."""
    assert waited_s({"error": {"message": message}}) == pytest.approx(seconds)


def retry_info(delay: object) -> object:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    return [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [{"@type": "Help"}, info]}}]


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        (retry_info("7s"), 7.0),
        (retry_info("7.5s"), 7.5),
        (retry_info("0s"), 0.0),
        (retry_info({"seconds": 7, "nanos": 0}), 7.0),
        (retry_info("soon"), None),
        (retry_info(None), None),
        ({"error": "Model x is currently loading", "estimated_time": 20.5}, 20.5),
        ({"detail": "Rate limit exceeded", "retry_after": 30}, 30.0),
        ({"error": {"message": "no", "retry_after": "30"}}, 30.0),
        ({"error": {"message": "no", "retryAfter": "2m"}}, 120.0),
        ({"error": {"message": "no", "retry_after_ms": 1500}}, 1.5),
        ({"message": "no", "retryAfterSeconds": 4}, 4.0),
        ({"error": {"message": "no", "retry_after": True}}, None),
        ({"error": {"message": "no", "retry_after": -3}}, 0.0),
        ({"error": {"message": "no", "retry_after": 1e300}}, MAX_WAIT_S),
        ({"error": {"message": "no", "retry_after": 2_592_000}}, 2_592_000.0),
    ],
)
def test_a_wait_in_a_member(body: object, seconds: float | None) -> None:
    """It goes before words; a month is believed."""
    assert waited_s(body) == seconds


def openrouter(reset: object, remaining: object = "0") -> object:
    headers = {"X-RateLimit-Limit": "50", "X-RateLimit-Remaining": remaining, "X-RateLimit-Reset": reset}
    return {"error": {"message": "free requests are used up", "code": 429, "metadata": {"headers": headers}}}


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        (openrouter(str(int((NOW_S + 36_000) * 1000))), 36_000.0),
        (openrouter(NOW_S + 36_000), 36_000.0),
        (openrouter("12"), 12.0),
        (openrouter(str(int((NOW_S - 5) * 1000))), 0.0),
        (openrouter(str(int((NOW_S + 36_000) * 1000)), remaining="3"), None),
        (openrouter("soon"), None),
        ({"error": {"message": "no", "metadata": {"headers": {"Retry-After": "9"}}}}, 9.0),
    ],
)
def test_a_wait_in_headers_that_a_router_passes_on(body: object, seconds: float | None) -> None:
    """A reset counts where nothing is left."""
    assert waited_s(body) == seconds


@pytest.mark.parametrize(
    "message",
    [
        "usage limit exceeded, resets at 2027-01-15T18:00:00Z (2056)",
        "You have reached your specified API usage limits. You will regain access on 2027-01-15 at 18:00 UTC.",
    ],
)
def test_a_moment_in_words(message: str) -> None:
    """As certain as a date in a header; without the provider's clock beside it, ours counts."""
    body = {"error": {"message": message}}

    assert waited_s(body) == 36_000.0
    assert waited_s(body, {}) == 36_000.0
    assert waited_s({"error": {"message": "resets at 2027-15-45T18:00:00Z"}}) is None


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats(allow_nan=False)
        | st.text(max_size=20),
        lambda inner: st.dictionaries(
            st.sampled_from(
                ["error", "retryDelay", "retry_after", "headers", "seconds", "X-RateLimit-Reset", "details"]
            ),
            inner,
            max_size=4,
        ),
    ),
    st.text("0123456789 .,:smhd-TZtryaginwt", max_size=80),
)
def test_whatever_is_named_the_wait_is_bounded(body: object, message: str) -> None:
    """Never an exception, never a negative wait."""
    reply = Reply(429, {}, orjson.dumps(body))
    error = read_error(reply)
    named = ReplyError(f"try again in {message}", "", objects=error.objects)

    for seconds in (named_wait_s(error, reply, NOW_S), named_wait_s(named, reply, NOW_S)):
        assert seconds is None or 0 <= seconds <= MAX_WAIT_S
