"""Numbers with units: what is read, and that nothing else is."""

import contextlib
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.units import UnitError, parse_count, parse_duration, parse_rate, parse_whole

SECONDS = {"ns": "1e-9", "us": "1e-6", "µs": "1e-6", "ms": "1e-3", "s": "1", "m": "60", "h": "3600", "d": "86400"}
numbers = st.decimals(0, 10**9, places=3).map(lambda number: f"{number:f}")


@given(st.lists(st.tuples(numbers, st.sampled_from(list(SECONDS))), min_size=1, max_size=5))
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[str, str]]) -> None:
    """Whatever their order is."""
    expected = sum(Decimal(number) * Decimal(SECONDS[unit]) for number, unit in parts)

    assert parse_duration("".join(number + unit for number, unit in parts)) == float(expected)


@given(st.floats(0, 1e300))
def test_a_mere_number_is_seconds_or_a_count(number: float) -> None:
    """In any form that Python prints."""
    assert parse_duration(repr(number)) == parse_count(repr(number)) == parse_rate(repr(number), 60.0) == number


@given(numbers, st.sampled_from([("", 1), ("k", 10**3), ("K", 10**3), ("M", 10**6), ("G", 10**9)]))
def test_a_count_may_have_a_multiple(number: str, multiple: tuple[str, int]) -> None:
    """Thousands, millions, milliards."""
    assert parse_count(number + multiple[0]) == float(Decimal(number) * multiple[1])


@given(numbers, st.sampled_from(["s", "sec", "second", "m", "min", "minute", "h", "hour", "d", "day"]))
def test_a_rate_is_converted(number: str, unit: str) -> None:
    """To the unit that the setting's name says."""
    unit_s = float(SECONDS[unit[0]])

    assert parse_rate(f"{number}/{unit}", unit_s) == float(number)
    assert parse_rate(f"{number}/{unit}", 60.0) == pytest.approx(float(number) * 60.0 / unit_s)


@given(st.text(max_size=12))
def test_other_texts_are_refused(text: str) -> None:
    """With an error of one kind, whatever they are."""
    for parse in (parse_count, parse_whole, parse_duration, lambda text: parse_rate(text, 60.0)):
        with contextlib.suppress(UnitError):
            assert isinstance(parse(text), float | int)


@pytest.mark.parametrize("text", ["", " ", "abc", "nan", "inf", "-inf", "1,000", "2m", "5 k", "0x10", "1e", "9" * 101])
def test_what_is_no_count(text: str) -> None:
    """What Python's float would take is not enough."""
    with pytest.raises(UnitError, match="is not a number"):
        parse_count(text)


@pytest.mark.parametrize("text", ["", "m", "1h 30m", "1x", "1h30", "h1", "1 min", "-", "nan", "1e3m", "1w"])
def test_what_is_no_duration(text: str) -> None:
    """A number without a unit stands alone."""
    with pytest.raises(UnitError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["5/", "/s", "5/x", "5/m/m", "5//s", "nan/s"])
def test_what_is_no_rate(text: str) -> None:
    """A unit of time, or none."""
    with pytest.raises(UnitError, match="is not a number"):
        parse_rate(text, 1.0)


def test_signs_and_whole_numbers() -> None:
    """A negative number is one: what is allowed is checked later."""
    assert (parse_count("-5"), parse_duration("-1m"), parse_whole("+1.5k"), parse_whole("1e3")) == (-5, -60, 1500, 1000)
    with pytest.raises(UnitError, match="is not a whole number"):
        parse_whole("0.0005k")
