"""Waiting lines: those that were read ahead, on disk, and how they come back into the queue when it is their turn.

The queue holds the first lines of each class and tenant, a part. A line that is read and goes before those of its part
that are on disk is added to the queue; when there are too many, the last ones of them go to disk.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from math import inf
from random import sample
from typing import Final, NamedTuple

from llmblast.job.back_pressure import MAX_HELD_BYTES, MAX_QUEUED_BYTES
from llmblast.job.batch_parser import MAX_BATCH_LINES, Batch, BatchParser
from llmblast.models import Failure, Line, Request, Terms
from llmblast.reading import RequestParser, RowForm
from llmblast.reading.backlog import LAST, Backlog, Part, WaitingLine
from llmblast.scheduling import RequestQueue

MIN_PART: Final = 4
"""Lines of a part in the queue, while these are not too many bytes."""
MAX_LOOKS: Final = 256
"""Parts that are looked at in one go although nothing of them was sent: of more, random ones."""


class Place(NamedTuple):
    """One of the inputs: its name in records, where there are several, and the form of its rows."""

    file: str | None
    form: RowForm | None


class Places:
    """The inputs by numbers, and the parser of lines that come back. `forms` are those of rows by names of files."""

    def __init__(self, forms: Mapping[str | None, RowForm | None], parser: RequestParser) -> None:
        self._forms = forms
        self._parser = parser
        self._places: list[Place] = []
        self._numbers: dict[str | None, int] = {}
        """The last number by the names of files."""
        self._parsed = -1

    @property
    def form(self) -> RowForm | None:
        """Return the form of the rows that were parsed last."""
        return self._places[self._parsed].form if self._parsed >= 0 else None

    def number_of(self, file: str | None) -> int:
        """Return the number of the input with this name."""
        form, number = self._forms.get(file), self._numbers.get(file)
        if number is None or self._places[number].form is not form:
            number = self._numbers[file] = len(self._places)
            self._places.append(Place(file, form))
        return number

    def parse(self, line: WaitingLine) -> Request | Failure:
        """Return the request of a line that comes back, with the terms that it had when it was read."""
        place = self._places[line.source]
        if line.source != self._parsed and (form := place.form) is not None:
            self._parser.take_rows_of(form.name, form.unit, tuple(form.columns), is_typed=form.is_typed)
        self._parsed = line.source
        item = self._parser.parse(line.number, line.key, line.text)
        if isinstance(item, Request):
            item.terms = line.terms
        if place.file is not None:
            record_line: Line = item.line if isinstance(item, Failure) else item
            record_line.file = place.file
        return item


class WaitingLines:
    """`max_queued` bounds the number of lines of each class in the queue. `on_read` is called for each line that is
    read. Without `can_take_back`, a line in the queue stays there, since something else waits for its answer. With
    `has_batches`, deferred lines are not kept from the parser.
    """

    def __init__(
        self,
        queue: RequestQueue,
        places: Places,
        max_queued: int,
        on_read: Callable[[Terms], None],
        *,
        can_take_back: bool = True,
        has_batches: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.places = places
        self._queue = queue
        self._max_queued = max_queued
        self._on_read = on_read
        self._can_take_back = can_take_back
        self._has_batches = has_batches
        self._clock = clock
        self._backlog = Backlog()
        self._to_write: list[WaitingLine] = []
        self._began_s = 0.0
        """Time at which the first of these lines was read."""
        self._grown: set[Part] = set()
        """Parts of which lines were read since the last `write`."""
        self._touched: set[Part] = set()
        """Parts of which lines were sent or written since they were looked at."""
        self._in_use: tuple[set[Part], set[Part]] = (set(), set())
        """Immediate and deferred parts that have lines, on disk or in the queue."""
        self._sends_until_look = 0

    def __bool__(self) -> bool:
        return bool(self._backlog)

    @property
    def size_bytes(self) -> int:
        """Return the bytes of the lines on disk."""
        return self._backlog.size_bytes

    @property
    def has_immediate(self) -> bool:
        """Return whether immediate lines are on disk."""
        return self._backlog.parts_of(is_deferred=False) > 0

    def keep(self, reader: BatchParser, number: int, key: str, text: bytes) -> bool:
        """Return whether a line waits here, since others of its part go before it."""
        terms = reader.parser.read_terms(text)
        if terms is None:
            return False
        self._on_read(terms)
        if not self._to_write:
            self._began_s = self._clock()
        part = self._backlog.part_of(terms)
        line = WaitingLine(self.places.number_of(reader.file), number, key, text, terms)
        self._grown.add(part)
        self._in_use[part.is_deferred].add(part)
        is_first = line.order < part.first and (self._can_take_back or not self._is_over(part))
        if is_first and self._queue.held_bytes < _max_held_bytes(part):
            return False
        if self._has_batches and terms.is_deferred:
            return False  # behind the parser, all but a few leave for a batch, which has a file of its own
        self._to_write.append(line)
        return True

    def write(self) -> float:
        """Write what waits to disk, and what is too much for the queue. Return the seconds that this and reading it
        took, 0 where nothing waited. Raises OutputFailedError.
        """
        began_s = self._began_s if self._to_write else self._clock()
        for part in self._grown:
            if self._can_take_back and self._is_over(part):
                self._take_back(part, self._waiting_of(part) - self._size_of(part))
        self._grown.clear()
        if not self._to_write:
            return 0.0
        self._write()
        return self._clock() - began_s

    def on_sent(self, request: Request) -> bool:
        """Record that a request was sent. Return whether it is time to look for room in the queue."""
        part = self._backlog.parts.get((request.terms.is_deferred, request.terms.tenant))
        if not part:
            return False
        self._touched.add(part)
        self._sends_until_look -= 1
        return self._sends_until_look <= 0

    def parts_to_look_at(self, *, has_others: bool) -> Iterable[Part]:
        """Return the parts with lines on disk that may have room in the queue, immediate ones first.

        With `has_others`, also some of which nothing was sent: lines may leave the queue without a send, or become late
        there.
        """
        some, self._touched = self._touched, set()
        if has_others:
            in_use = [part for parts in self._in_use for part in parts]
            some.update(sample(in_use, min(len(in_use), MAX_LOOKS)))
        for part in some:
            if not part and not self._waiting_of(part):
                self._in_use[part.is_deferred].discard(part)
        parts = [part for part in some if part]
        self._sends_until_look = min((self._size_of(part) for part in parts), default=self._max_queued) // 4
        return sorted(parts, key=lambda part: part.is_deferred)

    def next_batch(self, part: Part) -> Batch:
        """Return some of the lines that there is room for in the queue; none while it holds most of what it may."""
        missing = self._missing(part) if part and self._queue.held_bytes < _max_held_bytes(part) else 0
        if not missing:
            return ()
        answered_s = self._queue.lateness.answered_s(self._clock())
        lines = self._backlog.take(part, answered_s, min(missing, MAX_BATCH_LINES))
        for line in lines:
            if part.is_deferred and line.terms.deadline_s < inf:
                self._queue.deadlines.discard(line.terms.deadline_s)
        return [self.places.parse(line) for line in lines]

    def close(self) -> None:
        """Remove what is on disk."""
        self._backlog.close()

    def _missing(self, part: Part) -> int:
        """Return how many lines the queue lacks of a part; 0 where these are not worth the work yet.

        Lines that have become late in the queue go back to disk where others go before them.
        """
        size, waiting = self._size_of(part), self._waiting_of(part)
        late = self._queue.late_of(part.tenant, part.is_deferred, self._clock())
        if late * 2 > size and _goes_before_late(part):
            if self._can_take_back:
                self._take_back(part, waiting)
                self._write()
                waiting = self._waiting_of(part)
            else:
                waiting -= min(late, size)
        missing = size - waiting
        return missing if missing * 4 >= size or missing >= MAX_BATCH_LINES else 0

    def _take_back(self, part: Part, count: int) -> None:
        """Take so many lines of a part out of the queue, those that would go last."""
        for attempt in self._queue.take_back(part.tenant, part.is_deferred, count):
            request = attempt.request
            source = self.places.number_of(request.file)
            self._to_write.append(WaitingLine(source, request.number, request.key, request.text, request.terms))

    def _write(self) -> None:
        lines, self._to_write = self._to_write, []
        self._backlog.add(lines)
        wall_s = time.time()
        for line in lines:
            self._touched.add(self._backlog.part_of(line.terms))
            if line.terms.is_deferred and line.terms.deadline_s < inf:
                self._queue.deadlines.add(line.terms.deadline_s, wall_s)

    def _waiting_of(self, part: Part) -> int:
        return self._queue.waiting_of(part.tenant, part.is_deferred)

    def _is_over(self, part: Part) -> bool:
        return self._waiting_of(part) > 2 * self._size_of(part)

    def _size_of(self, part: Part) -> int:
        """Return how many lines of a part the queue should hold: its share of the number and the bytes of its class."""
        parts = max(len(self._in_use[part.is_deferred]), 1)
        size_bytes = self._queue.size_bytes
        in_bytes = MAX_QUEUED_BYTES * len(self._queue) / size_bytes / parts if size_bytes else inf
        return max(int(min(max(self._max_queued / parts, MIN_PART), in_bytes)), 1)


def _max_held_bytes(part: Part) -> int:
    """Return the bytes of all requests with which the queue gets no more lines of a part."""
    return MAX_HELD_BYTES // 2 if part.is_deferred else MAX_HELD_BYTES


def _goes_before_late(part: Part) -> bool:
    """Return whether lines on disk go before late ones in the queue: they can make their deadline, or may have a higher
    priority.
    """
    return part.first < LAST and (part.first[1] < inf or len(part.counts) > 1)
