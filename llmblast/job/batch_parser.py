"""Batch parser: turn numbered lines into batches of requests and refused lines (steps 2 and 3 of the flow)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from llmblast.job.record_keys import RECORD_START, RecordKeys
from llmblast.models import Failure, Line, Request
from llmblast.reading import CompletedKeys, RequestParser, RowForm, key_of
from llmblast.watching import Counters

MAX_BATCH_LINES: Final = 64
"""Parsing a batch blocks the event loop for some 0.3 ms, so that pacing stays even while the file is read."""
MAX_BATCH_BYTES: Final = 1024 * 1024
"""A request may be much larger than its line, where the line names images."""

Batch = Sequence[Request | Failure]
Keep = Callable[["BatchParser", int, str, bytes], bool]
"""Return whether the line with this number, key and text waits elsewhere."""


class BatchParser:
    """Parse lines up to the `limit`, and leave out those that earlier runs completed, or put `in_batches` whose files
    still hold them.
    """

    def __init__(
        self,
        parser: RequestParser,
        counters: Counters,
        limit: int | None,
        answered: CompletedKeys | None,
        failed: CompletedKeys | None,
        *,
        in_batches: CompletedKeys | None = None,
    ) -> None:
        self.parser = parser
        self._counters = counters
        self._limit = limit
        self._answered = answered
        self._failed = failed
        self._in_batches = in_batches
        self.record_keys = RecordKeys()
        self.file: str | None = None
        """The input of the lines, if there are several."""
        self.form: RowForm | None = None
        """The form of the rows."""
        self.keep: Keep | None = None
        """Asked for each line that is not completed, once lines are read ahead."""
        self.lines_read = 0
        self._columns: tuple[str, ...] = ()

    def take_rows_of(self, form: RowForm | None) -> None:
        """Parse lines of a file with such rows from now on."""
        if form is not None and form is not self.form:
            self.form = form
            self._columns = ()
            self.parser.take_rows_of(form.name, form.unit, (), is_typed=form.is_typed)
        if form is not None and len(form.columns) != len(self._columns):
            self._columns = tuple(form.columns)
            self.parser.take_rows_of(form.name, form.unit, self._columns, is_typed=form.is_typed)

    def parse(self, lines: Sequence[tuple[int, bytes]]) -> Iterator[Batch]:
        """Yield the requests and failures of these lines, up to 64 at a time, and count what was read. Where lines are
        kept elsewhere, a batch may have fewer, or none.
        """
        parse, file = self.parser.parse, self.file
        has_completed = bool(self._answered or self._failed or self._in_batches)
        batch: list[Request | Failure] = []
        batch_bytes = lines_read = bytes_read = kept = 0
        keep = self.keep
        for number, text in lines if self._limit is None else lines[: self._limit - self.lines_read]:
            lines_read += 1
            bytes_read += len(text) + 1
            key = key_of(text)
            other_key = ""
            if text.startswith(RECORD_START):
                number, key, other_key = self.record_keys.find(number, key, text)  # noqa: PLW2901 -- of its origin
            if has_completed and (self._is_completed(key) or (other_key and self._is_completed(other_key))):
                continue
            if keep is not None and keep(self, number, key, text):
                kept += 1
            else:
                item = parse(number, key, text)
                if file is not None:
                    line: Line = item.line if isinstance(item, Failure) else item
                    line.file = file
                batch.append(item)
                batch_bytes += max(len(text), len(item.body)) if type(item) is Request else len(text)
            if len(batch) + kept >= MAX_BATCH_LINES or batch_bytes >= MAX_BATCH_BYTES:
                self._count(lines_read, bytes_read)
                yield batch
                batch, batch_bytes, lines_read, bytes_read, kept = [], 0, 0, 0, 0
                keep = self.keep
        self._count(lines_read, bytes_read)
        if batch or kept:
            yield batch

    def _is_completed(self, key: str) -> bool:
        if skip_completed(key, self._answered, self._failed, self._counters):
            return True
        return self._in_batches is not None and self._in_batches.consume(key)

    def _count(self, lines_read: int, bytes_read: int) -> None:
        self.lines_read += lines_read
        self._counters.lines_read += lines_read
        self._counters.bytes_read += bytes_read


def skip_completed(key: str, answered: CompletedKeys | None, failed: CompletedKeys | None, counters: Counters) -> bool:
    """Return whether an earlier run completed a line with this key. Consume one occurrence of the key, and count it."""
    is_answered = answered is not None and answered.consume(key)
    if not is_answered and not (failed is not None and failed.consume(key)):
        return False
    counters.skipped += 1
    counters.skipped_failed += not is_answered
    return True
