"""Table of the formats of files, other than JSON lines, which `RowReader` itself splits."""

from collections.abc import Callable
from typing import Protocol

from llmblast.reading.csv_rows import CsvRows
from llmblast.reading.json_items import JsonItems
from llmblast.reading.row_form import RowForm
from llmblast.reading.table_rows import OpenBatches, open_arrow, open_parquet
from llmblast.reading.text_lines import TextLines


class Splitter(RowForm, Protocol):
    """Makes numbered lines of JSON of the blocks of one file. A row that cannot become one is a BadRow."""

    def feed(self, block: bytes) -> list[tuple[int, bytes]]:
        """Return the lines that end in a block. Raises UsageError and InputDamagedError."""

    def finish(self) -> list[tuple[int, bytes]]:
        """Return the last line. Raises InputDamagedError where the file ends too early."""


SPLITTERS: dict[str, Callable[[str], Splitter]] = {
    "csv": CsvRows,
    "tsv": lambda name: CsvRows(name, "\t"),
    "json": JsonItems,
    "text": TextLines,
}
"""Formats that are read from the first byte to the last, other than JSON lines."""
TABLES: dict[str, OpenBatches] = {"parquet": open_parquet, "arrow": open_arrow}
"""Formats that need the end of the file first."""
