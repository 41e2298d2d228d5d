"""CSV and TSV that keep types: a cell that is not text is JSON.

| cell | value |
|---|---|
| empty | the row has no such member |
| `12`, `0.5`, `true`, `null`, `{"a":1}`, `[1]` | the JSON value |
| `"12"`, `""` (JSON, in quotes of its own) | a text that would else be read as one of these, or an empty one |
| anything else | the text itself |

Quotes, line ends and separators in a cell are quoted as RFC 4180 says.
"""

import csv
import io
from collections import Counter
from functools import partial
from typing import Any, BinaryIO

import orjson

from llmblast.converting.columns import ABSENT, Column, cells_of, unflatten
from llmblast.converting.rows import PlacedRow, Row, Rows, bad_row, load_value
from llmblast.errors import InputDamagedError
from llmblast.writing.safe_json import dump_line

_FIRST_OF_JSON = frozenset('{["-0123456789')
_JSON_SPACE = " \t\r\n"
_WORDS = frozenset(("true", "false", "null"))
MAX_CELL_CHARS = 64 * 1024 * 1024


def read(file: BinaryIO, name: str, *, separator: str = ",") -> Rows:
    """Yield the rows of a file whose first line names the columns. Raises InputDamagedError."""
    csv.field_size_limit(MAX_CELL_CHARS)
    text = io.TextIOWrapper(file, "utf-8-sig", newline="")
    lines = csv.reader(text, delimiter=separator, strict=True)
    number = 1
    try:
        header = next(lines, [])
        _check_header(name, header)
        number = lines.line_num + 1
        for cells in lines:
            if cells:
                if len(cells) != len(header):
                    raise bad_row(name, number, f"{len(cells)} cells, but the header names {len(header)} columns")
                row = {column: _value(cell) for column, cell in zip(header, cells, strict=True) if cell}
                yield PlacedRow(number, unflatten(row))
            number = lines.line_num + 1
    except UnicodeDecodeError:
        raise bad_row(name, number, "not UTF-8 here or below: save the file as UTF-8") from None
    except csv.Error as error:
        raise bad_row(name, number, f"no valid CSV: {error}") from None
    finally:
        text.detach()


def _check_header(name: str, header: list[str]) -> None:
    double = [column for column, count in Counter(header).items() if count > 1]
    if double:
        raise InputDamagedError(f"{name}:1: two columns have the name {double[0]!r}: rename one")


def _value(cell: str) -> Any:
    """Return the JSON value in a cell, else its text."""
    if not _may_be_json(cell):
        return cell
    try:
        return load_value(cell.encode())
    except orjson.JSONDecodeError:
        return cell


def _may_be_json(cell: str) -> bool:
    """Return whether a cell starts like JSON; a parser would take far longer to refuse a long text."""
    if cell[:1] in _FIRST_OF_JSON:
        return True
    text = cell.strip(_JSON_SPACE)
    return text in _WORDS or (text != cell and text[:1] in _FIRST_OF_JSON)


class Writer:
    """Write rows to a file with a header."""

    needs_schema = True

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
    if isinstance(value, str) and value and _value(value) is value:
        return value
    return dump_line({"": value})[4:-2].decode()


read_tsv = partial(read, separator="\t")
TsvWriter = partial(Writer, separator="\t")
