"""Read-ahead: from the first line with terms of its own on, inputs are read to their ends, whatever can be sent yet.

So the most urgent line is found wherever it stands, and each tenant gets its share. What cannot go yet waits on disk;
see `WaitingLines`. Inputs without terms need none of this: `ReadAhead` does nothing until it is opened.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from llmblast.job.batch_parser import Batch
from llmblast.job.input_reader import Inputs
from llmblast.models import Request, Terms
from llmblast.reading import RequestParser, RowForm
from llmblast.scheduling import Scheduler

if TYPE_CHECKING:
    from llmblast.job.waiting_lines import WaitingLines

MAX_BACKLOG_BYTES: Final = 8 * 1024**3
"""With so much on disk no more is read, until half of it is gone."""
PAUSE_SHARE: Final = 2.0
"""While requests are in flight, reading ahead pauses for so many times as long as it worked for lines that wait."""
MIN_PAUSE_S, MAX_PAUSE_S = 0.002, 0.02
LOOK_INTERVAL_S: Final = 0.25
"""Lines may also leave the queue without a send: so often all are asked for room in any case."""


class ReadAhead:
    """`max_queued` bounds the number of lines of each class in the queue. `make_parser` makes the parser of lines that
    come back. `on_read` is called for each line that is read. Without `can_take_back`, a line in the queue stays there,
    since something else waits for its answer. With `has_batches`, deferred lines go by batch, as far as a batch API
    takes them.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        inputs: Inputs,
        max_queued: int,
        make_parser: Callable[[], RequestParser],
        on_read: Callable[[Terms], None],
        *,
        can_take_back: bool = True,
        has_batches: bool = False,
    ) -> None:
        self._scheduler = scheduler
        self._inputs = inputs
        self._max_queued = max_queued
        self._make_parser = make_parser
        self._on_read = on_read
        self._can_take_back = can_take_back
        self._has_batches = has_batches
        self._lines: WaitingLines | None = None
        self._looks = asyncio.Event()
        self._has_room = asyncio.Event()
        self._have_inputs_ended = False
        self._owed_pause_s = 0.0

    @property
    def is_open(self) -> bool:
        """Return whether inputs are read to their ends."""
        return self._lines is not None

    @property
    def form(self) -> RowForm | None:
        """Return the form of the rows that came back last."""
        return None if self._lines is None else self._lines.places.form

    @property
    def has_immediate(self) -> bool:
        """Return whether immediate lines wait on disk."""
        return self._lines is not None and self._lines.has_immediate

    def open(self) -> None:
        """Begin to read ahead. Raises OutputFailedError."""
        from llmblast.job.waiting_lines import Places, WaitingLines  # noqa: PLC0415 -- sqlite3, which few runs need

        places = Places(self._inputs.forms, self._make_parser())
        self._lines = WaitingLines(
            self._scheduler.queue,
            places,
            self._max_queued,
            self._on_read,
            can_take_back=self._can_take_back,
            has_batches=self._has_batches,
        )
        self._inputs.has_backlog = True
        for reader in self._inputs.readers:
            reader.read_ahead(self._lines.keep)

    def close(self) -> None:
        """Remove what is on disk."""
        if self._lines is not None:
            self._lines.close()

    async def settle(self) -> None:
        """Write what was kept, after each batch that was read, and pause, so that this does not slow the sends.

        Raises OutputFailedError.
        """
        lines = self._lines
        if lines is None:
            return
        if (worked_s := lines.write()) > 0:
            self._looks.set()
            self._owed_pause_s += PAUSE_SHARE * worked_s
        if self._owed_pause_s >= MIN_PAUSE_S:
            pause_s, self._owed_pause_s = min(self._owed_pause_s, MAX_PAUSE_S), 0.0
            if self._scheduler.in_flight:
                await asyncio.sleep(pause_s)
        if lines.size_bytes >= MAX_BACKLOG_BYTES:
            self._has_room.clear()
            await self._has_room.wait()

    def on_sent(self, request: Request) -> None:
        """Record that a request was sent."""
        if self._lines is not None and self._lines.on_sent(request):
            self._looks.set()

    def end_inputs(self) -> None:
        """Expect no more lines."""
        self._have_inputs_ended = True
        self._looks.set()

    async def batches(self) -> AsyncIterator[Batch]:
        """Yield the lines that come back, until none is left and the inputs have ended. Raises OutputFailedError."""
        next_look_s = 0.0
        while not self._have_inputs_ended or self._lines:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL_S if self._lines else None):
                    await self._looks.wait()
            self._looks.clear()
            lines = self._lines
            if lines is None:
                continue
            if has_others := (now := time.monotonic()) >= next_look_s:
                next_look_s = now + LOOK_INTERVAL_S
            for part in lines.parts_to_look_at(has_others=has_others):
                while batch := lines.next_batch(part):
                    yield batch
            if lines.size_bytes * 2 <= MAX_BACKLOG_BYTES:
                self._has_room.set()
        self._inputs.end_backlog()
