"""Intake: steps 1 to 3 of the flow, from the input's bytes to requests and refused lines, a slice at a time."""

from collections.abc import AsyncIterator, Iterator, Sequence

from llmblast.errors import InputDamagedError
from llmblast.reading import Finished, LineSplitter, Shaper, Source, key_of
from llmblast.records import Failure, Request
from llmblast.watching import Counters
from llmblast.writing import is_json

SLICE_LINES = 64
"""Lines shaped between two looks at everything else: some 0.3 ms, so that pacing stays even while the file is read."""
SLICE_BYTES = 1024 * 1024
"""What lines become may be much larger than they are, where they name images."""


class Intake:
    """Reads one input to its end, or to `limit` lines, leaving out what earlier runs answered or recorded as failed."""

    def __init__(
        self,
        source: Source,
        shaper: Shaper,
        counters: Counters,
        limit: int | None = None,
        *,
        answered: Finished | None = None,
        failed: Finished | None = None,
    ) -> None:
        self._source = source
        self._answered = answered
        self._failed = failed
        self._shaper = shaper
        self._counters = counters
        self._limit = limit

    async def slices(self) -> AsyncIterator[Sequence[Request | Failure]]:
        """What the lines became, up to 64 of them at a time; whoever takes the next slice has room for it.

        Raises InputDamagedError where the input breaks off.
        """
        counters, splitter = self._counters, LineSplitter()
        counters.input_bytes = self._source.size_bytes
        counters.lines_limit = self._limit
        async for block in self._source.blocks():
            for shaped in self._shape(splitter.feed(block)):
                yield shaped
            if self._is_at_limit:
                break
        else:
            for shaped in self._shape(self._last_lines(splitter)):
                yield shaped
        counters.input_ended = True

    @property
    def _is_at_limit(self) -> bool:
        return self._limit is not None and self._counters.lines_read >= self._limit

    def _last_lines(self, splitter: LineSplitter) -> Sequence[tuple[int, bytes]]:
        """What has no line end. In a file that others write to, half a line is not a bad one: the rest is to come."""
        lines = splitter.finish()
        if lines and self._source.has_grown and not is_json(lines[-1][1]):
            raise InputDamagedError(
                f"line {lines[-1][0]}: is still being written: run the same command again when the input is complete"
            )
        return lines

    def _shape(self, lines: Sequence[tuple[int, bytes]]) -> Iterator[Sequence[Request | Failure]]:
        shape, has_finished = self._shaper.shape, bool(self._answered or self._failed)
        shaped: list[Request | Failure] = []
        shaped_bytes = lines_read = bytes_read = 0
        for number, text in lines if self._limit is None else lines[: self._limit - self._counters.lines_read]:
            lines_read += 1
            bytes_read += len(text) + 1
            key = key_of(text)
            if has_finished and self._is_finished(key):
                continue
            item = shape(number, key, text)
            shaped.append(item)
            shaped_bytes += max(len(text), len(item.body)) if type(item) is Request else len(text)
            if len(shaped) >= SLICE_LINES or shaped_bytes >= SLICE_BYTES:
                self._count(lines_read, bytes_read)
                yield shaped
                shaped, shaped_bytes, lines_read, bytes_read = [], 0, 0, 0
        self._count(lines_read, bytes_read)
        if shaped:
            yield shaped

    def _is_finished(self, key: str) -> bool:
        """Takes a line off what earlier runs have finished, if it is among that."""
        if self._answered and self._answered.take(key):
            self._counters.skipped += 1
            return True
        if self._failed and self._failed.take(key):
            self._counters.skipped += 1
            self._counters.skipped_failed += 1
            return True
        return False

    def _count(self, lines_read: int, bytes_read: int) -> None:
        self._counters.lines_read += lines_read
        self._counters.bytes_read += bytes_read
