"""From a line's bytes to its fields, and what all formats ask of them; whatever is wrong is said in people's words."""

import sys
from collections.abc import Mapping

import orjson

from llmblast.reading.exact_numbers import read_huge_numbers

MAX_DEPTH = 240
"""Levels of nesting. orjson reads 1,024 and writes 254; records nest a line's fields a few levels deeper."""

STREAM_REFUSAL = '"stream": true is not supported, replies are read whole: remove it'


class BadLine(Exception):  # noqa: N818 -- not an error of the program: a value that every format can say from any depth
    """A line that no request can be made of. Columns count the characters of the stripped line from 1."""

    def __init__(self, message: str, column: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.column = column


def parse_fields(text: bytes) -> dict[str, object]:
    """Reads a JSON object whose every part orjson can write again. Raises BadLine.

    Integers beyond 64 bits become floats, as orjson reads them: see `exact_numbers`.
    """
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        fields = read_huge_numbers(text, error)
        if fields is None:
            from llmblast.reading.diagnosis import diagnose  # noqa: PLC0415 -- most inputs have no such line

            raise BadLine(*diagnose(text, error)) from None
    if type(fields) is not dict:
        raise BadLine('not a JSON object: write one object a line, such as {"input": "..."}')
    if len(text) > MAX_DEPTH and text.count(b"[") + text.count(b"{") > MAX_DEPTH:
        _check_depth(fields)
    return fields


def own_id(fields: Mapping[str, object], number: int) -> str | int:
    """The line's `custom_id` or `id`, else its number. Raises BadLine for one that no record could be found by."""
    value = fields.get("custom_id")
    if value is None and (value := fields.get("id")) is None:
        return number
    if type(value) is str or type(value) is int:
        return value
    name = "id" if fields.get("custom_id") is None else "custom_id"
    raise BadLine(f'"{name}" must be a string or an integer of at most 64 bits')


def needs_model(body: Mapping[str, object]) -> bool:
    """Whether a request body leaves the model to the endpoint. Raises BadLine for one that cannot be sent as it is."""
    if body.get("stream") is True:
        raise BadLine(STREAM_REFUSAL)
    if body.get("background") is True:
        raise BadLine('"background": true is not supported, replies are not fetched later: remove it')
    if "model" not in body:
        return True
    if type(body["model"]) is not str:
        raise BadLine('"model" must be a string; without it the endpoint\'s model is used')
    return False


def model_of(body: Mapping[str, object]) -> str | None:
    """Return the model that a body names. Equal names are one object, however many lines name them."""
    model = body.get("model")
    return sys.intern(model) if type(model) is str else None


def max_tokens_of(params: Mapping[str, object]) -> int | None:
    """The cap on completion tokens that a body sets, where it is one."""
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        value = params.get(name)
        if type(value) is int and value > 0:
            return value
    return None


def _check_depth(fields: dict[str, object]) -> None:
    """Level by level instead of by recursion, so that no depth can break the check itself."""
    level: list[object] = [fields]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for value in level
            for item in (value.values() if type(value) is dict else value if type(value) is list else ())
            if type(item) is dict or type(item) is list
        ]
        if not level:
            return
    raise BadLine(f"nested more than {MAX_DEPTH} levels deep: flatten it")
