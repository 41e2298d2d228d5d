"""Writer: take outcomes without a wait, and write them to the two outputs. Memory is bounded by bytes.

Both outputs are written concurrently, so a slow reader of one does not delay the other.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from llmblast.errors import OutputFailedError, ReaderGoneError
from llmblast.models import Line, Outcome, Success
from llmblast.writing.formats import AUTO, render
from llmblast.writing.output_file import OutputFile
from llmblast.writing.spool import Spool
from llmblast.writing.stream import Stream, Timing

MAX_BUFFERED_BYTES: Final = 8 * 1024 * 1024


class Writer:
    """Write outcomes: successes to `save`, failures to `errors`.

    `is_full` asks for a pause: too much waits to be written, or a file has no room. `changed` is set once there is room
    again, or once an output has failed: then its records go to a second place, in `spool_directory` if one is named,
    `failure` is set, and the run should end. `notice` gets messages for the user. `body` is always, auto or never;
    `output_format` the format of all records, or AUTO: that of each line.
    `before_first_answer` is called once, in a thread, before the first success is written, `before_render` for each
    success, if it is given.
    """

    def __init__(
        self,
        save: OutputFile,
        errors: OutputFile,
        *,
        echo: bool,
        body: str,
        output_format: str = AUTO,
        notice: Callable[[str], None],
        spool_directory: str | None = None,
        timing: Timing | None = None,
        before_first_answer: Callable[[], None] | None = None,
        before_render: Callable[[Success], None] | None = None,
    ) -> None:
        self.is_full = False
        self.failure: OutputFailedError | None = None
        self.changed = asyncio.Event()
        self._room = asyncio.Event()
        self._echo = echo
        self._body = body
        self._before_render = before_render
        self._format = None if output_format == AUTO else output_format
        self._notice = notice
        self._buffered_bytes = 0
        timing = timing or Timing()
        self._save = Stream(save, Spool(save, spool_directory), timing, self, before_first_answer)
        self._errors = Stream(errors, Spool(errors, spool_directory), timing, self)

    def put(self, outcome: Outcome) -> None:
        """Take the outcome, full or not. Call it on the loop, before `close`; it never blocks and never fails."""
        if self._before_render is not None and isinstance(outcome, Success):
            self._before_render(outcome)
        record = render(outcome, self._echo, self._body, self._format)
        self._buffered_bytes += len(record)
        if self._buffered_bytes >= MAX_BUFFERED_BYTES:
            self.is_full = True
        (self._save if isinstance(outcome, Success) else self._errors).add(record)

    def leave_out(self, line: Line) -> None:
        """Do nothing: the line gets no record in this run."""

    def render_answer(self, success: Success) -> bytes:
        """Return the record of an answer, for `add_answer`."""
        if self._before_render is not None:
            self._before_render(success)
        return render(success, self._echo, self._body, self._format)

    def add_answer(self, record: bytes) -> None:
        """Take the record of an answer, as `put` does."""
        self._buffered_bytes += len(record)
        if self._buffered_bytes >= MAX_BUFFERED_BYTES:
            self.is_full = True
        self._save.add(record)

    @property
    def is_paused(self) -> bool:
        """No place takes the records of an output for now."""
        return self._save.is_paused or self._errors.is_paused

    async def wait_for_room(self) -> None:
        """Wait until no more pause is asked for."""
        while self.is_full:
            self._room.clear()
            await self._room.wait()

    async def run(self) -> None:
        """Write until `close`."""
        await asyncio.gather(*[stream.run() for stream in (self._save, self._errors)])

    async def flush(self) -> None:
        """Wait until all outcomes so far are written and synced, or wait for room."""
        await asyncio.shield(asyncio.gather(*[stream.flush() for stream in (self._save, self._errors)]))

    def stop_waiting(self) -> None:
        """Wait for room no longer, since the run is to end."""
        self._save.stop_waiting()
        self._errors.stop_waiting()

    async def close(self) -> None:
        """Write and sync everything, close the files and release the locks, even when cancelled.

        Raises OutputFailedError when a record is not in its file.
        """
        closing = asyncio.gather(*[stream.close() for stream in (self._save, self._errors)], return_exceptions=True)
        problems = await asyncio.shield(closing)
        for problem in problems:  # a defect in the one file's stream must not leave the other one half-written
            if isinstance(problem, BaseException) and not isinstance(problem, OutputFailedError):
                raise problem
        failures = [problem for problem in problems if isinstance(problem, OutputFailedError)]
        if failures:
            is_reader_gone = all(isinstance(failure, ReaderGoneError) for failure in failures)
            raise (ReaderGoneError if is_reader_gone else OutputFailedError)(" ".join(map(str, failures)))

    def on_write(self, size_bytes: int) -> None:
        """Subtract written bytes from those in memory. This and the next three methods make a `Listener`."""
        self._buffered_bytes -= size_bytes
        self._make_room()

    def on_pause(self, notice: str) -> None:
        self.is_full = True
        self._notice(notice)

    def on_resume(self, notice: str) -> None:
        self._notice(notice)
        self._make_room()

    def on_failure(self, failure: OutputFailedError) -> None:
        if self.failure is None:
            self.failure = failure
            self.changed.set()

    def _make_room(self) -> None:
        if self.is_full and not self.is_paused and self._buffered_bytes < MAX_BUFFERED_BYTES // 2:
            self.is_full = False
            self.changed.set()
            self._room.set()
