"""Rate-limit headers in all the forms that providers send; a part that cannot be parsed counts as absent."""

import time
from datetime import UTC, datetime, timedelta, timezone
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.models import RateLimitInfo
from llmblast.providers.rate_limit_headers import EXACT_S, WHOLE_S, read_rate_limits

NOW_S = 1_735_689_600.0
"""2025-01-01T00:00:00Z."""
DAY_S = 86400.0

OPENAI = (
    (b"x-ratelimit-limit-requests", b"60"),
    (b"x-ratelimit-limit-tokens", b"150000"),
    (b"x-ratelimit-remaining-requests", b"59"),
    (b"x-ratelimit-remaining-tokens", b"149984"),
    (b"x-ratelimit-reset-requests", b"1s"),
    (b"x-ratelimit-reset-tokens", b"6m0s"),
)
ANTHROPIC = tuple(
    (f"anthropic-ratelimit-{kind}-{part}".encode(), value)
    for kind in ("requests", "tokens", "input-tokens", "output-tokens")
    for part, value in (("limit", b"4000"), ("remaining", b"3999"), ("reset", b"2025-01-01T00:00:15Z"))
)


def reset_s(value: bytes) -> float | None:
    """Seconds until a reset, as read from its header alone."""
    infos = read_rate_limits([(b"x-ratelimit-reset-tokens", value)], NOW_S)
    return infos[0].reset_s if infos else None


def amount(value: bytes) -> float | None:
    """A limit, as read from its header alone."""
    infos = read_rate_limits([(b"x-ratelimit-limit-tokens", value)], NOW_S)
    return infos[0].limit if infos else None


def test_openai_reports_requests_and_tokens() -> None:
    """The example of its page, with Go's durations."""
    assert read_rate_limits(OPENAI, NOW_S) == [
        RateLimitInfo("requests", 60, 59, 1.0),
        RateLimitInfo("tokens", 150_000, 149_984, 360.0),
    ]


def test_anthropic_reports_four_kinds() -> None:
    """With dates for resets, and the kind before the part."""
    assert read_rate_limits(ANTHROPIC, NOW_S) == [
        RateLimitInfo(kind, 4000, 3999, 15.0, WHOLE_S)
        for kind in ("requests", "tokens", "input_tokens", "output_tokens")
    ]


def test_litellm_says_whose_limits_they_are() -> None:
    """Each has its own info, without a reset."""
    headers = [
        (b"x-ratelimit-api_key-remaining-requests", b"99"),
        (b"x-ratelimit-api_key-limit-requests", b"100"),
        (b"x-ratelimit-model_per_key-limit-requests", b"20"),
        (b"x-ratelimit-team-limit-tokens", b"5000"),
    ]

    assert read_rate_limits(headers, NOW_S) == [
        RateLimitInfo("requests", 100, 99, None),
        RateLimitInfo("requests", 20, None, None),
        RateLimitInfo("tokens", 5000, None, None),
    ]


@pytest.mark.parametrize("prefix", [b"x-ratelimit-", b"ratelimit-", b"X-RateLimit-", b"RATELIMIT-"])
def test_no_kind_means_requests(prefix: bytes) -> None:
    """The suffix-less headers of gateways, with and without an X, in any case."""
    headers = [(prefix + b"limit", b"100, 100;w=60"), (prefix + b"Remaining", b"7"), (prefix + b"reset", b"50")]

    assert read_rate_limits(headers, NOW_S) == [RateLimitInfo("requests", 100, 7, 50.0, WHOLE_S)]


@pytest.mark.parametrize(
    ("reset", "resolution_s"),
    [
        (b"30", WHOLE_S),
        (b"1700000000", WHOLE_S),
        (b"2023-11-14T22:13:50Z", WHOLE_S),
        (b"Tue, 14 Nov 2023 22:13:50 GMT", WHOLE_S),
        (b"30.5", EXACT_S),
        (b"1700000000123", EXACT_S),
        (b"2023-11-14T22:13:50.5Z", EXACT_S),
        (b"30s", EXACT_S),
        (b"6m0s", EXACT_S),
    ],
)
def test_a_reset_without_a_unit_or_a_fraction_is_in_whole_seconds(reset: bytes, resolution_s: float) -> None:
    """The reader learns how far the reset may be off."""
    assert read_rate_limits([(b"ratelimit-reset", reset)], NOW_S)[0].resolution_s == resolution_s


