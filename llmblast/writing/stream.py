"""One output's share of the writer: records gather to batches, a batch is one write in a thread, syncs follow.

A record waits 20 ms for others, less when 1 MiB has gathered; so no thread hop is paid for a single line at high
rates, and the reader of a pipe sees each record soon. Timers are the event loop's; nothing polls.

What was written stays in memory until it is synced. While a sync runs, which takes a second on a slow disk, records go
on to be written: what the system has survives a `kill -9`. Everything else waits for the end of that sync, and so do
records when there is too much of them in memory: a fast disk is asked for a sync long before that.

A file without room is tried again for a while, so that a person can make some. Where that does not help, and for every
other trouble, all that is not synced goes to a second place, and the stream goes on there. A failed sync is never tried
again on the same file, and a file that another process has changed is left as it is. Where no place takes anything, the
records stay in memory and everything is tried again, until there is room or a person gives up.

A pipe is watched, so that the run ends when its reader goes and not with the next answer, which may take minutes.
"""

import asyncio
import contextlib
import errno
import os
from dataclasses import dataclass
from typing import Protocol

from llmblast.errors import OutputFailedError, ReaderGoneError
from llmblast.writing.output_file import ChangedError, OutputFile
from llmblast.writing.spool import Spool

BATCH_BYTES = 1024 * 1024
SYNC_BYTES = 4 * 1024 * 1024
"""So much is synced before its second is over. All of it is in memory: at 8 MiB a long run would peak 4 MB higher."""
MAX_UNSYNCED_BYTES = 8 * 1024 * 1024
"""What may gather beside a sync that runs: less would hold up the writes where one takes a second."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a record waits for others, and then for its sync; for how long and how often room is waited for."""

    gather_s: float = 0.02
    sync_after_s: float = 1.0
    disk_wait_s: float = 60.0
    retry_s: float = 1.0


class Listener(Protocol):
    """Who has to know; all is told on the loop."""

    def wrote(self, size_bytes: int) -> None:
        """So many bytes wait no longer to be written."""

    def paused(self, notice: str) -> None:
        """Nothing can be written for now. `notice` is for a person."""

    def resumed(self, notice: str) -> None:
        """It can again."""

    def failed(self, failure: OutputFailedError) -> None:
        """The file takes nothing more; records go to a second place. Told once."""


