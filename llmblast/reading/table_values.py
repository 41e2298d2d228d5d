"""Table values: columns of Arrow as values that JSON has, and what an empty cell of a table means.

Every row of a table has all columns, and every struct all members. So null in what is sent means "not given": providers
reject `"temperature": null` or `"name": null`. In the user's own fields null stays. Tables that `llmblast convert`
wrote say in the metadata of each column whether its texts are JSON, and what an empty cell means.
"""

import base64
from collections.abc import Sequence
from datetime import time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import orjson

from llmblast.reading.bad_row import bad_row
from llmblast.reading.raw import SENT_COLUMNS

if TYPE_CHECKING:
    from pyarrow import RecordBatch, Schema

JSON_TEXT: Final = b"llmblast.json"
"""Key in the metadata of a column whose texts are JSON."""
EMPTY: Final = b"llmblast.empty"
"""Key in the metadata of a column: what its empty cells mean, ABSENT or null."""
ABSENT: Final = b"absent"
_DUMP_OPTIONS: Final = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE
"""Cutting the newline makes a copy: what orjson returns keeps a buffer many times as large while the line is queued."""
_MESSAGES: Final = "messages"
_SENT: Final = SENT_COLUMNS | {"params", "body"}


class RowWriter:
    """Write each row of a table as one line of JSON."""

    def __init__(self, schema: "Schema") -> None:
        self._names: Sequence[str] = schema.names
        metadata = [field.metadata or {} for field in schema]
        self._json = [index for index, each in enumerate(metadata) if JSON_TEXT in each]
        self._foreign_sent = [
            index for index, name in enumerate(self._names) if name in _SENT and EMPTY not in metadata[index]
        ]
        self._may_be_absent = frozenset(
            name for name, each in zip(self._names, metadata, strict=True) if each.get(EMPTY) == ABSENT
        ).union(self._names[index] for index in self._foreign_sent)

    def lines_of(self, batch: "RecordBatch") -> list[bytes]:
        """Return the lines of a batch; a row that is not valid is a BadRow. Raises ValueError and ArrowException."""
        columns = [_values_of(column) for column in batch.columns]
        for index in self._json:
            columns[index] = [_fragment(value) for value in columns[index]]
        for index in self._foreign_sent:
            is_text = self._names[index] == _MESSAGES
            columns[index] = [_given(_from_json(value) if is_text else value) for value in columns[index]]
        names, may_be_absent = self._names, self._may_be_absent
        if not may_be_absent:
            return [_line(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]
        return [
            _line(
                {
                    name: value
                    for name, value in zip(names, row, strict=True)
                    if value is not None or name not in may_be_absent
                }
            )
            for row in zip(*columns, strict=True)
        ]


def _line(row: dict[str, object]) -> bytes:
    try:
        return orjson.dumps(row, default=_as_json, option=_DUMP_OPTIONS)[:-1]
    except orjson.JSONEncodeError as error:
        text = repr(row).encode(errors="backslashreplace")
        return bad_row(text, f"the row cannot be written as JSON: {error}: write texts in UTF-8, and names as texts")


def _given(value: object) -> object:
    """Return a value without the members of structs that are null."""
    if isinstance(value, dict):
        return {name: _given(member) for name, member in value.items() if member is not None}
    return [_given(item) for item in value] if isinstance(value, list) else value


def _fragment(value: object) -> object:
    """Return the JSON in a text with all its digits; another text as it is."""
    if not isinstance(value, str):
        return value
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError:
        return value
    return orjson.Fragment(value)


def _from_json(value: object) -> object:
    """Return the messages that a text holds; what is no JSON as it is, which the parser refuses."""
    try:
        return orjson.loads(value) if isinstance(value, str) else value
    except orjson.JSONDecodeError:
        return value


def _values_of(column: Any) -> list[object]:
    """Return the values of a column as Python's; times with nanoseconds, which Python lacks, as texts."""
    try:
        values: list[object] = column.to_pylist(maps_as_pydicts="lossy")
    except UnicodeDecodeError:
        texts = column.cast("large_binary").to_pylist()
        return [None if text is None else text.decode(errors="surrogateescape") for text in texts]
    except ValueError:
        return [_value_of(scalar) for scalar in column]
    return values


def _value_of(scalar: Any) -> object:
    """Return one value, at whatever depth its nanoseconds are."""
    from pyarrow import types  # noqa: PLC0415 -- a heavy library of an extra

    if not scalar.is_valid:
        return None
    if types.is_dictionary(scalar.type):
        return _value_of(scalar.value)
    if types.is_nested(scalar.type):
        return _nested_value(scalar)
    if types.is_duration(scalar.type):
        text = str(scalar.cast("duration[ns]").value)
        return _duration(Decimal(text).scaleb(-9))
    if types.is_temporal(scalar.type):
        return str(scalar.cast("string").as_py()).replace(" ", "T", 1)
    value: object = scalar.as_py()
    return value


def _nested_value(scalar: Any) -> object:
    from pyarrow import types  # noqa: PLC0415 -- a heavy library of an extra

    if types.is_map(scalar.type):
        return {entry["key"].as_py(): _value_of(entry["value"]) for entry in scalar.values}
    if types.is_struct(scalar.type):
        return {name: _value_of(member) for name, member in scalar.items()}
    return [_value_of(item) for item in scalar.values]


def _as_json(value: object) -> object:
    """Return a JSON value for what orjson cannot write."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal):
        return orjson.Fragment(format(value, "f"))
    if isinstance(value, timedelta):
        return _duration(Decimal(value // timedelta(microseconds=1)) / 1_000_000)
    if isinstance(value, time):
        return value.isoformat()
    return str(value)


def _duration(seconds: Decimal) -> str:
    return f"PT{seconds:f}S"
