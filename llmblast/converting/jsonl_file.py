"""JSONL: one row a line."""

from typing import BinaryIO

import orjson

from llmblast.converting.columns import Column
from llmblast.converting.rows import PlacedRow, Row, Rows, bad_row, dump_row, load_value
from llmblast.errors import InputDamagedError
from llmblast.reading import LineSplitter, OversizedLine

_BLOCK_BYTES = 256 * 1024


def read(file: BinaryIO, name: str) -> Rows:
    """Yield the rows of a file. Raises InputDamagedError for a line that is no JSON object."""
    splitter = LineSplitter()
    while block := file.read(_BLOCK_BYTES):
        for number, text in splitter.feed(block):
            yield PlacedRow(number, _load(name, number, text))
    for number, text in splitter.finish():
        yield PlacedRow(number, _load(name, number, text))


def _load(name: str, number: int, text: bytes) -> Row:
    if isinstance(text, OversizedLine):
        raise bad_row(name, number, f"the line has {text.size_bytes:,} bytes, more than 64 MiB: split it")
    try:
        row = load_value(text)
    except orjson.JSONDecodeError as error:
        raise InputDamagedError(f"{name}:{number}:{error.pos + 1}: not JSON: {error.msg}") from None
    if not isinstance(row, dict):
        raise bad_row(name, number, "not a JSON object: write one object a line")
    return row


class Writer:
    """Write rows to a file, whatever members each of them has."""

    needs_schema = False

    def __init__(self, file: BinaryIO, columns: list[Column]) -> None:
        self._file = file

    def write(self, row: Row) -> None:
        """Write one row."""
        self._file.write(dump_row(row))

    def close(self) -> None:
        """Do nothing: the last line is complete."""