class Stream:
    """Takes rendered records and brings them to a file, or else to the places of `spool`.

    `is_paused` says that no place takes them for now.
    """

    def __init__(self, file: OutputFile, spool: Spool, timing: Timing, listener: Listener) -> None:
        self.is_paused = False
        self._file = file
        self._own_file = file
        self._spool = spool
        self._timing = timing
        self._listener = listener
        self._records: list[bytes] = []
        self._gathered_bytes = 0
        self._unwritten = b""
        self._unsynced: list[bytes] = []
        self._unsynced_bytes = 0
        self._syncing: list[bytes] = []
        """What the sync that runs makes safe; `_unsynced` is what was written since it began."""
        self._sync: asyncio.Task[None] | None = None
        self._sync_timer: asyncio.TimerHandle | None = None
        self._sync_is_due = False
        self._lost: OSError | None = None
        """Why nothing more may be written to the file: a sync has failed, or it has lost its name."""
        self._wait_until_s: float | None = None
        self._is_reader_gone = False
        self._watched_fd: int | None = None
        self._problem = ""
        """What is wrong with our own file, in words."""
        self._notice = ""
        self._places: list[str] = []
        """The spools that took records, first to last; `_spooled` records in all."""
        self._spooled = 0
        self._has_failed = False
        """Records went to a second place, or would have, had there been any."""
        self._closing = False
        self._hurried = asyncio.Event()
        self._work = asyncio.Event()
        self._busy = asyncio.Lock()

    def add(self, record: bytes) -> None:
        """Takes a record, on the loop."""
        if not self._records:
            asyncio.get_running_loop().call_later(self._timing.gather_s, self._wake)
        self._records.append(record)
        self._gathered_bytes += len(record)
        if self._gathered_bytes >= BATCH_BYTES:
            self._wake()

    async def run(self) -> None:
        """Writes and syncs until closed. A write that is under way when this is cancelled still counts."""
        self._watched_fd = self._own_file.watchable_fd
        if self._watched_fd is not None:
            asyncio.get_running_loop().add_reader(self._watched_fd, self._on_reader_gone)
        while True:
            await self._work.wait()
            if self._closing:
                return
            self._work.clear()
            await asyncio.shield(self._bring(sync=False))

    async def flush(self) -> None:
        """Writes and syncs what was taken before, wherever it is taken."""
        await self._bring(sync=True)

    def hurry(self) -> None:
        """Waits for room no longer."""
        self._hurried.set()
        self._work.set()

    async def close(self) -> OutputFailedError | None:
        """Brings everything to a place, waits for room if need be, and closes the file.

        Returns where the records are that the file did not take, and how many could be saved nowhere, if any.
        """
        self._closing = True
        self._stop_watching()
        self._work.set()
        while True:
            is_last = self._hurried.is_set()
            await self._bring(sync=True)
            if is_last or not self.is_paused:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timing.retry_s):  # wait_for would miss a cancellation at that moment
                    await self._hurried.wait()
        for file in {self._file, self._own_file}:
            await asyncio.to_thread(file.close)
        if self._places and not self._spooled:
            await asyncio.to_thread(self._spool.discard_empty, self._places)
            self._places = []
        return self._explain() if self._has_failed or self.is_paused else None

    def _on_reader_gone(self) -> None:
        self._stop_watching()
        if self._file is self._own_file and self._lost is None:
            self._lost = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            self._work.set()

    def _stop_watching(self) -> None:
        if self._watched_fd is not None:
            asyncio.get_running_loop().remove_reader(self._watched_fd)
            self._watched_fd = None

    async def _bring(self, *, sync: bool) -> None:
        async with self._busy:
            while (error := await self._attempt(sync=sync)) is not None:
                if not self._places:
                    self._problem = self._describe(error)
                    self._is_reader_gone = isinstance(error, BrokenPipeError)
                if self._waits_for_room(error):
                    self._pause(f"sending is paused until there is room, for {self._timing.disk_wait_s:g} s at most")
                    return
                if not await self._move(error):
                    self._pause("no other place takes its records; sending is paused until there is room")
                    return
            self._resume()

    async def _attempt(self, *, sync: bool) -> OSError | None:
        """Writes all, syncs if it is time; returns what went wrong. Then, and with `sync`, no sync runs any more."""
        error = self._lost or await self._write()
        must_end = sync or error is not None
        if must_end or self._unsynced_bytes >= MAX_UNSYNCED_BYTES:
            await self._end_of_sync()
        is_due = self._sync_is_due or self._unsynced_bytes >= SYNC_BYTES
        if (sync or is_due) and self._sync is None and self._lost is None:
            self._start_sync()
        if must_end:
            await self._end_of_sync()
        if sync and error is None and self._lost is None:
            self._lost = await asyncio.to_thread(self._file.find_change)
        return self._lost or error

    async def _write(self) -> OSError | None:
        data = self._unwritten = self._all_unwritten()
        if not data:
            return None
        if self._sync_timer is None and self._file.is_resumable:
            loop = asyncio.get_running_loop()
            self._sync_timer = loop.call_later(self._timing.sync_after_s, self._demand_sync)
        written, error = await asyncio.to_thread(self._file.append, data)
        self._unwritten = data[written:]
        self._unsynced.append(data[:written])
        self._unsynced_bytes += written
        if self._file is not self._own_file:
            self._spooled += data[:written].count(b"\n")
        if not self._file.is_resumable:
            self._take_whole_records()
        self._listener.wrote(written)
        return error

    def _start_sync(self) -> None:
        if self._sync_timer is not None:
            self._sync_timer.cancel()
            self._sync_timer = None
        self._sync_is_due = False
        has_new_bytes = self._unsynced_bytes > 0
        self._syncing = self._take_whole_records()
        self._sync = asyncio.create_task(self._make_safe(has_new_bytes))

    async def _make_safe(self, has_new_bytes: bool) -> None:
        try:
            if has_new_bytes:
                await asyncio.to_thread(self._file.sync)
            await asyncio.to_thread(self._file.check_name)
            self._syncing = []
        except OSError as error:
            self._lost = error
        self._sync = None
        self._wake()

    async def _end_of_sync(self) -> None:
        if self._sync is not None:
            sync = self._sync
            try:
                await sync
            finally:
                self._sync = None if self._sync is sync else self._sync

    def _all_unwritten(self) -> bytes:
        data = b"".join((self._unwritten, *self._records))
        self._records = []
        self._gathered_bytes = 0
        return data

    def _take_whole_records(self) -> list[bytes]:
        """Out of what is unsynced. The start of one whose end could not be written yet stays: no place shall have half
        of one.
        """
        taken, self._unsynced, self._unsynced_bytes = self._unsynced, [], 0
        if self._unwritten:
            data = b"".join(taken)
            end = data.rfind(b"\n") + 1
            taken, self._unsynced = [data[:end]], [data[end:]]
        return taken

    def _waits_for_room(self, error: OSError) -> bool:
        if self._file is not self._own_file or self._lost or error.errno not in _NO_ROOM or self._hurried.is_set():
            return False
        now = asyncio.get_running_loop().time()
        if self._wait_until_s is None:
            self._wait_until_s = now + self._timing.disk_wait_s
        return now < self._wait_until_s

    async def _move(self, error: OSError) -> bool:
        """Takes all that is not safe to a second place and goes on there. False where no place takes it."""
        written = b"".join((*self._syncing, *self._unsynced))
        lost = self._file if isinstance(error, FileNotFoundError) else None
        try:
            place, count = await asyncio.to_thread(self._spool.store, written + self._unwritten, lost, len(written))
        except OSError:
            return False
        if not isinstance(error, ChangedError):
            await asyncio.to_thread(self._file.take_back, len(written))
        if self._file is not self._own_file:
            await asyncio.to_thread(self._file.close)
            self._spooled -= written.count(b"\n")
        self._listener.wrote(len(self._unwritten))
        self._unwritten, self._syncing, self._unsynced, self._unsynced_bytes = b"", [], [], 0
        self._file, self._lost = place, None
        self._places.append(place.name)
        self._spooled += count
        self._has_failed = True
        if len(self._places) == 1:
            self._listener.failed(self._explain())
        return True

    def _pause(self, consequence: str) -> None:
        if not self._closing:
            asyncio.get_running_loop().call_later(self._timing.retry_s, self._work.set)
        self.is_paused = True
        notice = f"{self._own_file.name}: {self._problem}; {consequence}"
        if notice != self._notice:
            self._notice = notice
            self._listener.paused(notice)

    def _resume(self) -> None:
        self._wait_until_s = None
        if not self.is_paused:
            return
        self.is_paused = False
        self._notice = ""
        end = f"the records are in {self._places[-1]}" if self._places else "there is room again; the run goes on"
        self._listener.resumed(f"{self._own_file.name}: {end}")
        if self._records:
            self._work.set()

    def _wake(self) -> None:
        if not self.is_paused:
            self._work.set()

    def _demand_sync(self) -> None:
        self._sync_is_due = True
        self._wake()

    def _describe(self, error: OSError) -> str:
        if isinstance(error, BrokenPipeError):
            return "its reader has closed it"
        if isinstance(error, FileNotFoundError | ChangedError):
            return str(error.strerror)
        return f"cannot be {'written' if self._lost is None else 'synced to its device'}: {error.strerror}"

    def _explain(self) -> OutputFailedError:
        sentence = f"{self._own_file.name}: {self._problem}"
        if self._spooled:
            sentence += f"; {_number(self._spooled)} in {' and '.join(self._places)}"
        unsynced = (*self._syncing, *self._unsynced)
        unsaved = (*(unsynced if self._lost else ()), self._unwritten, *self._records)
        if missing := sum(piece.count(b"\n") for piece in unsaved):
            sentence += f"; {_number(missing)} lost: they could not be written anywhere else"
        if self._is_reader_gone:
            return ReaderGoneError(f"{sentence} (only a run with --save FILE can be resumed)")
        if not self._own_file.is_resumable:
            advice = (
                "move this file if you need it, no later run reads it"
                if self._spooled
                else "write to a file with --save"
            )
        elif "another process" in self._problem:
            advice = "stop that process and run the same command again; it sends lines without a record again"
            advice += " and adds these records" if self._spooled else ""
        else:
            fix = "" if "removed" in self._problem else "free some space or solve the problem, and "
            advice = f"{fix}run the same command again to go on{'; it adds these records' if self._spooled else ''}"
        return OutputFailedError(f"{sentence}: {advice}")


def _number(count: int) -> str:
    return "1 record is" if count == 1 else f"{count:,} records are"
