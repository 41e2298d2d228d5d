"""Parse the fields of a line, and read members that all formats have in common; errors are worded for people."""

import sys
from collections.abc import Container, Mapping
from typing import Final

import orjson

from llmblast.reading.exact_numbers import read_huge_numbers

_loads: Final = orjson.loads
MAX_DEPTH: Final = 240
"""Levels of nesting. orjson reads 1,024 and writes 254; records nest a line's fields a few levels deeper."""

MEDIA_KINDS: Final = {"images": "image", "files": "", "audio": "audio", "video": "video"}
"""Fields of simple lines that name media (see `media`), and the kind of each; `files` holds all kinds."""
STREAM_REFUSAL: Final = '"stream": true is not supported, replies are read whole: remove it'


_SHOWN_NAMES: Final = 20
_SHOWN_CHARACTERS: Final = 40


class BadLine(Exception):  # noqa: N818 -- no error of the program: a verdict on the line
    """A line that asks for no valid request. Columns count the characters of the stripped line from 1."""

    def __init__(self, message: str, column: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.column = column


def parse_fields(text: bytes) -> dict[str, object]:
    """Return the members of a JSON object, all of which orjson can write again. Raises BadLine.

    orjson reads integers beyond 64 bits as floats: see `exact_numbers`.
    """
    try:
        fields = _loads(text)
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


def without(names: Container[str], fields: dict[str, object]) -> dict[str, object]:
    """Return the fields whose names are not among `names`."""
    return {name: value for name, value in fields.items() if name not in names}


def shown_names(fields: Mapping[str, object]) -> str:
    """Return the names of the fields that are there, for a message about one that is not."""
    if not fields:
        return "it has no fields"
    names = [name[:_SHOWN_CHARACTERS] for name in list(fields)[:_SHOWN_NAMES]]
    more = f" and {len(fields) - _SHOWN_NAMES} more" if len(fields) > _SHOWN_NAMES else ""
    return f"it has: {', '.join(names)}{more}"


def move_own_fields(body: dict[str, object], own: frozenset[str], extra: dict[str, object]) -> dict[str, object]:
    """Return a body without the user's `own` fields, and add these to `extra`, which the record keeps."""
    if own.isdisjoint(body):
        return body
    extra.update({name: value for name, value in body.items() if name in own})
    return without(own, body)


def compact_json(body: Mapping[str, object]) -> bytes:
    """Return a body as JSON. The copy frees the buffer of orjson, many times as large, while the line is queued."""
    return bytes(memoryview(orjson.dumps(body)))


def own_id(fields: dict[str, object], number: int) -> str | int:
    """Return the line's `custom_id` or `id`, else its number. Raises BadLine for an id of another JSON type."""
    value = fields.get("custom_id")
    if value is None and (value := fields.get("id")) is None:
        return number
    if type(value) is str or type(value) is int:
        return value
    name = "id" if fields.get("custom_id") is None else "custom_id"
    raise BadLine(f'"{name}" must be a string or an integer of at most 64 bits')


def needs_model(body: Mapping[str, object]) -> bool:
    """Return whether a request body names no model. Raises BadLine for members that cannot be sent."""
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
    """Return the maximum of completion tokens that a body sets, if it sets a valid one."""
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        value = params.get(name)
        if type(value) is int and value > 0:
            return value
    return None


def _check_depth(fields: dict[str, object]) -> None:
    """Raise BadLine for too deep a nesting; go level by level, since recursion could overflow the stack."""
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
