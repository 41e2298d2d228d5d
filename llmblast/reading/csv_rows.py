"""CSV and TSV (RFC 4180): rows of texts, whose names are in the header; each row becomes one line of JSON.

The reader of the standard library decides where a row ends, since quotes inside of a plain value are text. It has no
way to say that the last row is open. So each block ends with a mark: a row that holds it and more is not complete.
"""

import csv
import re
from collections.abc import Sequence
from io import BytesIO, TextIOWrapper
from itertools import islice
from typing import Final

import orjson

from llmblast.errors import InputDamagedError, UsageError
from llmblast.reading.bad_row import bad_row
from llmblast.reading.block_buffer import BlockBuffer
from llmblast.reading.fields import compact_json
from llmblast.reading.input_places import input_place
from llmblast.reading.lines import BOM, MAX_LINE_BYTES

_MARK: Final = "\x00END\x00"
_QUOTED = re.compile(r'"[^"]*"')
_DELIMITERS = (",", ";", "\t", "|")
"""In the order in which a header is searched for them."""
_SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n?$")
"""First line of files that Excel writes."""
_MESSAGES: Final = "messages"
_APPEND_NEWLINE: Final = orjson.OPT_APPEND_NEWLINE
"""Cutting the newline makes a copy: what orjson returns keeps a buffer many times as large while the line is queued."""
_JSON: Final = (_MESSAGES, "params", "headers", "priority")
"""Columns that hold JSON."""
_OPTIONAL: Final = (*_JSON, "id", "custom_id", "system", "model", "endpoint")
"""Columns in which an empty cell means that the row has no such field."""


