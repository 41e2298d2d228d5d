"""Row reader: the lines of one source, whatever its format."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from typing import IO, TYPE_CHECKING

from llmblast.errors import UsageError
from llmblast.reading.file_formats import detect
from llmblast.reading.lines import LineSplitter
from llmblast.reading.row_form import JsonLines, RowForm
from llmblast.reading.source import Source

if TYPE_CHECKING:
    from llmblast.reading.splitters import Splitter
    from llmblast.reading.table_rows import OpenBatches

NumberedLines = Sequence[tuple[int, bytes]]


class RowReader:
    """Read one source. `form` is known with the first lines; `is_jsonl` tells that a line may still be written."""

    def __init__(self, source: Source, file_format: str | None) -> None:
        self._source = source
        self._format = file_format
        self.form: RowForm | None = None
        self.is_jsonl = False
        self.is_last = False
        """The lines that were yielded last are those behind the last line end."""

    async def lines(self) -> AsyncIterator[NumberedLines]:
        """Yield lines, block by block. Raises UsageError and InputDamagedError."""
        blocks = self._source.blocks()
        start = b""
        found = self._format
        while found is None:
            block = await anext(blocks, b"")
            start += block
            found = detect(self._source.name, start, is_whole=not block)
            if not block:
                break
        if found not in (None, "jsonl"):
            async for lines in self._lines_of(found, start, blocks):
                yield lines
            return
        splitter = LineSplitter()
        self.form, self.is_jsonl = JsonLines(self._source.name), True
        if start:
            yield splitter.feed(start)
        async for block in blocks:
            yield splitter.feed(block)
        self.is_last = True
        yield splitter.finish()

    def _lines_of(self, found: str, start: bytes, blocks: AsyncIterator[bytes]) -> AsyncIterator[NumberedLines]:
        """Return the lines of a format other than JSON lines."""
        from llmblast.reading.splitters import SPLITTERS, TABLES  # noqa: PLC0415 -- most inputs are JSON lines

        if found in TABLES:
            return self._table_lines(TABLES[found], start, blocks)
        self.form = splitter = SPLITTERS[found](self._source.name)
        return self._split(splitter, start, blocks)

    async def _split(
        self, splitter: "Splitter", start: bytes, blocks: AsyncIterator[bytes]
    ) -> AsyncIterator[NumberedLines]:
        """Yield the lines of a format that is not JSON lines; progress counts their bytes, not those of the file."""
        bytes_out = 0
        if start:
            lines = splitter.feed(start)
            bytes_out += _size_of(lines)
            self._source.bytes_out = bytes_out
            yield lines
        async for block in blocks:
            lines = splitter.feed(block)
            bytes_out += _size_of(lines)
            self._source.bytes_out = bytes_out
            yield lines
        self.is_last = True
        yield splitter.finish()

    async def _table_lines(
        self, open_batches: "OpenBatches", start: bytes, blocks: AsyncIterator[bytes]
    ) -> AsyncIterator[NumberedLines]:
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 -- see above

        from llmblast.reading.table_rows import TableRows, check_installed  # noqa: PLC0415

        source = self._source
        if source.is_followed:
            raise UsageError(
                f"{source.name}: a Parquet or Arrow file is complete once it can be read: leave --follow out"
            )
        await asyncio.to_thread(check_installed, source.name)
        file = await _seekable(source, start, blocks)
        run, bytes_out = asyncio.get_running_loop().run_in_executor, 0
        # With a thread of its own, memory that batches free is used again; each thread keeps some of what it had.
        with ThreadPoolExecutor(1, "llmblast-table") as thread:
            table = await run(thread, TableRows, source.name, file, open_batches)
            self.form = table
            try:
                while lines := await run(thread, table.next_rows):
                    bytes_out += _size_of(lines)
                    source.bytes_out = bytes_out
                    if table.rows and source.size_bytes is not None:
                        source.bytes_used = source.size_bytes * table.rows_read // table.rows
                    yield lines
            finally:
                await run(thread, table.close)


def _size_of(lines: NumberedLines) -> int:
    return sum([len(text) for _, text in lines]) + len(lines)


async def _seekable(source: Source, start: bytes, blocks: AsyncIterator[bytes]) -> IO[bytes]:
    """Return the file itself, or a temporary copy of what is compressed, remote or a pipe."""
    if source.path is not None and not source.is_compressed:
        return await asyncio.to_thread(open, source.path, "rb")
    from llmblast.reading.table_rows import spool, temporary_file  # noqa: PLC0415 -- see above

    copy = temporary_file()
    try:
        await asyncio.to_thread(spool, start, copy, source.name)
        async for block in blocks:
            await asyncio.to_thread(spool, block, copy, source.name)
        await asyncio.to_thread(copy.seek, 0, os.SEEK_SET)
    except BaseException:
        copy.close()
        raise
    return copy
