"""Tables: rows of Parquet and Arrow files, each as one line of JSON with the types that the file has.

Both formats keep their index at the end, so what is no plain local file is copied to a temporary file first. Batches
are decoded in a thread. Their size follows that of the rows, so that a row group of any size takes little memory.
"""

import mmap
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Final

from llmblast.errors import InputDamagedError, UsageError
from llmblast.reading.csv_rows import check_names
from llmblast.reading.input_places import input_place
from llmblast.reading.table_values import RowWriter

if TYPE_CHECKING:
    from pyarrow import RecordBatch, Schema

_BATCH_BYTES = 256 * 1024
_MAX_BATCH_ROWS = 4096
_M_MMAP_THRESHOLD = -3
"""Parameter of mallopt(3)."""
_MMAP_THRESHOLD_BYTES = 64 * 1024
_UNREADABLE = {
    b"FEA1": "is a Feather V1 file: write it again as Parquet or Feather V2",
    b"PARE": "is an encrypted Parquet file: write it again without encryption",
}
"""By the first bytes of a file: what it is, and what to do."""
_MISSING = "needs pyarrow: install it with: pip install 'llmblast[tables]'"

Rows = list[tuple[int, bytes]]


class TableRows:
    """Read the rows of a Parquet or Arrow file that has a known end. `number` is that of the row, from 1."""

    unit: Final = "row"
    is_typed: Final = True

    def __init__(self, name: str, file: IO[bytes], open_batches: "OpenBatches") -> None:
        """Take over `file`. Raises InputDamagedError if it is no such file, UsageError for equal names of columns."""
        self.name = name
        self._file = file
        self._number = 0
        try:
            schema, self.rows, self._batches = open_batches(file)
            self.columns: Sequence[str] = schema.names
            check_names(name, self.columns)
            self._writer = RowWriter(schema)
        except _read_errors() as error:
            reason = _reason(error, file)
            file.close()
            raise InputDamagedError(f"{name}: {reason}") from None
        except BaseException:
            file.close()
            raise

    def next_rows(self) -> Rows:
        """Return the next rows; none at the end. Blocks. Raises InputDamagedError."""
        while True:
            try:
                batch = next(self._batches, None)
                if batch is None:
                    return []
                lines = self._writer.lines_of(batch)
            except _read_errors() as error:
                raise InputDamagedError(
                    f"{input_place(self.name, self.unit, self._number + 1)}: cannot be read: {_first_line(error)}: "
                    "repair the file and run the same command again to go on"
                ) from None
            if lines:
                first = self._number + 1
                self._number += len(lines)
                return list(enumerate(lines, first))

    @property
    def rows_read(self) -> int:
        """Return the number of rows that were returned."""
        return self._number

    def close(self) -> None:
        """Close the file."""
        self._file.close()


OpenBatches = Callable[[IO[bytes]], "tuple[Schema, int | None, Iterator[RecordBatch]]"]
"""Returns the schema, the number of rows where that is known, and the batches of an open file."""


def open_parquet(file: IO[bytes]) -> "tuple[Schema, int | None, Iterator[RecordBatch]]":
    """Open a Parquet file. Its pages are decoded as batches need them, not a row group at once."""
    from pyarrow import BufferReader, py_buffer  # noqa: PLC0415 -- a heavy library of an extra
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415

    mapped = _map(file)
    parquet = ParquetFile(BufferReader(py_buffer(mapped)), pre_buffer=False)
    metadata = parquet.metadata
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    row_bytes = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=1)
    batches = parquet.iter_batches(batch_size=_batch_rows(row_bytes), use_threads=False)
    return parquet.schema_arrow, metadata.num_rows, _forgetting(batches, mapped)


def open_arrow(file: IO[bytes]) -> "tuple[Schema, int | None, Iterator[RecordBatch]]":
    """Open an Arrow IPC file (Feather V2), or a file with an Arrow IPC stream.

    A record batch may be as large as the file: only what is looked at comes into memory. What is compressed inside of
    the file is decompressed a record batch at a time.
    """
    from pyarrow import BufferReader, ipc, py_buffer  # noqa: PLC0415 -- a heavy library of an extra

    mapped = _map(file)
    source = BufferReader(py_buffer(mapped))
    if mapped[:6] == b"ARROW1":
        reader = ipc.open_file(source)
        whole = (reader.get_batch(index) for index in range(reader.num_record_batches))
    else:
        reader = ipc.open_stream(source)
        whole = iter(reader)
    return reader.schema, None, _forgetting(_slices(whole), mapped)


def check_installed(name: str) -> None:
    """Raise UsageError where pyarrow is missing."""
    try:
        import pyarrow  # noqa: F401, PLC0415 -- a heavy library of an extra
    except ImportError:
        raise UsageError(f"{name}: is a Parquet or Arrow file, which {_MISSING}") from None
    free_at_once()


def free_at_once() -> None:
    """Let pyarrow give freed memory back to the system; allocators that keep it hold several times as much."""
    import pyarrow  # noqa: PLC0415 -- a heavy library of an extra

    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 -- 4 ms

        with suppress(AttributeError, OSError):  # a libc other than glibc
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)


def temporary_file() -> IO[bytes]:
    """Return an empty file without a name, for an input that cannot be read from its end."""
    return tempfile.TemporaryFile(prefix="llmblast-")


def spool(blocks: bytes, file: IO[bytes], name: str) -> None:
    """Append bytes to a temporary file. Raises InputDamagedError without space."""
    try:
        file.write(blocks)
    except OSError as error:
        free = shutil.disk_usage(tempfile.gettempdir()).free
        raise InputDamagedError(
            f"{name}: cannot be copied to a temporary file: {error.strerror} ({free} bytes are free in "
            f"{tempfile.gettempdir()}): set TMPDIR to a directory with more space"
        ) from None


def _slices(batches: "Iterator[RecordBatch]") -> "Iterator[RecordBatch]":
    for batch in batches:
        size = _batch_rows(batch.nbytes / max(batch.num_rows, 1))
        for start in range(0, batch.num_rows, size):
            yield batch.slice(start, size)


def _map(file: IO[bytes]) -> mmap.mmap:
    """Map a file: it is read without buffers of its own, which are as large as a page of Parquet. Raises ValueError."""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _forgetting(batches: "Iterator[RecordBatch]", mapped: mmap.mmap) -> "Iterator[RecordBatch]":
    """Yield the batches; drop what is mapped from memory behind each. The next access reads it from the disk cache."""
    for batch in batches:
        yield batch
        if hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


def _batch_rows(row_bytes: float) -> int:
    return max(1, min(_MAX_BATCH_ROWS, int(_BATCH_BYTES / max(row_bytes, 1))))


def _read_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that a damaged file causes."""
    from pyarrow import ArrowException  # noqa: PLC0415 -- a heavy library of an extra

    return (ArrowException, OSError, ValueError)


def _reason(error: Exception, file: IO[bytes]) -> str:
    file.seek(0)
    if (reason := _UNREADABLE.get(file.read(4))) is not None:
        return reason
    if not file.seek(0, os.SEEK_END):
        return "is empty, not a Parquet or Arrow file: write it again"
    return f"is not a readable Parquet or Arrow file: {_first_line(error)}: write it again, or name its --format"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
