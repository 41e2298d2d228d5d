"""Rows: what stands between a file and a form, with places for messages. Numbers keep all their digits."""

import json
import re
from collections.abc import Generator, Mapping
from typing import Any, Final, NamedTuple

import orjson

from llmblast.errors import InputDamagedError
from llmblast.writing.safe_json import dump_line

Row = dict[str, Any]
_LONG_NUMBER: Final = re.compile(rb"[0-9]{19}")
"""May be beyond 64 bits, which orjson reads as a float."""


class PlacedRow(NamedTuple):
    """A row with its number: that of its line in a text file, else that of the row, from 1."""

    number: int
    row: Row


Rows = Generator[PlacedRow, None, None]


def load_value(text: bytes) -> Any:
    """Return the JSON value in a text. Raises orjson.JSONDecodeError."""
    value = orjson.loads(text)
    return json.loads(text) if _LONG_NUMBER.search(text) else value


def dump_row(row: Mapping[str, object]) -> bytes:
    """Return a row as one line of JSON with its newline."""
    return dump_line(row)


def plain(row: Mapping[str, object]) -> Row:
    """Return a row of Python's own values, without fragments of JSON."""
    value: Row = load_value(dump_line(row))
    return value


def bad_row(name: str, number: int, reason: str) -> InputDamagedError:
    """Return the error for a row that cannot be converted."""
    return InputDamagedError(f"{name}:{number}: {reason}")
