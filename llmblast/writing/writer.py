"""The one writer: a worker hands an Outcome over and is free; memory is bounded by bytes, files get whole batches.

The two files are written side by side, so a slow reader of the one does not hold up the other.
"""

import asyncio
from collections.abc import Callable

from llmblast.errors import OutputFailedError
from llmblast.records import Outcome, Success
from llmblast.writing.output_file import OutputFile
from llmblast.writing.records import render
from llmblast.writing.stream import Stream

FULL_BYTES = 8 * 1024 * 1024
GATHER_S = 0.02
SYNC_AFTER_S = 1.0


class Writer:
    """Brings Outcomes to their files: successes to `save`, failures to `errors`.

    `is_full` asks for a pause; `on_room` is called on the loop once half of the room is free again. `failure` is set,
    and `on_failure` called, when a file can no longer be written or synced: what is put from then on stays in memory
    and is tried once more by `close`. `body` is one of always, auto, never.
    """

    def __init__(
        self,
        save: OutputFile,
        errors: OutputFile,
        *,
        echo: bool,
        body: str,
        on_room: Callable[[], None],
        on_failure: Callable[[], None],
        gather_s: float = GATHER_S,
        sync_after_s: float = SYNC_AFTER_S,
    ) -> None:
        self.is_full = False
        self.failure: OutputFailedError | None = None
        self._echo = echo
        self._body = body
        self._on_room = on_room
        self._on_failure = on_failure
        self._buffered_bytes = 0
        self._save = Stream(save, gather_s, sync_after_s, self._make_room, self._fail)
        self._errors = Stream(errors, gather_s, sync_after_s, self._make_room, self._fail)

    def put(self, outcome: Outcome) -> None:
        """Takes the outcome, full or not. On the loop only, before `close`; never blocks, never fails."""
        record = render(outcome, self._echo, self._body)
        self._buffered_bytes += len(record)
        if self._buffered_bytes >= FULL_BYTES:
            self.is_full = True
        (self._save if isinstance(outcome, Success) else self._errors).add(record)

    async def run(self) -> None:
        """The flush loop; it ends after `close`, or when both files have failed."""
        await asyncio.gather(self._save.run(), self._errors.run())

    async def flush(self) -> None:
        """Returns when all that was put before is written and synced, or `failure` is set."""
        await asyncio.shield(asyncio.gather(self._save.flush(), self._errors.flush()))

    async def close(self) -> None:
        """Writes and syncs everything, closes the files, lifts the locks. Goes on to its end even when cancelled.

        Raises OutputFailedError when anything could not be written or synced.
        """
        problems = await asyncio.shield(asyncio.gather(self._save.close(), self._errors.close()))
        for problem in problems:
            if problem is not None:
                raise problem

    def _make_room(self, written_bytes: int) -> None:
        self._buffered_bytes -= written_bytes
        if self.is_full and self._buffered_bytes < FULL_BYTES // 2:
            self.is_full = False
            self._on_room()

    def _fail(self, failure: OutputFailedError) -> None:
        if self.failure is None:
            self.failure = failure
            self._on_failure()
