"""File formats: how the bytes of an input become lines, by its name, its first bytes, or the setting `format`."""

import os
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from llmblast.reading.csv_rows import CsvRows
from llmblast.reading.json_items import JsonItems
from llmblast.reading.lines import BOM, LineSplitter
from llmblast.reading.table_rows import OpenBatches, open_arrow, open_parquet
from llmblast.reading.text_lines import TextLines
from llmblast.settings import FILE_FORMATS


class Splitter(Protocol):
    """Makes numbered lines of JSON of the blocks of one file. A row that cannot become one is a BadRow."""

    @property
    def name(self) -> str:
        """Name of the file, for messages."""

    @property
    def unit(self) -> str:
        """What its numbers count, for messages: line, row or item."""

    @property
    def is_typed(self) -> bool:
        """Whether values have types; in CSV all are texts."""

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns, once they are read; empty where each line has its own names."""

    def feed(self, block: bytes) -> list[tuple[int, bytes]]:
        """Return the lines that end in a block. Raises UsageError and InputDamagedError."""

    def finish(self) -> list[tuple[int, bytes]]:
        """Return the last line. Raises InputDamagedError where the file ends too early."""


class JsonLines:
    """One JSON object a line: the usual format. It has a LineSplitter: nothing may inherit from a compiled class."""

    unit: Final = "line"
    is_typed: Final = True
    columns: Final[Sequence[str]] = ()

    def __init__(self, name: str) -> None:
        self.name = name
        splitter = LineSplitter()
        self.feed = splitter.feed
        self.finish = splitter.finish


SPLITTERS: dict[str, Callable[[str], Splitter]] = {
    "jsonl": JsonLines,
    "csv": CsvRows,
    "tsv": lambda name: CsvRows(name, "\t"),
    "json": JsonItems,
    "text": TextLines,
}
"""Formats that are read from the first byte to the last."""
TABLES: dict[str, OpenBatches] = {"parquet": open_parquet, "arrow": open_arrow}
"""Formats that need the end of the file first."""
_BY_ENDING = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
_PACKED = (".gz", ".zst", ".bz2", ".xz")
_MAGIC = {b"PAR1": "parquet", b"PARE": "parquet", b"ARROW1": "arrow", b"FEA1": "arrow"}
_LONGEST_MAGIC = max(map(len, _MAGIC))
_MAX_START_BYTES = 64 * 1024


def forced_format(setting: str) -> str | None:
    """Return the format of files that the setting `format` forces; None if it is one of lines."""
    return setting if setting in FILE_FORMATS else None


def detect(name: str, start: bytes, *, is_whole: bool) -> str | None:
    """Return the format of a file by its name and first bytes; None if more bytes are needed to tell."""
    for magic, found in _MAGIC.items():
        if start.startswith(magic):
            return found
        if magic.startswith(start) and not is_whole:
            return None
    base, ending = os.path.splitext(name.lower())
    if ending in _PACKED:
        ending = os.path.splitext(base)[1]
    if ending in _BY_ENDING:
        return _BY_ENDING[ending]
    return _by_start(start.removeprefix(BOM), is_json=ending == ".json", is_whole=is_whole)


def _by_start(start: bytes, *, is_json: bool, is_whole: bool) -> str | None:
    """Tell an array or spread objects from lines: the first line is no object, only the start of one."""
    text = start.lstrip()
    bracket, behind = text[:1], text[1:].lstrip()
    is_decided = is_whole or len(start) > _MAX_START_BYTES
    if bracket not in (b"{", b"["):
        return "jsonl" if bracket or is_decided else None
    if is_json and bracket == b"{" and b"\n" not in text and not is_decided:
        return None
    if not behind and not is_decided:
        return None
    gap = text[1 : len(text) - len(behind)]
    if bracket == b"[":
        is_array = behind[:1] in (b"{", b"]") or b"\n" in gap or is_json
        return "json" if is_array else "jsonl"
    first_line = text.partition(b"\n")[0].rstrip()
    is_spread = b"\n" in gap or (is_json and not first_line.endswith(b"}"))
    return "json" if is_spread else "jsonl"
