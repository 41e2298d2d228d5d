"""CSV and TSV that keep types: a cell that is not text is JSON.

| cell | value |
|---|---|
| empty | the row has no such member |
| `12`, `0.5`, `true`, `null`, `{"a":1}`, `[1]` | the JSON value |
| `"12"`, `""` (JSON, in quotes of its own) | a text that is empty, reads as one of these, or has a lone CR |
| anything else | the text itself |

Quotes, line ends and separators in a cell are quoted as RFC 4180 says.
"""

import csv
import io
from functools import partial
from typing import Any, BinaryIO

import orjson

from llmblast.converting.columns import ABSENT, Column, cells_of
from llmblast.converting.rows import Row, load_value
from llmblast.writing.safe_json import dump_line

_FIRST_OF_JSON = frozenset('{["-0123456789')
_JSON_SPACE = " \t\r\n"
_WORDS = frozenset(("true", "false", "null"))
_FIRST_OF_OTHERS = frozenset(("t", "f", "n", *_JSON_SPACE))
_MAX_PLAIN_INT = 2**63
_DECODED = "messages"
"""Column whose JSON `reading` has decoded."""


def values_of_cells(row: Row) -> Row:
    """Return a row of texts with the values that its cells stand for, without empty cells."""
    return {
        name: _value(cell) if type(cell) is str and name != _DECODED else cell
        for name, cell in row.items()
        if cell != ""
    }


def _value(cell: str) -> Any:
    """Return the JSON value in a cell, else its text. A parser would take far longer to refuse a long text."""
    if cell[0] not in _FIRST_OF_JSON and (cell[0] not in _FIRST_OF_OTHERS or not _is_other(cell)):
        return cell
    try:
        return load_value(cell.encode())
    except orjson.JSONDecodeError:
        return cell


def _is_other(cell: str) -> bool:
    """Return whether a cell is a word of JSON, or white space and then what may be JSON."""
    text = cell.strip(_JSON_SPACE)
    return text in _WORDS or (text != cell and text[:1] in _FIRST_OF_JSON)


class Writer:
    """Write rows to a file with a header."""

    def __init__(self, file: BinaryIO, columns: list[Column], *, separator: str = ",") -> None:
        self._columns = columns
        self._text = io.TextIOWrapper(file, "utf-8", newline="")
        self._lines = csv.writer(self._text, delimiter=separator, lineterminator="\n")
        self._lines.writerow([column.name for column in columns])

    def write(self, row: Row) -> None:
        """Write one row."""
        self._lines.writerow([_cell(value) for value in cells_of(row, self._columns)])

    def close(self) -> None:
        """Write what is left."""
        self._text.flush()
        self._text.detach()


def _cell(value: Any) -> str:
    if value is ABSENT:
        return ""
    if isinstance(value, str) and value and _value(value) is value and ("\r" not in value or "\n" in value):
        return value  # the csv module puts no quotes around a carriage return alone
    if type(value) is float:
        return orjson.dumps(value).decode()
    if type(value) is int and abs(value) < _MAX_PLAIN_INT:
        return str(value)
    return dump_line({"": value})[4:-2].decode()


TsvWriter = partial(Writer, separator="\t")
