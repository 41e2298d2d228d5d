"""Intake: steps 1 to 3 of the flow, from the input's bytes to requests and refused lines, a slice at a time."""

from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import islice

from llmblast.reading import Finished, LineSplitter, Shaper, Source, key_of
from llmblast.records import Failure, Request
from llmblast.watching import Counters

SLICE_LINES = 64
"""Lines shaped between two looks at everything else: some 0.3 ms, so that pacing stays even while the file is read."""


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
        async for block in self._source.blocks():
            for piece in _slices(splitter.feed(block)):
                yield self._shape(piece)
            if self._is_at_limit:
                break
        else:
            for piece in _slices(splitter.finish()):
                yield self._shape(piece)
        counters.input_ended = True

    @property
    def _is_at_limit(self) -> bool:
        return self._limit is not None and self._counters.lines_read >= self._limit

    def _shape(self, lines: Sequence[tuple[int, bytes]]) -> list[Request | Failure]:
        shaped: list[Request | Failure] = []
        for number, text in lines:
            if self._is_at_limit:
                break
            self._counters.lines_read += 1
            self._counters.bytes_read += len(text) + 1
            key = key_of(text)
            if self._answered and self._answered.take(key):
                self._counters.skipped += 1
            elif self._failed and self._failed.take(key):
                self._counters.skipped += 1
                self._counters.skipped_failed += 1
            else:
                shaped.append(self._shaper.shape(number, key, text))
        return shaped


def _slices(lines: Sequence[tuple[int, bytes]]) -> Iterator[Sequence[tuple[int, bytes]]]:
    remaining = iter(lines)
    while piece := list(islice(remaining, SLICE_LINES)):
        yield piece
