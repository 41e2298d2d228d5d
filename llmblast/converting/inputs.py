"""Inputs of a conversion: everything that a run reads, read once, or twice where a table needs its columns first.

A pipe or a URL that is read twice is copied to a temporary file, as it comes out of decompression.
"""

import os
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack
from typing import IO, NamedTuple

from llmblast.input_paths import STDIN, expand_inputs, scheme_of, shown_input
from llmblast.reading import RowForm, RowReader, Source
from llmblast.reading.sources import open_source
from llmblast.reading.table_rows import spool


class Block(NamedTuple):
    """Some lines of one input, in the form that its file has."""

    form: RowForm
    lines: Sequence[tuple[int, bytes]]


class Inputs:
    """The inputs in their order. `file_format` is that of all, None to detect it. Close it to remove the copies."""

    def __init__(self, paths: Sequence[str], file_format: str | None) -> None:
        self._file_format = file_format
        self._copies: dict[str, IO[bytes]] = {}
        self._stack = ExitStack()
        self._paths: Sequence[str] = paths
        self.notes: dict[str, None] = {}
        """Messages for a person, each once."""

    @property
    def are_several(self) -> bool:
        """Return whether there is more than one input."""
        return len(self._paths) > 1

    async def open(self, *, reads_twice: bool) -> None:
        """Find the inputs. Raises InputMissingError, InputDamagedError and UsageError."""
        self._paths = expand_inputs(self._paths)
        for path in self._paths:
            if not _is_stream(path):
                await (await open_source(path)).close()
            elif reads_twice:
                await self._copy(path)

    async def blocks(self) -> AsyncGenerator[Block, None]:
        """Yield the lines of all inputs. Raises InputMissingError, InputDamagedError and UsageError."""
        for path in self._paths:
            source = await self._source_of(path)
            try:
                reader = RowReader(source, self._file_format)
                async for lines in reader.lines():
                    if reader.form is not None:
                        yield Block(reader.form, lines)
            finally:
                self.notes.update(dict.fromkeys(source.notes))
                await source.close()

    async def close(self) -> None:
        """Remove the copies."""
        self._stack.close()

    async def _source_of(self, path: str) -> Source:
        if path not in self._copies:
            return await open_source(path)
        source = await open_source(self._copies[path].name)
        source.name = shown_input(path)
        return source

    async def _copy(self, path: str) -> None:
        source = await open_source(path)
        try:
            copy = tempfile.NamedTemporaryFile(prefix="llmblast-")  # noqa: SIM115 -- the stack closes it
            self._stack.callback(copy.close)
            async for block in source.blocks():
                spool(block, copy, source.name)
            copy.flush()
            self._copies[path] = copy
        finally:
            self.notes.update(dict.fromkeys(source.notes))
            await source.close()


def _is_stream(path: str) -> bool:
    """Return whether an input can be read only once, or only at some cost."""
    return path == STDIN or bool(scheme_of(path)) or (os.path.exists(path) and not os.path.isfile(path))
