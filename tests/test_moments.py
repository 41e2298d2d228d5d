"""Moments: what people write for a time, in seconds of the wall clock."""

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.moments import moment_after, parse_moment
from llmblast.units import UnitError

NOW_S = 1_800_000_000.0


@pytest.fixture(autouse=True)
def _berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("90", 90), ("1.5", 1.5), ("90s", 90), ("2h", 7200), ("1h30m", 5400), (" 1d ", 86400)],
)
def test_a_number_or_a_duration_counts_from_now(text: str, seconds: float) -> None:
    """As settings write durations."""
    assert parse_moment(text, NOW_S) == NOW_S + seconds


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-12-01T08:00", "2026-12-01T07:00"),
        ("2026-07-01 08:00:30", "2026-07-01T06:00:30"),
        ("2026-12-01T08:00:00Z", "2026-12-01T08:00"),
        ("2026-12-01T08:00:00.5+02:00", "2026-12-01T06:00:00.5"),
        ("1767225600", "2026-01-01T00:00"),
    ],
)
def test_a_date_and_time_is_that_moment(text: str, moment: str) -> None:
    """Without a zone, that of the local clock; a number that is too large for a duration is Unix seconds."""
    assert parse_moment(text, NOW_S) == utc(moment)


@pytest.mark.parametrize(
    ("text", "now", "moment"),
    [
        ("08:00", "2026-12-01T06:59", "2026-12-01T07:00"),
        ("08:00", "2026-12-01T07:00", "2026-12-02T07:00"),
        ("8:00", "2026-12-01T22:00", "2026-12-02T07:00"),
        ("23:59:30", "2026-12-01T08:00", "2026-12-01T22:59:30"),
        ("08:00", "2026-03-28T12:00", "2026-03-29T06:00"),
        ("08:00", "2026-10-24T12:00", "2026-10-25T07:00"),
    ],
)
def test_a_time_of_day_is_the_next_one_of_the_local_clock(text: str, now: str, moment: str) -> None:
    """Also across a change of the clocks."""
    assert parse_moment(text, utc(now)) == utc(moment)


@pytest.mark.parametrize(
    "text", ["", "soon", "25:00", "08:60", "2026-13-01T00:00", "2026-12-01", "-5", "1e30", "nan", "08:00 am", "9" * 50]
)
def test_what_is_no_time_says_how_to_write_one(text: str) -> None:
    """A bare date could mean its start or its end."""
    with pytest.raises(
        UnitError, match=r"is not a time: write seconds, a duration such as 2h, or a time such as 08:00"
    ):
        parse_moment(text, NOW_S)


@given(st.text(max_size=30))
def test_any_text_is_a_moment_or_an_error(text: str) -> None:
    """Nothing else is raised."""
    with contextlib.suppress(UnitError):
        assert parse_moment(text, NOW_S) >= 0


@given(st.floats(allow_nan=True))
def test_any_number_is_a_moment_or_an_error(seconds: float) -> None:
    """Negative ones and milliseconds are none."""
    try:
        assert 0 <= moment_after(seconds, NOW_S) < 1e11
    except UnitError:
        assert not 0 <= seconds < 1e11
