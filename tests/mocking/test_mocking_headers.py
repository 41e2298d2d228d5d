"""The forms of what headers tell: durations, dates, seconds."""

import pytest

from llmblast.mocking.headers import go_duration, retry_headers, rfc3339


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
    ("seconds", "whole", "exact"),
    [
        (1, "1", None),
        (10, "10", None),
        (0.0201, "1", "21"),
        (1234.5, "1235", "1234500"),
        (1e-9, "1", "1"),
        (2.9999, "3", None),
    ],
)
def test_retry_after_has_whole_seconds_and_is_rounded_up(seconds: float, whole: str, exact: str | None) -> None:
    """Nobody is told to come too early; where whole seconds are too long, milliseconds stand beside them."""
    told = retry_headers(seconds)

    assert (told["retry-after"], told.get("retry-after-ms")) == (whole, exact)


@pytest.mark.parametrize(
    ("epoch_s", "text"),
    [(0, "1970-01-01T00:00:00Z"), (1_735_689_600, "2025-01-01T00:00:00Z"), (1_735_689_600.2, "2025-01-01T00:00:01Z")],
)
def test_dates_have_the_form_of_the_real_headers(epoch_s: float, text: str) -> None:
    """RFC 3339 in UTC, rounded up to seconds."""
    assert rfc3339(epoch_s) == text
