"""Ordered writer: write the answers in the order of the input lines.

Records that come before those of earlier lines wait: in memory, and after 20 ms also on disk, so that a killed run
loses none (`waiting_file`). Beyond some MiB they are on disk only (`reorder_window`). Failed lines go to the errors
file at once, and hold nothing up.

If the disk of the waiting records has no room, the order is given up: nothing is lost for its sake.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from llmblast.errors import OutputFailedError, ReaderGoneError
from llmblast.models import Line, Outcome, Success
from llmblast.writing.reorder_window import MAX_LINES, Held, ReorderWindow
from llmblast.writing.stream import Timing
from llmblast.writing.waiting_file import WaitingFile
from llmblast.writing.writer import MAX_BUFFERED_BYTES, Writer

CHUNK_BYTES: Final = 1024 * 1024
"""Records that are read from disk at once."""
_WRITE: Final = "write"
_SYNC: Final = "sync"


class OrderedWriter:
    """A `Writer` whose answers leave in the order in which their lines were expected. Call all methods on the loop.

    The records of an earlier run come first: the order is that of the lines of this run.
    """

    def __init__(
        self, writer: Writer, waiting: WaitingFile, *, notice: Callable[[str], None], timing: Timing | None = None
    ) -> None:
        self.changed = writer.changed
        self._writer = writer
        self._waiting = waiting
        self._notice = notice
        self._timing = timing or Timing()
        self._window = ReorderWindow()
        self._busy = asyncio.Lock()
        self._work = asyncio.Event()
        self._closing = asyncio.Event()
        self._is_reading = False
        self._is_given_up = False
        self._is_sync_due = False
        self._timers: dict[str, asyncio.TimerHandle] = {}

    @property
    def is_full(self) -> bool:
        """Too much waits."""
        return self._writer.is_full or self._holds_too_much

    @property
    def failure(self) -> OutputFailedError | None:
        """Return why an output has failed, if one has."""
        return self._writer.failure

    @property
    def is_paused(self) -> bool:
        """No place takes the records of an output for now."""
        return self._writer.is_paused

    def expect(self, line: Line) -> None:
        """Give the next place in the order to a line."""
        if not self._is_given_up:
            self._window.expect(line)

    def put(self, outcome: Outcome) -> None:
        """Take the outcome, full or not; it never blocks and never fails."""
        record: bytes | None = None
        if isinstance(outcome, Success):
            line: Line = outcome.request
            record = self._writer.render_answer(outcome)
        else:
            line = outcome.line
            self._writer.put(outcome)
        if self._is_given_up or not self._window.put(line, record):
            if record is not None:
                self._writer.add_answer(record)
            return
        self._after_put()

    def leave_out(self, line: Line) -> None:
        """Wait for a line no longer: it gets no record in this run."""
        if self._window.put(line, None):
            self._after_put()

    async def run(self) -> None:
        """Write until `close`."""
        await asyncio.gather(self._writer.run(), self._move_records())

    async def flush(self) -> None:
        """Wait until all outcomes so far are durable, in their file or in the waiting one."""
        async with self._busy:
            await self._store(sync=True)
        await self._writer.flush()

    def stop_waiting(self) -> None:
        """Wait for room no longer, since the run is to end."""
        self._writer.stop_waiting()

    async def close(self) -> None:
        """Write everything, also what waits for lines without an answer, and close the files.

        Raises OutputFailedError when a record is not in its file.
        """
        self._closing.set()
        self._work.set()
        for timer in self._timers.values():
            timer.cancel()
        await asyncio.shield(self._close())

    async def _close(self) -> None:
        async with self._busy:
            await self._store(sync=False)
            await self._release_all()
        try:
            await self._writer.close()
        except ReaderGoneError:
            self._waiting.remove()
            raise
        except OutputFailedError:
            self._waiting.close()
            raise
        if left := self._waiting.count:
            self._waiting.close()
            self._notice(f"{left:,} records wait in {self._waiting.name}: the same command adds them")
            return
        await asyncio.to_thread(self._waiting.remove)

    @property
    def _holds_too_much(self) -> bool:
        window = self._window
        is_long = len(window) >= MAX_LINES or window.unwritten_bytes >= MAX_BUFFERED_BYTES
        return is_long and not self._is_given_up

    def _after_put(self) -> None:
        if not self._is_reading:
            self._release_from_memory()
        if self._window.has_unwritten:
            self._wake_in(_WRITE, self._timing.gather_s)
            if self._window.unwritten_bytes >= CHUNK_BYTES:
                self._work.set()

    def _wake_in(self, reason: str, seconds: float) -> None:
        if reason not in self._timers and not self._closing.is_set():
            self._timers[reason] = asyncio.get_running_loop().call_later(seconds, self._on_timer, reason)

    def _on_timer(self, reason: str) -> None:
        del self._timers[reason]
        self._is_sync_due = self._is_sync_due or reason == _SYNC
        self._work.set()

    def _release_from_memory(self) -> None:
        held_too_much = self._holds_too_much
        for held in self._window.take_ready(MAX_BUFFERED_BYTES, in_memory=True):
            self._emit(held, held.record)
        if self._window.is_ready:
            self._work.set()
        if held_too_much:
            self.changed.set()

    def _emit(self, held: Held, record: bytes | None) -> None:
        if record is not None:
            self._writer.add_answer(record)
        if held.place is not None:
            self._waiting.release(held.place)

    async def _move_records(self) -> None:
        """Store what waits, and release what waits no longer, whenever there is work."""
        while not self._closing.is_set():
            await self._work.wait()
            self._work.clear()
            async with self._busy:
                await self._store(sync=self._is_sync_due)
                await self._release_ready()
                await self._remove_emptied()
            self.changed.set()

    async def _store(self, *, sync: bool) -> None:
        """Write the records that are in memory only to the waiting file."""
        ordinals, records = self._window.take_unwritten()
        try:
            if records:
                places = await asyncio.to_thread(self._waiting.append, records)
                for place in self._window.record_written(ordinals, places):
                    self._waiting.release(place)
                self._wake_in(_SYNC, self._timing.sync_after_s)
            if sync:
                self._is_sync_due = False
                await asyncio.to_thread(self._waiting.sync)
        except OSError as error:
            self._give_up(error)

    async def _release_ready(self) -> None:
        """Release records from disk, as fast as the output takes them."""
        while self._window.is_ready and not self._closing.is_set():
            await self._wait_for_room()
            await self._release_chunk(with_gaps=False)

    async def _release_all(self) -> None:
        """Release everything in order, beyond lines without an answer. With no room, the rest stays where it is."""
        while len(self._window) and not self._writer.is_paused:
            if not await self._release_chunk(with_gaps=True):
                return
            if self._writer.is_full:
                await self._writer.flush()

    async def _release_chunk(self, *, with_gaps: bool) -> bool:
        """Release the next records. Return False where they cannot be read; the next run finds them."""
        ready = self._window.take_ready(CHUNK_BYTES, with_gaps=with_gaps)
        on_disk = [held.place for held in ready if held.record is None and held.place is not None]
        self._is_reading = True
        try:
            read = iter(await asyncio.to_thread(self._waiting.read, on_disk))
        except OSError as error:
            self._notice(f"{self._waiting.name}: cannot be read: {error.strerror}; the next run tries it again")
            return False
        finally:
            self._is_reading = False
        for held in ready:
            self._emit(held, next(read) if held.record is None else held.record)
        return True

    async def _wait_for_room(self) -> None:
        """Wait until the output takes more, or the run closes it."""
        if not self._writer.is_full:
            return
        waits = [asyncio.create_task(wait) for wait in (self._writer.wait_for_room(), self._closing.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _remove_emptied(self) -> None:
        emptied = self._waiting.emptied
        if not emptied:
            return
        await self._writer.flush()
        if self._writer.failure is None and not self._writer.is_paused:
            await asyncio.to_thread(self._waiting.remove, emptied)

    def _give_up(self, error: OSError) -> None:
        """Keep no order any more, since records cannot wait on disk."""
        self._is_given_up = True
        self._notice(
            f"{self._waiting.name}: cannot be written: {error.strerror}; "
            "the answers from here on are not in the order of the input"
        )
        for held in self._window.take_memory():
            self._emit(held, held.record)