@pytest.mark.parametrize("kind", ["input-tokens", "output-tokens"])
def test_kinds_of_tokens_in_openais_form(kind: str) -> None:
    """Some servers report input and output tokens apart."""
    headers = [(f"X-RateLimit-Remaining-{kind}".encode(), b"5")]

    assert read_rate_limits(headers, NOW_S) == [RateLimitInfo(kind.replace("-", "_"), remaining=5)]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"Server", b"nginx"), (b"Content-Length", b"60")],
        [(b"x-ratelimit-limit-requests-day", b"60"), (b"x-ratelimit-limited", b"60"), (b"retry-after", b"60")],
        [(b"x-ratelimit-limit-requests", b"many"), (b"x-ratelimit-reset-requests", b"soon")],
    ],
    ids=["none", "others", "similar", "unreadable"],
)
def test_a_reply_without_such_headers_has_no_infos(headers: list[tuple[bytes, bytes]]) -> None:
    """Nor has one whose headers cannot be parsed."""
    assert read_rate_limits(headers, NOW_S) == []


def test_one_unreadable_header_does_not_spoil_the_others() -> None:
    """It alone counts as not said."""
    headers = [(b"ratelimit-limit", b"lots"), (b"ratelimit-remaining", b"9"), (b"ratelimit-reset", b"nan")]

    assert read_rate_limits(headers, NOW_S) == [RateLimitInfo("requests", remaining=9)]


def test_the_first_header_that_can_be_read_counts() -> None:
    """As with every other header that must not come twice."""
    headers = [(b"ratelimit-limit", value) for value in (b"lots", b"5", b"6")]

    assert read_rate_limits(headers, NOW_S) == [RateLimitInfo("requests", limit=5)]


def test_a_gateway_and_its_provider_have_an_info_each() -> None:
    """The limit of one and the remainder of the other would make a quota that nobody has."""
    headers = [
        (b"x-ratelimit-limit-requests", b"10000"),
        (b"ratelimit-limit", b"10"),
        (b"x-ratelimit-remaining", b"3"),
    ]

    assert read_rate_limits(headers, NOW_S) == [
        RateLimitInfo("requests", limit=10_000),
        RateLimitInfo("requests", limit=10),
        RateLimitInfo("requests", remaining=3),
    ]


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (b"0", 0),
        (b" 60 ", 60),
        (b"60.5", 60.5),
        (b"1,000", 1000),
        (b"40,000,000", 40_000_000),
        (b"1,000.5", 1000.5),
        (b"1,00", None),
        (b"1,0000", None),
        (b"1_000", 1000),
        (b"100;w=60", 100),
        (b"1,000 ;w=60", 1000),
        (b"100, 100;w=60, 5000;w=3600", 100),
        (b"10,100;w=60", 10_100),
        (b"10,1000;w=60", None),
        (b"1.5;w=60", 1.5),
        (b"-1", None),
        (b"-1;w=60", None),
        (b"nan", None),
        (b"inf", None),
        (b"-inf", None),
        (b"1e400", None),
        (b"9" * 5000, None),
        (b"9" * 5000 + b";w=60", None),
        (b"", None),
        (b"unlimited", None),
        (b"60 requests", None),
        (b"60/min", None),
        (b"\xb2", None),
    ],
)
def test_amounts(value: bytes, number: float | None) -> None:
    """Plain, with separated thousands, with the draft's windows; -1, which some send for no limit, is no number."""
    assert amount(value) == number


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"6m0s", 360.0),
        (b" 6m0s ", 360.0),
        (b"1h2m3.5s", 3723.5),
        (b"12ms", 0.012),
        (b"1s500ms", 1.5),
        (b"2m59.56s", 179.56),
        (b"5m", 300.0),
        (b"0s", 0.0),
        (b"1d", DAY_S),
        (b"1d2h", DAY_S),
        (b"7", 7.0),
        (b" 7.66 ", 7.66),
        (b"50;w=60", 50.0),
        (b"999999999", DAY_S),
        (b"1735689660", 60.0),
        (b"1735689660.25", 60.25),
        (b"1735689540", 0.0),
        (b"1000000000", 0.0),
        (b"1735689660250", 60.25),
        (b"1000000000000", 0.0),
        (b"9999999999999999999", DAY_S),
        (b"2025-01-01T00:01:00Z", 60.0),
        (b"2025-01-01t00:01:00z", 60.0),
        (b"2025-01-01T00:01:00.25Z", 60.25),
        (b"2025-01-01T00:01:00.123456789Z", 60.123456),
        (b"2025-01-01T02:01:00+02:00", 60.0),
        (b"2025-01-01 00:01:00", 60.0),
        (b"2024-12-31T19:01:00-05:00", 60.0),
        (b"2024-12-31T23:59:59Z", 0.0),
        (b"9999-12-31T23:59:59Z", DAY_S),
        (b"0001-01-01T00:00:00+23:59", 0.0),
        (b"Wed, 01 Jan 2025 00:01:00 GMT", 60.0),
        (b"Wednesday, 01-Jan-25 00:01:00 GMT", 60.0),
        (b"Wed Jan  1 00:01:00 2025", 60.0),
        (b"", None),
        (b"s", None),
        (b"6m0", None),
        (b"0s6m", None),
        (b"1.s", None),
        (b"-6m0s", None),
        (b"-7", None),
        (b"nan", None),
        (b"inf", None),
        (b"9" * 400, None),
        (b"9" * 400 + b"s", None),
        (b"soon", None),
        (b"12:00", None),
        (b"2025-13-01T00:00:00Z", None),
        (b"2025-01-01T00:00:61Z", None),
        (b"Wed, 99 Jan 2025 00:01:00 GMT", None),
        (b"Wed, 01 Jan 99999999999 00:01:00 GMT", None),
        (b"\xb2\xb2\xb2\xb2-01-01T00:00:00Z", None),
    ],
)
def test_resets(value: bytes, seconds: float | None) -> None:
    """Durations, seconds, Unix times, dates; never below zero, never beyond a day."""
    assert reset_s(value) == (None if seconds is None else pytest.approx(seconds, abs=1e-5))


