"""--map: lines with other names for the fields that are read."""

from typing import Any

import orjson
import pytest

from llmblast.errors import UsageError
from llmblast.models import Failure, Request
from llmblast.settings import Settings
from tests.openai_provider import RequestParser


def result_of(line: dict[str, Any] | bytes, names: dict[str, str], **settings: Any) -> Request | Failure:
    text = line if isinstance(line, bytes) else orjson.dumps(line)
    return RequestParser(Settings(map=names, **settings)).parse(3, "0" * 16, text)


def parse(line: dict[str, Any] | bytes, names: dict[str, str], **settings: Any) -> Request:
    result = result_of(line, names, **settings)
    assert isinstance(result, Request), result.error
    return result


def refusal(line: dict[str, Any], names: dict[str, str]) -> str:
    result = result_of(line, names)
    assert isinstance(result, Failure)
    return result.error


def test_fields_get_the_names_that_are_read() -> None:
    """The user's own fields keep their names; the line in the record stays as it was."""
    line = {"question": "why?", "row": 7, "topic": "sky"}

    request = parse(line, {"input": "question", "id": "row"})

    assert (request.input, request.id, request.extra) == ("why?", 7, {"topic": "sky"})
    assert orjson.loads(request.text) == line
    assert orjson.loads(request.body)["messages"][0]["content"] == "why?"


@pytest.mark.parametrize(
    "text",
    [
        b'{"question":"q","row":9007199254740993123456,"note":"\\"question\\": x"}',
        b'{ "question" : "q", "row" : 9007199254740993123456, "note" : {"question": 1} }',
        b'{"qu\\u0065stion":"q","row":9007199254740993123456,"note":"question"}',
        b'{"note":["question"],"row":9007199254740993123456,"question":"q"}',
    ],
)
def test_names_are_found_as_names_only(text: bytes) -> None:
    """Wherever else they stand, and however they are written; numbers keep their digits."""
    request = parse(text, {"input": "question", "no": "row"})

    assert request.input == "q"
    assert request.extra is not None
    assert orjson.dumps(request.extra["no"]) == b"9007199254740993123456"
    assert request.extra["note"] == orjson.loads(text)["note"]


def test_a_raw_request_is_sent_with_its_new_names() -> None:
    """The names apply before the format is detected."""
    request = parse({"chat": [{"role": "user", "content": "x"}], "temperature": 1.0}, {"messages": "chat"})

    assert orjson.loads(request.body) == {"messages": [{"role": "user", "content": "x"}], "temperature": 1.0}


def test_a_nested_value_is_found_and_its_field_stays_the_users() -> None:
    """As in a template."""
    request = parse({"data": {"q": ["why?"], "n": 1}}, {"input": "data.q[0]"})

    assert (request.input, request.extra) == ("why?", {"data": {"q": ["why?"], "n": 1}})


def test_one_field_may_be_read_as_two_and_two_may_change_places() -> None:
    """Each name means what the line calls so."""
    assert parse({"q": "why?"}, {"input": "q", "id": "q"}).id == "why?"
    swapped = parse({"input": "a", "system": "b"}, {"input": "system", "system": "input"})
    assert [message["content"] for message in orjson.loads(swapped.body)["messages"]] == ["a", "b"]


def test_a_field_whose_name_is_needed_is_kept_as_the_users_own() -> None:
    """The record has it under `fields`."""
    request = parse({"question": "why?", "input": "mine"}, {"input": "question"})

    assert (request.input, request.extra) == ("why?", {"input": "mine"})


def test_a_template_sees_the_new_names() -> None:
    """And all others."""
    assert parse({"q": "why", "t": "sky"}, {"text": "q"}, prompt="{text} {t}").input == "why sky"


@pytest.mark.parametrize(
    ("line", "names", "reason"),
    [
        ({"q": "x", "id": "r"}, {"input": "question"}, 'no field "question", which --map names: it has: q, id'),
        ({"q": {"a": 1}}, {"input": "q.b"}, '"q" has no "b": it has: a, which --map names as q.b'),
        ({"q": None}, {"input": "q"}, '"input" must be a string'),
    ],
)
def test_a_line_without_the_field_is_bad(line: dict[str, Any], names: dict[str, str], reason: str) -> None:
    """With the names that are there, and its own id."""
    assert reason in refusal(line, names)


def test_a_bad_line_keeps_its_text() -> None:
    """The record has the line as it was, with the id that the map names."""
    result = result_of({"question": 5, "row": "r"}, {"input": "question", "id": "row"})

    assert isinstance(result, Failure)
    assert (result.line.id, orjson.loads(result.line.text)) == ("r", {"question": 5, "row": "r"})


@pytest.mark.parametrize("source", ["a.", "[0]", "a[", '"a"'])
def test_a_name_that_is_no_place_is_refused_at_once(source: str) -> None:
    """Before a line is read."""
    with pytest.raises(UsageError, match=r"--map input=.*: not the name of a field"):
        RequestParser(Settings(map={"input": source}))
