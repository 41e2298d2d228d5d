"""Answers that fit a schema: pydantic, which had no part in making them, accepts them."""

from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
import pytest
from pydantic import BaseModel, Field

from llmblast.mocking.answers import Answers
from llmblast.mocking.settings import MockSettings


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    x: float
    y: Annotated[float, Field(gt=0, lt=0.3)]


class Ship(BaseModel):
    name: Annotated[str, Field(min_length=30, max_length=40)]
    crew: Annotated[int, Field(ge=3, le=5)]
    even: Annotated[int, Field(multiple_of=2, gt=7)]
    colour: Colour
    kind: Literal["sail", "steam", 3]
    built: date
    seen: datetime
    mark: UUID
    at: Point | None
    load: list[Point] = Field(min_length=3)
    none: Annotated[list[str], Field(max_length=0)]
    either: int | str
    is_afloat: bool
    price: float = 1.5
    parent: "Ship | None" = None
    children: "list[Ship]" = []


class Number(BaseModel):
    value: Annotated[float, Field(ge=0.25, le=0.25)]
    large: Annotated[int, Field(le=-1000)]


def ask(schema: Any, content: str = "Count the ships in the fog", **more: object) -> tuple[int, Any]:
    """Status and parsed reply to a chat that asks for an object of this schema."""
    asked = {
        "messages": [{"role": "user", "content": content}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}},
        **more,
    }
    answer = Answers(MockSettings()).answer("chat/completions", orjson.dumps(asked))
    return answer.status, orjson.loads(answer.body)


@pytest.mark.parametrize("model", [Ship, Number])
def test_an_answer_fits_its_schema(model: type[BaseModel]) -> None:
    """For every prompt; recursive models come to an end."""
    for number in range(30):
        status, reply = ask(model.model_json_schema(), f"Ship {number}")

        assert status == 200, reply
        model.model_validate_json(reply["choices"][0]["message"]["content"])


def test_an_answer_is_made_of_the_prompts_words() -> None:
    """So that answers can be told apart."""
    _, reply = ask({"type": "object", "properties": {"a": {"type": "string"}}})

    said = orjson.loads(reply["choices"][0]["message"]["content"])["a"]
    assert set(said.split()) <= {"Count", "the", "ships", "in", "fog"}


def test_a_wide_recursive_schema_comes_to_an_end() -> None:
    """It would have a million values within its first levels."""
    status, reply = ask({"type": "object", "properties": {str(number): {"$ref": "#"} for number in range(10)}})

    assert status == 200, reply
    assert len(reply["choices"][0]["message"]["content"]) < 100_000


def test_any_object_will_do_where_no_schema_is_given() -> None:
    """`json_object`, as it was before there were schemas."""
    asked = {"messages": [{"role": "user", "content": "As JSON"}], "response_format": {"type": "json_object"}}

    answer = Answers(MockSettings()).answer("chat/completions", orjson.dumps(asked))

    content = orjson.loads(orjson.loads(answer.body)["choices"][0]["message"]["content"])
    assert list(content) == ["answer"]
    assert "JSON" in content["answer"]


def test_an_object_is_cut_short_as_a_text_is() -> None:
    """What is left is no JSON any more, and the finish reason says so."""
    _, reply = ask(Number.model_json_schema(), max_tokens=1)

    choice = reply["choices"][0]
    assert choice["finish_reason"] == "length"
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(choice["message"]["content"])