@pytest.mark.parametrize("reset", [b"2025-01-01T00:01:00Z", b"Wed, 01 Jan 2025 00:01:00 GMT", b"1735689660"])
@pytest.mark.parametrize(("jump_s", "seconds"), [(-DAY_S, 60.0), (DAY_S, 60.0), (3, 57.0)])
def test_a_wall_clock_that_jumped_moves_no_reset(reset: bytes, jump_s: float, seconds: float) -> None:
    """The reply's own date tells how far away its reset is; where both clocks agree, ours is the finer one."""
    headers = [(b"x-ratelimit-reset-tokens", reset), (b"Date", formatdate(NOW_S, usegmt=True).encode())]

    assert read_rate_limits(headers, NOW_S + jump_s)[0].reset_s == seconds


def test_a_date_without_a_zone_is_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the machine is."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()

    read = [reset_s(date) for date in (b"Wed Jan  1 00:01:00 2025", b"2025-01-01T00:01:00")]

    monkeypatch.undo()
    time.tzset()
    assert read == [60.0, 60.0]


@given(st.integers(0, int(DAY_S) * 1000 - 1))
def test_a_duration_is_read_as_it_was_written(milliseconds: int) -> None:
    """In Go's form and in seconds."""
    minutes, rest = divmod(milliseconds, 60_000)
    go = f"{minutes // 60}h{minutes % 60}m{rest / 1000:.3f}s"

    for text in (go, f"{milliseconds}ms", f"{milliseconds / 1000:.3f}", f"{milliseconds / 1000:.3f}s"):
        assert reset_s(text.encode()) == pytest.approx(milliseconds / 1000)


@given(st.integers(1, int(DAY_S) - 1), st.integers(0, 999), st.integers(-23 * 60, 23 * 60))
def test_a_moment_is_read_as_it_was_written(seconds: int, milliseconds: int, offset_minutes: int) -> None:
    """As Unix time, and as a date in any zone; HTTP dates have whole seconds."""
    moment_s = NOW_S + seconds + milliseconds / 1000
    date = datetime.fromtimestamp(moment_s, UTC)
    elsewhere = date.astimezone(timezone(timedelta(minutes=offset_minutes)))

    for text in (f"{moment_s:.3f}", f"{moment_s * 1000:.0f}", date.isoformat(), elsewhere.isoformat()):
        assert reset_s(text.encode()) == pytest.approx(seconds + milliseconds / 1000, abs=1e-3)
    assert reset_s(formatdate(NOW_S + seconds, usegmt=True).encode()) == seconds


NAMES = [name for name, _ in OPENAI + ANTHROPIC] + [b"ratelimit-limit", b"RateLimit-Reset", b"X-RateLimit-Reset"]
PIECES = [*"0123456789.,;:-+= ", "ms", "s", "m", "h", "d", "T", "Z", "e", "nan", "inf", "Wed", "Jan", "GMT", "(", '"']
values = st.binary(max_size=40) | st.lists(st.sampled_from(PIECES), max_size=24).map(
    lambda them: "".join(them).encode()
)


@given(st.lists(st.tuples(st.sampled_from(NAMES) | st.binary(max_size=45), values), max_size=8), st.floats(0, 4e9))
def test_whatever_the_headers_are_the_numbers_are_bounded(headers: list[tuple[bytes, bytes]], now_s: float) -> None:
    """Never an exception, never a negative number, no infinity, no reset beyond a day."""
    for info in read_rate_limits(headers, now_s):
        assert (info.limit, info.remaining, info.reset_s) != (None, None, None)
        assert all(0 <= number < float("inf") for number in (info.limit, info.remaining) if number is not None)
        assert info.reset_s is None or 0 <= info.reset_s <= DAY_S
