"""Stream of one output: gather records to batches, write each batch in a thread, sync the file regularly.

A record waits 20 ms for others, or until 1 MiB has gathered: high rates need no thread switch for each record, and the
reader of a pipe sees each record soon. All timers are those of the event loop.

While a sync runs, which takes a second on a slow disk, later records are written: they survive a `kill -9`. Writes wait
for the end of a sync only when too many unsynced records are in memory.

A write to a full disk is tried again for a while, so that a person can make room. After that, and after any other
trouble, all records that are not synced go to a second place, and the stream goes on there. A failed sync is never
tried again on the same file, and a file that another process has changed is left as it is. Without a second place, the
records stay in memory and everything is tried again, until there is room or a person stops the run.

A pipe is watched, so that the run ends when its reader goes, not with the next answer, which may take minutes.
"""

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from llmblast.errors import OutputFailedError
from llmblast.writing.output_file import OutputFile
from llmblast.writing.reader_watch import ReaderWatch
from llmblast.writing.record_buffer import RecordBuffer
from llmblast.writing.second_places import SecondPlaces
from llmblast.writing.spool import Spool
from llmblast.writing.sync_schedule import SyncSchedule

MAX_GATHERED_BYTES: Final = 1024 * 1024
EARLY_SYNC_BYTES: Final = 4 * 1024 * 1024
"""Unsynced bytes that start a sync early. They are all in memory: with 8 MiB a long run would peak 4 MB higher."""
MAX_UNSYNCED_BYTES: Final = 8 * 1024 * 1024
"""Maximum written beside a sync that runs; less would delay writes where a sync takes a second."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds that a record waits for others and then for its sync; how long and how often a full disk is tried."""

    gather_s: float = 0.02
    sync_after_s: float = 1.0
    disk_wait_s: float = 60.0
    retry_s: float = 1.0


class Listener(Protocol):
    """Follow a stream, on the loop."""

    def on_write(self, size_bytes: int) -> None:
        """Count bytes that wait no longer to be written."""

    def on_pause(self, notice: str) -> None:
        """Stop sending and show the notice: nothing can be written for now."""

    def on_resume(self, notice: str) -> None:
        """Show the notice: records are written again."""

    def on_failure(self, failure: OutputFailedError) -> None:
        """End the run: the file takes nothing more, and records go to a second place. Called once."""


class StreamState(Enum):
    """State of a `Stream`."""

    WRITING = "writing"
    PAUSED = "paused: no place takes its records"


@dataclass(slots=True)
class _Trouble:
    """Present trouble of a stream with its file."""

    fatal_error: OSError | None = None
    """Why nothing more may be written to the file: a sync has failed, or it has lost its name or its reader."""
    wait_until_s: float | None = None
    """Until when it waits for room, on the loop's clock."""
    notice: str = ""
    """The last notice of a pause."""


