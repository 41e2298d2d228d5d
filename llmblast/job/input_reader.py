"""Input reader: turn an input's bytes into batches of requests and refused lines (steps 1 to 3 of the flow)."""

from collections.abc import AsyncIterator, Sequence

from llmblast.errors import InputDamagedError
from llmblast.job.batch_parser import Batch, BatchParser
from llmblast.reading import CompletedKeys, LineSplitter, RequestParser, Source
from llmblast.watching import Counters
from llmblast.writing import is_json


class InputReader:
    """Read one input to its end, or to `limit` lines; leave out lines that earlier runs completed."""

    def __init__(
        self,
        source: Source,
        parser: RequestParser,
        counters: Counters,
        limit: int | None = None,
        *,
        answered: CompletedKeys | None = None,
        failed: CompletedKeys | None = None,
    ) -> None:
        self._source = source
        self._batches = BatchParser(parser, counters, limit, answered, failed)
        self._counters = counters
        self._limit = limit

    async def batches(self) -> AsyncIterator[Batch]:
        """Yield requests and failures, up to 64 at a time. Raises InputDamagedError where the input breaks off."""
        counters, splitter = self._counters, LineSplitter()
        counters.input_bytes = self._source.size_bytes
        counters.lines_limit = self._limit
        async for block in self._source.blocks():
            for batch in self._batches.parse(splitter.feed(block)):
                yield batch
            if self._limit is not None and counters.lines_read >= self._limit:
                break
        else:
            for batch in self._batches.parse(self._last_lines(splitter)):
                yield batch
        counters.input_ended = True

    def _last_lines(self, splitter: LineSplitter) -> Sequence[tuple[int, bytes]]:
        """Return a last line without line end. Raises InputDamagedError while another process is writing that line."""
        lines = splitter.finish()
        if lines and self._source.has_grown and not is_json(lines[-1][1]):
            raise InputDamagedError(
                f"line {lines[-1][0]}: is still being written: run the same command again when the input is complete"
            )
        return lines
