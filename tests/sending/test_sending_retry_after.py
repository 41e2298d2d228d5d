"""`Retry-After` in all its forms; what cannot be read counts as not said."""

import time
from collections.abc import Iterator
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.http_time import MAX_WAIT_S
from llmblast.models import Reply
from llmblast.sending.retry_after import retry_after_s

NOW_S = 784111777.0
"""Sun, 06 Nov 1994 08:49:37 GMT, the date of RFC 9110's examples."""


@pytest.fixture(params=["UTC", "America/New_York"])
def _zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's time zone."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def waited_s(
    value: bytes, *, milliseconds: bytes | None = None, now_s: float = NOW_S, date: bytes | None = None
) -> float | None:
    headers = {b"Retry-After": value}
    if date is not None:
        headers[b"Date"] = date
    if milliseconds is not None:
        headers[b"Retry-After-Ms"] = milliseconds
    return retry_after_s(Reply(429, headers), now_s)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"0", 0.0),
        (b"7", 7.0),
        (b" 7 ", 7.0),
        (b"0.25", 0.25),
        (b"-5", 0.0),
        (b"86400", 86_400.0),
        (b"2592000", 2_592_000.0),
        (b"99999999", MAX_WAIT_S),
        (b"99999999999999999999999", MAX_WAIT_S),
        (b"1e300", MAX_WAIT_S),
        (b"1e309", None),
        (b"inf", None),
        (b"-inf", None),
        (b"nan", None),
        (b"", None),
        (b"soon", None),
        (b"7s", None),
        (b"\xff\xfe", None),
        (b"7, 8", None),
    ],
)
def test_seconds(value: bytes, seconds: float | None) -> None:
    """Whole ones as in the RFC, fractions as some send, never below zero; quotas of a month are believed."""
    assert waited_s(value) == seconds


@pytest.mark.usefixtures("_zone")
@pytest.mark.parametrize(
    "date",
    [
        b"Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sunday, 06-Nov-94 08:49:37 GMT",
        b"Sun Nov  6 08:49:37 1994",
        b"Sun, 06 Nov 1994 08:49:37 -0000",
    ],
)
@pytest.mark.parametrize(
    ("now_s", "seconds"), [(NOW_S - 30, 30.0), (NOW_S + 30, 0.0), (NOW_S - 1e6, 1e6), (NOW_S - 1e9, MAX_WAIT_S)]
)
def test_a_date(date: bytes, now_s: float, seconds: float) -> None:
    """The three formats of RFC 9110 section 5.6.7, all in UTC wherever the machine is; a past one means now."""
    assert waited_s(date, now_s=now_s) == seconds


A_DAY_S = 86400


@pytest.mark.parametrize("jump_s", [-400 * A_DAY_S, -A_DAY_S, -60, 0, 60, A_DAY_S, 400 * A_DAY_S])
def test_a_wall_clock_that_jumped_parks_nothing(jump_s: float) -> None:
    """The provider's own clock says how long its date is away, wherever ours was set to."""
    written, date = formatdate(NOW_S, usegmt=True).encode(), formatdate(NOW_S + 40, usegmt=True).encode()

    assert waited_s(date, now_s=NOW_S + jump_s, date=written) == 40


def test_clocks_that_agree_but_for_the_way_go_by_ours() -> None:
    """A Date is cut off to whole seconds, and the reply was on its way for a while."""
    written, date = formatdate(NOW_S, usegmt=True).encode(), formatdate(NOW_S + 40, usegmt=True).encode()

    assert waited_s(date, now_s=NOW_S + 1.5, date=written) == 38.5


@pytest.mark.parametrize("written", [None, b"yesterday", formatdate(NOW_S, usegmt=True).encode()])
def test_a_long_wait_is_believed(written: bytes | None) -> None:
    """A quota of a day may be used up. Where the reply does not tell the provider's clock, ours counts."""
    date = formatdate(NOW_S + 40_000, usegmt=True).encode()

    assert waited_s(date, date=written) == 40_000


@pytest.mark.parametrize(
    "date", [b"Sun, 99 Nov 1994 08:49:37 GMT", b"Sun, 06 Nov 1994", b"Sun, 06 Nov 99999 08:49:37 GMT"]
)
def test_a_date_that_is_none_counts_as_not_said(date: bytes) -> None:
    """Impossible days, missing times, impossible years."""
    assert waited_s(date) in (None, MAX_WAIT_S, 0.0)


@pytest.mark.parametrize("unit_s", [1, 1000])
@pytest.mark.parametrize("written", [True, False])
def test_a_unix_time_is_a_moment(unit_s: int, written: bool) -> None:
    """In seconds or milliseconds, with and without the provider's clock beside it."""
    now_s = 1_800_000_000.0
    date = formatdate(now_s, usegmt=True).encode() if written else None

    assert waited_s(b"%d" % ((now_s + 40_000) * unit_s), now_s=now_s, date=date) == 40_000


def test_milliseconds_go_before_seconds() -> None:
    """They say it more exactly; where they cannot be read, the seconds count."""
    assert waited_s(b"2", milliseconds=b"1500") == 1.5
    assert waited_s(b"2", milliseconds=b"-1") == 0.0
    assert waited_s(b"2", milliseconds=b"soon") == 2.0
    assert waited_s(b"2", milliseconds=b"nan") == 2.0


def test_the_wait_that_a_proxy_hands_on_counts_after_its_own() -> None:
    """LiteLLM sends its provider's headers like that, and those of a limit that it keeps itself."""
    handed_on = {b"LLM_Provider-Retry-After": b"60"}

    assert retry_after_s(Reply(429, handed_on), NOW_S) == 60.0
    assert retry_after_s(Reply(429, {**handed_on, b"Retry-After": b"7"}), NOW_S) == 7.0
    assert retry_after_s(Reply(429, {b"llm_provider-retry-after-ms": b"1500"}), NOW_S) == 1.5


def test_no_header_means_that_nothing_was_said() -> None:
    """Others are not looked at."""
    assert retry_after_s(Reply(429, {b"X-Retry-After": b"7"}), NOW_S) is None


dates = st.floats(-1e10, 1e11, allow_nan=False).map(lambda moment: formatdate(moment, usegmt=True))
date_like = st.lists(
    st.sampled_from(
        [
            "Sun",
            ",",
            " ",
            "06",
            "Nov",
            "1994",
            "94",
            "08:49:37",
            "GMT",
            "-0000",
            "+9999",
            "-",
            ":",
            "(",
            '"',
            "99999999999",
        ]
    ),
    max_size=9,
).map("".join)


@given(st.binary(max_size=40) | (dates | date_like).map(str.encode), st.floats(0, 4e9))
def test_whatever_it_says_the_wait_is_bounded(value: bytes, now_s: float) -> None:
    """Never an exception, never a negative wait, never more than 400 days."""
    for seconds in (waited_s(value, now_s=now_s), waited_s(b"", milliseconds=value, now_s=now_s)):
        assert seconds is None or 0 <= seconds <= MAX_WAIT_S