class Stream:
    """Write rendered records to a file, or else to the places of `spool`.

    Call `before_first_write` once, in the thread of the first write.
    """

    def __init__(
        self,
        file: OutputFile,
        spool: Spool,
        timing: Timing,
        listener: Listener,
        before_first_write: Callable[[], None] | None = None,
    ) -> None:
        self._state = StreamState.WRITING
        self._name = file.name
        self._places = SecondPlaces(file, spool)
        self._timing = timing
        self._listener = listener
        self._before_first_write = before_first_write
        self._buffer = RecordBuffer()
        self._syncs = SyncSchedule(timing.sync_after_s, self._wake)
        self._reader = ReaderWatch(self._on_reader_gone)
        self._trouble = _Trouble()
        self._is_closing = False
        self._wait_ended = asyncio.Event()
        self._work = asyncio.Event()
        self._busy = asyncio.Lock()

    def __repr__(self) -> str:
        return f"Stream({self._name!r}, {self._state.value}{', closing' * self._is_closing})"

    @property
    def is_paused(self) -> bool:
        """No place takes records for now."""
        return self._state is StreamState.PAUSED

    def add(self, record: bytes) -> None:
        """Take a record, on the loop."""
        if not self._buffer.has_gathered:
            asyncio.get_running_loop().call_later(self._timing.gather_s, self._wake)
        self._buffer.add(record)
        if self._buffer.gathered_bytes >= MAX_GATHERED_BYTES:
            self._wake()

    async def run(self) -> None:
        """Write and sync until closed. A write that is under way when this is cancelled still counts."""
        self._reader.start(self._places.current.watchable_fd)
        while True:
            await self._work.wait()
            if self._is_closing:
                return
            self._work.clear()
            await asyncio.shield(self._flush_once(sync=False))

    async def flush(self) -> None:
        """Write and sync all records so far, to the file or to a second place."""
        await self._flush_once(sync=True)

    def stop_waiting(self) -> None:
        """Wait for room no longer."""
        self._wait_ended.set()
        self._work.set()

    async def close(self) -> OutputFailedError | None:
        """Write everything to some place, wait for room if need be, and close the file.

        Return where the records are that the file did not take, and how many could be saved nowhere, if any.
        """
        self._is_closing = True
        self._reader.stop()
        self._work.set()
        while True:
            is_last = self._wait_ended.is_set()
            await self._flush_once(sync=True)
            if is_last or not self.is_paused:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timing.retry_s):  # wait_for would miss a cancellation at that moment
                    await self._wait_ended.wait()
        await self._places.close()
        return self._explain() if self._places.has_failed_over or self.is_paused else None

    def _on_reader_gone(self) -> None:
        if not self._places.has_moved and self._trouble.fatal_error is None:
            self._trouble.fatal_error = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            self._work.set()

    async def _flush_once(self, *, sync: bool) -> None:
        async with self._busy:
            while (error := await self._write_and_sync(sync=sync)) is not None:
                if not self._places.names:
                    self._places.record_problem(error, is_synced=self._trouble.fatal_error is not None)
                if self._should_wait_for_room(error):
                    self._pause(f"sending is paused until there is room, for {self._timing.disk_wait_s:g} s at most")
                    return
                if not await self._fail_over(error):
                    self._pause("no other place takes its records; sending is paused until there is room")
                    return
            self._resume()

    async def _write_and_sync(self, *, sync: bool) -> OSError | None:
        """Write all records, sync if due, and return the error. No sync runs after an error or with `sync`."""
        trouble, buffer, syncs = self._trouble, self._buffer, self._syncs
        error = trouble.fatal_error or await self._write()
        must_end = sync or error is not None
        if must_end or buffer.unsynced_bytes >= MAX_UNSYNCED_BYTES:
            await syncs.wait()
        is_due = syncs.is_due or buffer.unsynced_bytes >= EARLY_SYNC_BYTES
        if (sync or is_due) and not syncs.is_running and trouble.fatal_error is None:
            syncs.start(self._sync(has_new_bytes=buffer.begin_sync()))
        if must_end:
            await syncs.wait()
        if sync and error is None and trouble.fatal_error is None:
            trouble.fatal_error = await asyncio.to_thread(self._places.current.find_change)
        return trouble.fatal_error or error

    async def _write(self) -> OSError | None:
        data = self._buffer.next_batch()
        if not data:
            return None
        is_resumable = self._places.current.is_resumable
        if is_resumable:
            self._syncs.record_write()
        size_bytes, error = await asyncio.to_thread(self._append, data)
        self._places.record_write(self._buffer.record_write(size_bytes))
        if not is_resumable:
            self._buffer.forget_read_records(self._places.current.pipe_bytes)
        self._listener.on_write(size_bytes)
        return error

    def _append(self, data: bytes) -> tuple[int, OSError | None]:
        """Append to the file. Runs in a thread."""
        if self._before_first_write is not None:
            call, self._before_first_write = self._before_first_write, None
            call()
        return self._places.current.append(data)

    async def _sync(self, *, has_new_bytes: bool) -> None:
        file = self._places.current
        try:
            if has_new_bytes:
                await asyncio.to_thread(file.sync)
            await asyncio.to_thread(file.check_name)
            self._buffer.end_sync()
        except OSError as error:
            self._trouble.fatal_error = error
        self._syncs.on_end()
        self._wake()

    def _should_wait_for_room(self, error: OSError) -> bool:
        trouble = self._trouble
        is_fatal = trouble.fatal_error is not None or error.errno not in _NO_ROOM
        if self._places.has_moved or is_fatal or self._wait_ended.is_set():
            return False
        now = asyncio.get_running_loop().time()
        if trouble.wait_until_s is None:
            trouble.wait_until_s = now + self._timing.disk_wait_s
        return now < trouble.wait_until_s

    async def _fail_over(self, error: OSError) -> bool:
        """Move all records that are not durable to a second place, and go on there. Return False without a place.

        From a pipe whose reader is gone, also those that it has not read.
        """
        if not self._places.current.is_resumable:
            unread_bytes = self._places.current.unread_bytes if isinstance(error, BrokenPipeError) else 0
            self._buffer.forget_read_records(unread_bytes, is_exact=True)
        if not await self._places.move(self._buffer, error):
            return False
        self._listener.on_write(len(self._buffer.unwritten))
        self._buffer.forget_moved()
        self._trouble.fatal_error = None
        if len(self._places.names) == 1:
            self._listener.on_failure(self._explain())
        return True

    def _pause(self, consequence: str) -> None:
        if not self._is_closing:
            asyncio.get_running_loop().call_later(self._timing.retry_s, self._work.set)
        self._state = StreamState.PAUSED
        notice = f"{self._name}: {self._places.problem}; {consequence}"
        if notice != self._trouble.notice:
            self._trouble.notice = notice
            self._listener.on_pause(notice)

    def _resume(self) -> None:
        self._trouble.wait_until_s = None
        if not self.is_paused:
            return
        self._state = StreamState.WRITING
        self._trouble.notice = ""
        names = self._places.names
        end = f"the records are in {names[-1]}" if names else "there is room again; the run goes on"
        self._listener.on_resume(f"{self._name}: {end}")
        if self._buffer.has_gathered:
            self._work.set()

    def _wake(self) -> None:
        if not self.is_paused:
            self._work.set()

    def _explain(self) -> OutputFailedError:
        has_lost_file = self._trouble.fatal_error is not None
        return self._places.explain(self._buffer.count_unsaved(has_lost_file=has_lost_file))
