"""Input reader: turn the bytes of all inputs into batches of requests and refused lines (steps 1 to 3 of the flow)."""

from collections.abc import AsyncIterator, Callable, Sequence

from llmblast.errors import InputDamagedError
from llmblast.job.batch_parser import Batch, BatchParser
from llmblast.reading import CompletedKeys, LineSplitter, RequestParser, Source, Sources
from llmblast.watching import Counters
from llmblast.writing import is_json


class InputReader:
    """Read all inputs to their end, or to `limit` lines; leave out lines that earlier runs completed.

    `notice` shows messages about an input that do not end the run.
    """

    def __init__(
        self,
        sources: Sources,
        parser: RequestParser,
        counters: Counters,
        limit: int | None = None,
        *,
        answered: CompletedKeys | None = None,
        failed: CompletedKeys | None = None,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self._sources = sources
        self._batches = BatchParser(parser, counters, limit, answered, failed)
        self._counters = counters
        self._limit = limit
        self._notice = notice

    async def batches(self) -> AsyncIterator[Batch]:
        """Yield requests and failures, up to 64 at a time. Raises InputDamagedError where an input breaks off."""
        counters, sources = self._counters, self._sources
        counters.input_bytes = sources.size_bytes
        counters.lines_limit = self._limit
        async for source in sources.each():
            self._batches.file = sources.file
            self._tell_notes()
            async for lines in self._lines_of(source):
                counters.input_bytes = sources.expected_bytes
                for batch in self._batches.parse(lines):
                    yield batch
                if self._limit is not None and counters.lines_read >= self._limit:
                    counters.input_ended = True
                    return
        self._tell_notes()
        counters.input_ended = True

    async def _lines_of(self, source: Source) -> AsyncIterator[Sequence[tuple[int, bytes]]]:
        """Yield the lines of one input, block by block."""
        splitter = LineSplitter()
        async for block in source.blocks():
            yield splitter.feed(block)
        yield self._last_lines(source, splitter)

    def _last_lines(self, source: Source, splitter: LineSplitter) -> Sequence[tuple[int, bytes]]:
        """Return a last line without line end. Raises InputDamagedError while another process is writing that line."""
        lines = splitter.finish()
        if lines and source.has_grown and not is_json(lines[-1][1]):
            place = "" if self._sources.file is None else f"{source.name}: "
            raise InputDamagedError(
                f"{place}line {lines[-1][0]}: is still being written: "
                "run the same command again when the input is complete"
            )
        return lines

    def _tell_notes(self) -> None:
        if self._notice is not None:
            for note in self._sources.take_notes():
                self._notice(note)
