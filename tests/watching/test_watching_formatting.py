"""Numbers, rates and times as a person reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.watching import formatting


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "0"),
        (999, "999"),
        (999.6, "1k"),
        (1234, "1.2k"),
        (45_000, "45k"),
        (999_499, "999k"),
        (999_600, "1M"),
        (3_400_000, "3.4M"),
        (2e9, "2G"),
        (5e12, "5T"),
        (5e15, "5000T"),
    ],
)
def test_a_short_number_keeps_two_or_three_digits(number: float, expected: str) -> None:
    """Rounding carries over to the next unit."""
    assert formatting.short(number) == expected


@pytest.mark.parametrize(
    ("per_second", "expected"),
    [(0.0, "0.00"), (0.254, "0.25"), (9.999, "10.0"), (123.44, "123.4"), (999.99, "1,000"), (12_345.6, "12,346")],
)
def test_a_rate_has_the_digits_that_matter(per_second: float, expected: str) -> None:
    """Slow ones need decimals, fast ones do not."""
    assert formatting.rate(per_second) == expected


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [(0, 0, "0 %"), (0, 9, "0 %"), (1, 1000, "< 1 %"), (1, 3, "33 %"), (9999, 10_000, "99 %"), (3, 3, "100 %")],
)
def test_all_and_nothing_are_only_said_when_they_are_exact(part: float, whole: float, expected: str) -> None:
    """100 % with a line missing would be a lie."""
    assert formatting.percent(part, whole) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(None, "-"), (0.00123, "1.2 ms"), (0.0816, "82 ms"), (0.0999, "0.10 s"), (1.234, "1.23 s"), (45.67, "45.7 s")],
)
def test_a_latency_has_a_unit_that_suits_it(seconds: float | None, expected: str) -> None:
    """Local models and reasoning models both read well."""
    assert formatting.latency(seconds) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0.0 s"),
        (1.24, "1.2 s"),
        (59.96, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_a_duration_is_told_in_words(seconds: float, expected: str) -> None:
    """No 60 in the place of seconds or minutes."""
    assert formatting.duration(seconds) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(None, "--:--"), (0, "00:00"), (71, "01:11"), (7510, "2:05:10"), (86_399.7, "1 d 00 h"), (356_400, "4 d 03 h")],
)
def test_a_clock_time_grows_with_what_it_has_to_say(seconds: float | None, expected: str) -> None:
    """Minutes, then hours, then days."""
    assert formatting.clock_time(seconds) == expected


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.0, "0 %"),
        (0.004, "< 1 %"),
        (0.424, "42 %"),
        (0.8999, "90 %"),
        (0.9, "90 %"),
        (0.9137, "91.4 %"),
        (0.9604, "96 %"),
        (0.9937, "99.4 %"),
        (0.99996, "99.9 %"),
        (1.0, "100 %"),
        (1.0123, "101.2 %"),
    ],
)
def test_a_nearly_full_limit_is_told_from_a_full_one(share: float, expected: str) -> None:
    """With a decimal where it matters; more than all of it is told as such."""
    assert formatting.utilisation(share) == expected


@given(st.floats(0, 1e15))
def test_a_short_number_is_short(number: float) -> None:
    """Four characters and a unit at most, so that columns hold."""
    assert len(formatting.short(number)) <= 5


def test_a_count_has_thousands_separators() -> None:
    """Millions can be told from hundreds of thousands."""
    assert formatting.count(1_234_567) == "1,234,567"
