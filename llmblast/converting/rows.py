"""Rows: what stands between a file and a form. Numbers keep all their digits."""

import json
from collections.abc import Mapping
from typing import Any, Final

import orjson

from llmblast.reading import OversizedLine
from llmblast.reading.fields import BadLine, parse_fields
from llmblast.writing.safe_json import dump_line

Row = dict[str, Any]
_LONG_NUMBER_DIGITS: Final = 19
"""So long a number may be beyond 64 bits, which orjson reads as a float."""
_LONG_NUMBER: Final = b"0" * _LONG_NUMBER_DIGITS
_DIGITS_AS_ZEROS: Final = bytes.maketrans(b"123456789", b"000000000")


def load_row(text: bytes) -> Row:
    """Return the row in a line of JSON. Raises BadLine."""
    if isinstance(text, OversizedLine):
        raise BadLine(f"the line has {text.size_bytes:,} bytes, more than 64 MiB: split it; only its start is kept")
    row = parse_fields(text)
    if _has_long_number(text):
        exact: Row = json.loads(text)
        return exact
    return row


def load_value(text: bytes) -> Any:
    """Return the JSON value in a text. Raises orjson.JSONDecodeError."""
    value = orjson.loads(text)
    return json.loads(text) if _has_long_number(text) else value


def _has_long_number(text: bytes) -> bool:
    """Search for it without a regular expression, which takes ten times as long."""
    return len(text) >= _LONG_NUMBER_DIGITS and _LONG_NUMBER in text.translate(_DIGITS_AS_ZEROS)


def dump_row(row: Mapping[str, object]) -> bytes:
    """Return a row as one line of JSON with its newline."""
    return dump_line(row)


def plain(row: Mapping[str, object]) -> Row:
    """Return a row of Python's own values, without fragments of JSON."""
    value: Row = load_value(dump_line(row))
    return value
