"""Input reader: turn an input's bytes into batches of requests and refused lines (steps 1 to 3 of the flow)."""

from collections.abc import AsyncIterator, Iterator, Sequence

from llmblast.errors import InputDamagedError
from llmblast.models import Failure, Request
from llmblast.reading import CompletedKeys, LineSplitter, RequestParser, Source, key_of
from llmblast.watching import Counters
from llmblast.writing import is_json

MAX_BATCH_LINES = 64
"""Parsing a batch blocks the event loop for some 0.3 ms, so that pacing stays even while the file is read."""
MAX_BATCH_BYTES = 1024 * 1024
"""A request may be much larger than its line, where the line names images."""

Batch = Sequence[Request | Failure]


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
        self._answered = answered
        self._failed = failed
        self._parser = parser
        self._counters = counters
        self._limit = limit

    async def batches(self) -> AsyncIterator[Batch]:
        """Yield requests and failures, up to 64 at a time. Raises InputDamagedError where the input breaks off."""
        counters, splitter = self._counters, LineSplitter()
        counters.input_bytes = self._source.size_bytes
        counters.lines_limit = self._limit
        async for block in self._source.blocks():
            for batch in self._parse(splitter.feed(block)):
                yield batch
            if self._limit is not None and counters.lines_read >= self._limit:
                break
        else:
            for batch in self._parse(self._last_lines(splitter)):
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

    def _parse(self, lines: Sequence[tuple[int, bytes]]) -> Iterator[Batch]:
        parse, has_completed = self._parser.parse, bool(self._answered or self._failed)
        batch: list[Request | Failure] = []
        batch_bytes = lines_read = bytes_read = 0
        for number, text in lines if self._limit is None else lines[: self._limit - self._counters.lines_read]:
            lines_read += 1
            bytes_read += len(text) + 1
            key = key_of(text)
            if has_completed and self._is_completed(key):
                continue
            item = parse(number, key, text)
            batch.append(item)
            batch_bytes += max(len(text), len(item.body)) if type(item) is Request else len(text)
            if len(batch) >= MAX_BATCH_LINES or batch_bytes >= MAX_BATCH_BYTES:
                self._count(lines_read, bytes_read)
                yield batch
                batch, batch_bytes, lines_read, bytes_read = [], 0, 0, 0
        self._count(lines_read, bytes_read)
        if batch:
            yield batch

    def _is_completed(self, key: str) -> bool:
        """Return whether an earlier run completed a line with this key, and consume one occurrence of the key."""
        if self._answered and self._answered.consume(key):
            self._counters.skipped += 1
            return True
        if self._failed and self._failed.consume(key):
            self._counters.skipped += 1
            self._counters.skipped_failed += 1
            return True
        return False

    def _count(self, lines_read: int, bytes_read: int) -> None:
        self._counters.lines_read += lines_read
        self._counters.bytes_read += bytes_read