class CsvRows:
    """Split the blocks of one file into rows. `number` of a row is the line at which it begins."""

    unit: Final = "line"
    is_typed: Final = False

    def __init__(self, name: str, delimiter: str | None = None) -> None:
        self.name = name
        self._delimiter = delimiter
        self._buffer = BlockBuffer()
        self._lines_before = 0
        self._header: list[str] | None = None
        self._optional: Sequence[str] = ()
        """Columns of `_OPTIONAL` that the file has."""
        self._has_json = False
        self._has_started = False
        csv.field_size_limit(MAX_LINE_BYTES)

    @property
    def columns(self) -> Sequence[str]:
        """Return the names of the columns, once they are read."""
        return self._header or ()

    def feed(self, block: bytes) -> list[tuple[int, bytes]]:
        """Return the rows that end in `block`. Raises UsageError for equal names, InputDamagedError for a huge row."""
        if self._buffer.size_bytes + len(block) > MAX_LINE_BYTES:
            raise self._damage("a row of more than 64 MiB begins here")
        data = self._buffer.add(block)
        if data is None:
            return []
        end = max(data.rfind(b"\n"), data.rfind(b"\r", 0, -1)) + 1
        if not end:
            self._buffer.hold(data)
            return []
        rows, open_row = self._split(data[:end])
        self._buffer.hold(open_row + data[end:])
        return rows

    def finish(self) -> list[tuple[int, bytes]]:
        """Return the last row. Raises InputDamagedError if a quote is not closed."""
        data = self._buffer.take()
        if not data:
            return []
        rows, open_row = self._split(data if data.endswith((b"\n", b"\r")) else data + b"\n")
        if open_row:
            raise self._damage("the row that begins here has a quote that is not closed")
        return rows

    def _damage(self, what: str) -> InputDamagedError:
        place = input_place(self.name, self.unit, self._lines_before + 1)
        return InputDamagedError(f"{place}: {what}: close the quote and run the same command again")

    def _split(self, data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
        """Return the complete rows in `data`, which ends with a line end, and the rest."""
        if not self._has_started:
            data = self._start(data)
            self._has_started = True
        found: list[tuple[int, list[str]]] = []
        at = 0
        reader = csv.reader(_text_lines(data + _MARK.encode()), delimiter=self._delimiter or ",")
        for row in reader:
            found.append((at, row))
            at = reader.line_num
        line, last = found.pop()
        rest = b"" if last == [_MARK] else _behind(data, line)
        rows = self._rows(found)
        self._lines_before += line
        return rows, rest

    def _start(self, data: bytes) -> bytes:
        """Return the data without a BOM and a line that names the delimiter; find the delimiter if it is not known."""
        data = data.removeprefix(BOM)
        first = next(_text_lines(data), "")
        if match := _SEPARATOR_LINE.match(first):
            self._delimiter = match[1]
            self._lines_before = 1
            return _behind(data, 1)
        if self._delimiter is None:
            plain = _QUOTED.sub("", first)
            self._delimiter = next((mark for mark in _DELIMITERS if mark in plain), ",")
        return data

    def _rows(self, found: Sequence[tuple[int, list[str]]]) -> list[tuple[int, bytes]]:
        rows: list[tuple[int, bytes]] = []
        before = self._lines_before + 1
        dumps, header, optional = orjson.dumps, self._header, self._optional
        for line, row in found:
            if not row:
                continue
            if header is None:
                header = self._header = self._checked(row, before + line)
                optional = self._optional = [name for name in _OPTIONAL if name in header]
                self._has_json = any(name in header for name in _JSON)
                continue
            if len(row) == len(header) and not self._has_json:
                fields = dict(zip(header, row, strict=True))
                for name in optional:
                    if not fields[name]:
                        del fields[name]
                try:
                    rows.append((before + line, dumps(fields, None, _APPEND_NEWLINE)[:-1]))
                    continue
                except orjson.JSONEncodeError:
                    pass  # not UTF-8
            if len(row) == 1 and not row[0].strip():
                continue
            rows.append((before + line, self._unusual(header, row)))
        return rows

    def _unusual(self, header: Sequence[str], row: Sequence[str]) -> bytes:
        """Return the line for a row with JSON in it, or that does not fit the header, or is not UTF-8."""
        raw = (self._delimiter or ",").join(row).encode(errors="surrogateescape")
        if len(row) != len(header):
            return bad_row(
                raw,
                f"the row has {len(row)} values, the header names {len(header)}: correct it, and put values with a "
                f"{_name_of(self._delimiter)} or a line end in double quotes",
            )
        texts = dict(zip(header, row, strict=True))
        fields: dict[str, object] = {name: text for name, text in texts.items() if text or name not in _OPTIONAL}
        try:
            for name in _JSON:
                if text := texts.get(name):
                    fields[name] = orjson.loads(text) if name == _MESSAGES else _json_or_text(text)
            return compact_json(fields)
        except orjson.JSONDecodeError:
            return bad_row(raw, 'the column "messages" is not JSON: write a list such as [{"role": "user", ...}]')
        except orjson.JSONEncodeError:
            return bad_row(raw, "invalid UTF-8: save the file as UTF-8")

    def _checked(self, row: Sequence[str], line: int) -> list[str]:
        """Return the names of the columns. Raises UsageError where two are equal or one cannot be written."""
        names = [name.strip() for name in row]
        place = input_place(self.name, self.unit, line)
        try:
            orjson.dumps(names)
        except orjson.JSONEncodeError:
            raise UsageError(f"{place}: the header is not UTF-8: save the file as UTF-8") from None
        check_names(place, names)
        return names


def _json_or_text(text: str) -> object:
    """Return the value of a cell with JSON; another text as it is: the format of the line tells what it should be."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def check_names(place: str, names: Sequence[str]) -> None:
    """Raise UsageError where two columns have one name: a value would be lost."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UsageError(f'{place}: two columns are named "{name}": give each column its own name')
        seen.add(name)


def _name_of(delimiter: str | None) -> str:
    return {";": "semicolon", "\t": "tab", "|": "bar"}.get(delimiter or ",", "comma")


def _text_lines(data: bytes) -> TextIOWrapper:
    return TextIOWrapper(BytesIO(data), encoding="utf-8", errors="surrogateescape", newline="")


def _behind(data: bytes, lines: int) -> bytes:
    """Return the data behind so many lines, which end as the reader takes them."""
    text = _text_lines(data)
    skipped = sum(len(line.encode(errors="surrogateescape")) for line in islice(text, lines))
    return data[skipped:]
