"""Parquet and Arrow, by pyarrow (extra `tables`), a batch of rows at a time.

A column of JSON text says so in the metadata of its field, and so does one whose empty cells stand for null: elsewhere
an empty cell means that the row has no such member. Tables that others have written have null there.
"""

from typing import Any, BinaryIO

from llmblast.converting.columns import Column, Kind
from llmblast.converting.rows import Row
from llmblast.errors import UsageError
from llmblast.reading.table_rows import free_at_once
from llmblast.reading.table_values import ABSENT as MISSING
from llmblast.reading.table_values import EMPTY, JSON_TEXT
from llmblast.writing.safe_json import dump_line

MAX_BATCH_ROWS = 10_000
MAX_BATCH_BYTES = 4 * 1024 * 1024
_MAX_PAGE_ROWS = 128
"""The size of a page is looked at so often: with long texts, a page is no larger than its 1 MiB."""


def _pyarrow() -> Any:
    try:
        import pyarrow  # noqa: PLC0415 -- an extra, 100 ms
    except ImportError:
        raise UsageError("Parquet and Arrow need one more package: pip install 'llmblast[tables]'") from None
    free_at_once()
    return pyarrow


class _Writer:
    """Gather rows, and write them as batches."""

    def __init__(self, file: BinaryIO, columns: list[Column]) -> None:
        self._arrow = _pyarrow()
        self._kinds = [(column.name, column.kind) for column in columns]
        self._schema = self._arrow.schema([self._field(column) for column in columns])
        self._rows: list[list[Any]] = []
        self._size_bytes = 0
        self._sink = self._open(file)

    def write(self, row: Row) -> None:
        """Write one row."""
        cells = [_cell(row[name], kind) if name in row else None for name, kind in self._kinds]
        self._rows.append(cells)
        self._size_bytes += sum([len(cell) for cell in cells if type(cell) is str]) + 8 * len(cells)
        if len(self._rows) >= MAX_BATCH_ROWS or self._size_bytes >= MAX_BATCH_BYTES:
            self._write_batch()

    def close(self) -> None:
        """Write what is left, and the end of the file."""
        if self._rows:
            self._write_batch()
        self._sink.close()

    def _open(self, file: BinaryIO) -> Any:
        return self._arrow.ipc.new_file(file, self._schema)

    def _write_batch(self) -> None:
        fields = list(zip(*self._rows, strict=True))
        arrays = [self._arrow.array(cells, field.type) for cells, field in zip(fields, self._schema, strict=True)]
        self._sink.write_batch(self._arrow.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._rows = []
        self._size_bytes = 0

    def _field(self, column: Column) -> Any:
        types = {"bool": self._arrow.bool_(), "int": self._arrow.int64(), "float": self._arrow.float64()}
        metadata = {EMPTY: b"null" if column.has_null and column.kind != "json" else MISSING}
        if column.kind == "json":
            metadata[JSON_TEXT] = b"1"
        return self._arrow.field(column.name, types.get(str(column.kind), self._arrow.string()), metadata=metadata)


class ArrowWriter(_Writer):
    """Write rows to an Arrow file."""


class ParquetWriter(_Writer):
    """Write rows to a Parquet file; a batch is a row group."""

    def _open(self, file: BinaryIO) -> Any:
        from pyarrow import parquet  # noqa: PLC0415

        return parquet.ParquetWriter(file, self._schema, compression="zstd", write_batch_size=_MAX_PAGE_ROWS)


def _cell(value: Any, kind: Kind | None) -> Any:
    if kind == "json":
        return dump_line({"": value})[4:-2].decode()
    if kind == "text" and isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # Arrow holds no lone surrogates
    return value