@pytest.mark.parametrize(
    ("schema", "fits"),
    [
        ({"const": [1, None]}, lambda value: value == [1, None]),
        ({"enum": [1, "a", None], "type": ["string", "null"]}, lambda value: value in ("a", None)),
        ({"type": ["null", "integer"]}, lambda value: isinstance(value, int)),
        ({"type": "integer", "minimum": 10, "exclusiveMaximum": 11}, lambda value: value == 10),
        ({"type": "number", "multipleOf": 0.5, "exclusiveMinimum": 1, "maximum": 1.5}, lambda value: value == 1.5),
        ({"items": {"type": "null"}, "minItems": 1}, lambda value: value == [None, None]),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, lambda value: isinstance(value, bool)),
        ({"required": ["a"], "additionalProperties": {"type": "null"}}, lambda value: value == {"a": None}),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"const": 7}}}, lambda value: value == 7),
        ({"type": "string", "format": "ipv4"}, lambda value: value.count(".") == 3),
        ({"$ref": "#"}, lambda value: isinstance(value, dict)),
        ({}, lambda value: isinstance(value, str)),
    ],
)
def test_each_simple_schema_is_kept(schema: dict[str, object], fits: Any) -> None:
    """One property of it."""
    definitions = schema.pop("$defs", {})

    status, reply = ask({"type": "object", "properties": {"it": schema}, "$defs": definitions})

    assert status == 200, reply
    assert fits(orjson.loads(reply["choices"][0]["message"]["content"])["it"])


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "string", "pattern": "^a+$"}, "'pattern' is not permitted"),
        ({"oneOf": [{"type": "string"}]}, "'oneOf' is not permitted"),
        ({"type": "text"}, "'text' is not a known type"),
        ({"type": []}, "'type' names no type"),
        ({"type": "string", "format": "isbn"}, "'isbn' is not a supported format"),
        ({"type": "string", "minLength": 5, "maxLength": 4}, "no string fits"),
        ({"type": "string", "format": "date", "maxLength": 4}, "no string of format 'date' fits"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "no number fits"),
        ({"type": "integer", "multipleOf": 0.5}, "'multipleOf'"),
        ({"type": "integer", "minimum": "5"}, "'minimum' must be a number"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "no array fits"),
        ({"enum": []}, "no value of 'enum'"),
        ({"enum": "x"}, "'enum' must be an array"),
        ({"anyOf": []}, "'anyOf' must be an array that is not empty"),
        ({"anyOf": [{"type": "string"}], "type": "integer"}, "'type' stands beside 'anyOf' and in it"),
        ({"$ref": "#/$defs/none"}, "reference can only point to definitions"),
        ({"$ref": "https://example.com/schema"}, "reference can only point to definitions"),
        ({"$ref": "#/properties/it"}, "'$ref' leads to itself"),
        ({"type": "object", "properties": {"it": {"$ref": "#"}}, "required": ["it"]}, "values without end"),
        ({"required": ["a"], "additionalProperties": False}, "'required' names 'a'"),
        ({"type": "object", "properties": []}, "'properties' must be an object"),
        ({"items": 5}, "5 is not of type 'object'"),
    ],
)
def test_a_schema_that_cannot_be_kept_is_refused_at_its_place(schema: dict[str, object], told: str) -> None:
    """An answer that breaks it would look like a success."""
    status, reply = ask({"type": "object", "properties": {"it": schema}, "required": ["it"]})

    assert (status, reply["error"]["param"]) == (400, "response_format")
    assert reply["error"]["message"].startswith(
        "Invalid schema for response_format 'thing': In context=('properties', 'it'"
    )
    assert told in reply["error"]["message"]


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ("json", "response_format", "invalid_type"),
        ({}, "response_format.type", "missing_required_parameter"),
        ({"type": "xml"}, "response_format.type", "invalid_value"),
        ({"type": "json_schema"}, "response_format.json_schema", "missing_required_parameter"),
        ({"type": "json_schema", "json_schema": 5}, "response_format.json_schema", "invalid_type"),
        ({"type": "json_schema", "json_schema": {}}, "response_format.json_schema.name", "missing_required_parameter"),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": []}},
            "response_format.json_schema.schema",
            "invalid_type",
        ),
    ],
)
def test_a_format_that_is_none_is_refused(given: object, param: str, code: str) -> None:
    """By what is missing or wrong in it."""
    asked = {"messages": [{"role": "user", "content": "x"}], "response_format": given}

    answer = Answers(MockSettings()).answer("chat/completions", orjson.dumps(asked))

    error = orjson.loads(answer.body)["error"]
    assert (answer.status, error["param"], error["code"]) == (400, param, code)


def test_numbers_do_not_need_a_decimal_type() -> None:
    """A decimal of pydantic asks for a number or a text with a pattern; the first will do."""

    class Price(BaseModel):
        amount: Decimal

    status, reply = ask(Price.model_json_schema())

    assert status == 200, reply
    Price.model_validate_json(reply["choices"][0]["message"]["content"])
