"""A user's own numbers come back in the record as they were written, however many digits they have."""

import json
from decimal import Decimal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.models import Answer, Failure, Reply, Request, Success
from llmblast.settings import Settings
from llmblast.writing import render, should_retry
from tests.openai_provider import RequestParser

NUMBERS = [
    "123456789012345678901234567890",
    "-9223372036854775809",
    "18446744073709551616",
    "9" * 5000,
    "1.2345678901234567890",
    "0.1000000000000000055511151231257827021181583404541015625",
    "1e400",
    "-1E+400",
    "1e-400",
    "123456789.12345678901234567890e300",
    "1.7976931348623157e308",
]


def parsed(line: str, prompt: str | None = None) -> Request:
    request = RequestParser(Settings(prompt=prompt)).parse(1, "0" * 16, line.encode())
    assert isinstance(request, Request), request
    return request


def record_of(line: str) -> str:
    request = parsed(line)
    return render(Success(request, Answer("4"), Reply(200), "gpu1")).decode()


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_keeps_its_digits(number: str) -> None:
    """In a field of its own and inside of others."""
    record = record_of(f'{{"input":"x","a":{number},"b":{{"c":[1,{number},"{number}"]}},"d":0.5}}')

    assert f'"a":{number},"b":{{"c":[1,{number},"{number}"]}},"d":0.5' in record
    assert json.loads(record, parse_int=str, parse_float=str)["a"] == number


@pytest.mark.parametrize("number", ["1790123456789012345", "18446744073709551615", "0.5", "1", "-0.25", "12.5"])
def test_a_number_that_fits_costs_nothing_more(number: str) -> None:
    """It stays a number of Python's."""
    extra = parsed(f'{{"input":"x","a":{number},"b":"{"7" * 30}"}}').extra

    assert extra is not None
    assert type(extra["a"]) in (int, float)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_prompt_template_shows_the_digits(number: str) -> None:
    """The model is asked about the very number."""
    request = parsed(f'{{"wei":{number}}}', prompt="How much is {wei}?")

    assert orjson.loads(request.body)["messages"][0]["content"] == f"How much is {number}?"


@given(st.lists(st.decimals(allow_nan=False, allow_infinity=False, places=20) | st.integers(), min_size=1, max_size=4))
def test_any_number_keeps_its_value(numbers: list[Decimal | int]) -> None:
    """Exactly."""
    text = ",".join(format(number, "f") if isinstance(number, Decimal) else str(number) for number in numbers)

    record = record_of(f'{{"input":"x","a":[{text}]}}')

    assert json.loads(record, parse_float=Decimal)["a"] == numbers


@pytest.mark.parametrize(
    "line", ['{"input":"x","a":1e400,}', '{"input":"x","a":1e400,"b":"\\ud83d"}', '{"a":1e400,"b":NaN}']
)
def test_a_line_that_is_no_json_stays_bad(line: str) -> None:
    """A huge number excuses nothing else."""
    assert isinstance(RequestParser(Settings()).parse(1, "0" * 16, line.encode()), Failure)


def test_an_id_has_at_most_64_bits() -> None:
    """As before: no record could be found by a rounded one."""
    failure = RequestParser(Settings()).parse(1, "0" * 16, b'{"input":"x","id":123456789012345678901234567890}')

    assert isinstance(failure, Failure)
    assert "integer of at most 64 bits" in failure.error


def test_a_failed_line_with_a_huge_number_is_sent_again() -> None:
    """Its record is JSON, though orjson does not read it."""
    line = parsed('{"messages":[],"seed":1e400}')

    record = render(Failure(line, "timed out", "timeout", transient=True))

    assert b"1e400" in record
    assert should_retry(record, "transient")


@pytest.mark.parametrize("number", ["123456789012345678901234567890", "-9223372036854775809", "1e400", "9" * 5000])
@pytest.mark.parametrize(
    "line",
    [
        '{{"custom_id":"a","body":{{"messages":[],"seed":{}}}}}',
        '{{"custom_id":"a", "body": {{"messages": [], "x": {{"y": [{{"z": {}}}]}}}}}}',
        '{{"input":"a","params":{{"seed":{}}}}}',
        '{{"messages":[],"seed":{}}}',
    ],
)
def test_a_number_is_sent_with_all_its_digits(line: str, number: str) -> None:
    """In every format: a provider would take a rounded seed for another one."""
    body = parsed(line.format(number)).body.decode()

    assert f":{number}}}" in body.replace(" ", "")


def test_numbers_that_arrive_as_they_are_meant_cost_nothing_more() -> None:
    """A body of small floats and long lists of tokens is not parsed again."""
    tokens = [1790123456789012345] * 3

    request = parsed(f'{{"custom_id":"a","body":{{"input":{tokens},"x":1e5,"y":[0.1,12.5]}}}}')

    assert request.body == orjson.dumps({"input": tokens, "x": 1e5, "y": [0.1, 12.5]})


def test_own_fields_in_a_body_keep_their_digits() -> None:
    """They are taken out of what is sent."""
    settings = Settings(own_fields=("wei",))
    line = f'{{"custom_id":"a","body":{{"messages":[],"wei":{NUMBERS[0]}}}}}'

    request = RequestParser(settings).parse(1, "0" * 16, line.encode())

    assert isinstance(request, Request)
    assert f'"wei":{NUMBERS[0]}' in render(Success(request, Answer("4"), Reply(200), "gpu1")).decode()
