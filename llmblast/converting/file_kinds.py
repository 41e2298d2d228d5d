"""Table of the kinds of files: how rows are read from each, and written to it.

The readers take an open file and its name for messages. Here other readers of rows can be put in.
"""

from collections.abc import Callable, Mapping
from os.path import splitext
from typing import BinaryIO, NamedTuple, Protocol

from llmblast.converting import arrow_file, csv_file, jsonl_file
from llmblast.converting.columns import Column
from llmblast.converting.rows import Row, Rows
from llmblast.errors import UsageError


class RowWriter(Protocol):
    """Writes rows to an open file."""

    def write(self, row: Row) -> None: ...

    def close(self) -> None:
        """Write what is left; the file stays open."""


class FileKind(NamedTuple):
    """`is_table`: all rows have the same columns, so that a schema is needed before the first one is written."""

    read: Callable[[BinaryIO, str], Rows]
    make_writer: Callable[[BinaryIO, list[Column]], RowWriter]
    is_table: bool


FILE_KINDS: Mapping[str, FileKind] = {
    "jsonl": FileKind(jsonl_file.read, jsonl_file.Writer, is_table=False),
    "csv": FileKind(csv_file.read, csv_file.Writer, is_table=True),
    "tsv": FileKind(csv_file.read_tsv, csv_file.TsvWriter, is_table=True),
    "parquet": FileKind(arrow_file.read_parquet, arrow_file.ParquetWriter, is_table=True),
    "arrow": FileKind(arrow_file.read_arrow, arrow_file.ArrowWriter, is_table=True),
}
_ENDINGS = {"ndjson": "jsonl", "tab": "tsv", "pq": "parquet", "feather": "arrow", "ipc": "arrow"}


def kind_of(path: str, named: str | None, flag: str) -> str:
    """Return the kind of a file: that which is `named` by an option, else what its ending says; JSONL for `-`."""
    ending = splitext(path)[1].lower().removeprefix(".")
    kind = named or ("jsonl" if path == "-" else _ENDINGS.get(ending, ending))
    if kind not in FILE_KINDS:
        raise UsageError(f"{path}: its ending names no kind of file: add {flag} {', '.join(FILE_KINDS)}")
    return kind
