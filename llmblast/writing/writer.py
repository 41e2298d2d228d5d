"""The one writer: it takes Outcomes without a wait; memory is bounded by bytes, files get whole batches.

The two files are written side by side, so a slow reader of the one does not hold up the other.
"""

import asyncio
from collections.abc import Callable

from llmblast.errors import OutputFailedError, ReaderGoneError
from llmblast.records import Outcome, Success
from llmblast.writing.output_file import OutputFile
from llmblast.writing.records import render
from llmblast.writing.spool import Spool
from llmblast.writing.stream import Stream, Timing

FULL_BYTES = 8 * 1024 * 1024


class Writer:
    """Brings Outcomes to their files: successes to `save`, failures to `errors`.

    `is_full` asks for a pause: too much waits to be written, or a file has no room. `changed` is set once there is room
    again, or once an output has failed: then its records go to a second place, in `spool_directory` if one is named,
    `failure` is set, and the run should end. `notice` gets messages for the user. `body` is always, auto or never.
    """

    def __init__(
        self,
        save: OutputFile,
        errors: OutputFile,
        *,
        echo: bool,
        body: str,
        notice: Callable[[str], None],
        spool_directory: str | None = None,
        timing: Timing | None = None,
    ) -> None:
        self.is_full = False
        self.failure: OutputFailedError | None = None
        self.changed = asyncio.Event()
        self._echo = echo
        self._body = body
        self._notice = notice
        self._buffered_bytes = 0
        self._save = Stream(save, Spool(save, spool_directory), timing or Timing(), self)
        self._errors = Stream(errors, Spool(errors, spool_directory), timing or Timing(), self)

    def put(self, outcome: Outcome) -> None:
        """Takes the outcome, full or not. On the loop only, before `close`; never blocks, never fails."""
        record = render(outcome, self._echo, self._body)
        self._buffered_bytes += len(record)
        if self._buffered_bytes >= FULL_BYTES:
            self.is_full = True
        (self._save if isinstance(outcome, Success) else self._errors).add(record)

    async def run(self) -> None:
        """The flush loop; it ends after `close`."""
        await asyncio.gather(self._save.run(), self._errors.run())

    async def flush(self) -> None:
        """Returns when all that was put before is written and synced, or waits for room."""
        await asyncio.shield(asyncio.gather(self._save.flush(), self._errors.flush()))

    def hurry(self) -> None:
        """Somebody wants the run to end: waits for room no longer."""
        self._save.hurry()
        self._errors.hurry()

    async def close(self) -> None:
        """Writes and syncs everything, closes the files, lifts the locks. Goes on to its end even when cancelled.

        Raises OutputFailedError when anything is not in its file.
        """
        closing = asyncio.gather(self._save.close(), self._errors.close(), return_exceptions=True)
        problems = await asyncio.shield(closing)
        for problem in problems:  # a defect in the one file's stream must not leave the other one half-written
            if isinstance(problem, BaseException) and not isinstance(problem, OutputFailedError):
                raise problem
        failures = [problem for problem in problems if isinstance(problem, OutputFailedError)]
        if failures:
            is_reader_gone = all(isinstance(failure, ReaderGoneError) for failure in failures)
            raise (ReaderGoneError if is_reader_gone else OutputFailedError)(" ".join(map(str, failures)))

    def wrote(self, size_bytes: int) -> None:
        """A stream's word, as are the next three: so many bytes wait no longer to be written."""
        self._buffered_bytes -= size_bytes
        self._make_room()

    def paused(self, notice: str) -> None:
        """Its file takes nothing for now."""
        self.is_full = True
        self._notice(notice)

    def resumed(self, notice: str) -> None:
        """It takes records again."""
        self._notice(notice)
        self._make_room()

    def failed(self, failure: OutputFailedError) -> None:
        """Its records go to a second place."""
        if self.failure is None:
            self.failure = failure
            self.changed.set()

    def _make_room(self) -> None:
        is_paused = self._save.is_paused or self._errors.is_paused
        if self.is_full and not is_paused and self._buffered_bytes < FULL_BYTES // 2:
            self.is_full = False
            self.changed.set()
