"""JSONL: one row a line."""

from typing import BinaryIO

from llmblast.converting.columns import Column
from llmblast.converting.rows import Row, dump_row


class Writer:
    """Write rows to a file, whatever members each of them has."""

    def __init__(self, file: BinaryIO, columns: list[Column]) -> None:
        self._file = file

    def write(self, row: Row) -> None:
        """Write one row."""
        self._file.write(dump_row(row))

    def close(self) -> None:
        """Do nothing: the last line is complete."""
