"""Table of the kinds of files: how rows are written to each. `reading` reads them."""

from collections.abc import Callable, Mapping
from os.path import splitext
from typing import BinaryIO, NamedTuple, Protocol

from llmblast.converting import arrow_file, csv_file, jsonl_file
from llmblast.converting.columns import Column
from llmblast.converting.rows import Row
from llmblast.errors import UsageError
from llmblast.settings import FILE_FORMATS


class RowWriter(Protocol):
    """Writes rows to an open file."""

    def write(self, row: Row) -> None: ...

    def close(self) -> None:
        """Write what is left; the file stays open."""


class FileKind(NamedTuple):
    """`is_table`: all rows have the same columns, so that a schema is needed before the first one is written."""

    make_writer: Callable[[BinaryIO, list[Column]], RowWriter]
    is_table: bool


FILE_KINDS: Mapping[str, FileKind] = {
    "jsonl": FileKind(jsonl_file.Writer, is_table=False),
    "csv": FileKind(csv_file.Writer, is_table=True),
    "tsv": FileKind(csv_file.TsvWriter, is_table=True),
    "parquet": FileKind(arrow_file.ParquetWriter, is_table=True),
    "arrow": FileKind(arrow_file.ArrowWriter, is_table=True),
}
INPUT_KINDS = ("jsonl", *FILE_FORMATS)
"""Kinds of files that can be read."""
_ENDINGS = {"ndjson": "jsonl", "tab": "tsv", "pq": "parquet", "feather": "arrow", "ipc": "arrow"}


def kind_of(path: str, named: str | None, flag: str) -> str:
    """Return the kind of a file: that which is `named` by an option, else what its ending says; JSONL for `-`."""
    ending = splitext(path)[1].lower().removeprefix(".")
    kind = named or ("jsonl" if path == "-" else _ENDINGS.get(ending, ending))
    if kind not in FILE_KINDS:
        raise UsageError(f"{path}: its ending names no kind of file: add {flag} {', '.join(FILE_KINDS)}")
    return kind
