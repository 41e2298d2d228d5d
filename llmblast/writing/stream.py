"""One output file's share of the writer: records gather to batches, a batch is one write in a thread, syncs follow.

A record waits 20 ms for others, less when 256 KiB have gathered; so no thread hop is paid for a single line at high
rates, and the reader of a pipe sees each record soon. Timers are the event loop's; nothing polls.
"""

import asyncio
import errno
from collections.abc import Callable

import aiofiles.os

from llmblast.errors import OutputFailedError
from llmblast.writing.output_file import OutputFile

BATCH_BYTES = 256 * 1024
SYNC_BYTES = 8 * 1024 * 1024
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Stream:
    """Takes rendered records and brings them to a file. `failure` is set once, at the first write or sync that fails.

    `on_written` is told how many bytes have left memory, `on_failure` what went wrong first; both run on the loop.
    """

    def __init__(
        self,
        file: OutputFile,
        gather_s: float,
        sync_after_s: float,
        on_written: Callable[[int], None],
        on_failure: Callable[[OutputFailedError], None],
    ) -> None:
        self.failure: OutputFailedError | None = None
        self._error: OSError | None = None
        self._file = file
        self._append_in_thread = aiofiles.os.wrap(file.append)
        self._sync_in_thread = aiofiles.os.wrap(file.sync)
        self._gather_s = gather_s
        self._sync_after_s = sync_after_s
        self._on_written = on_written
        self._on_failure = on_failure
        self._records: list[bytes] = []
        self._gathered_bytes = 0
        self._unwritten = b""
        self._unsynced_bytes = 0
        self._sync_timer: asyncio.TimerHandle | None = None
        self._sync_is_due = False
        self._sync_failed = False
        self._closing = False
        self._work = asyncio.Event()
        self._busy = asyncio.Lock()

    def add(self, record: bytes) -> None:
        """Takes a record, on the loop."""
        if not self._records:
            asyncio.get_running_loop().call_later(self._gather_s, self._work.set)
        self._records.append(record)
        self._gathered_bytes += len(record)
        if self._gathered_bytes >= BATCH_BYTES:
            self._work.set()

    async def run(self) -> None:
        """Writes and syncs until closed or failed. A write that is under way when this is cancelled still counts."""
        while self.failure is None:
            await self._work.wait()
            if self._closing:
                return
            self._work.clear()
            await asyncio.shield(self._bring(sync=False))

    async def flush(self) -> None:
        """Writes and syncs what was taken before, or sets `failure`."""
        await self._bring(sync=True)

    async def close(self) -> OutputFailedError | None:
        """Tries everything once more, closes the file and returns what could not be saved, if anything.

        What nobody reads any more is no loss: whoever closed the pipe wanted no more of it.
        """
        self._closing = True
        self._work.set()
        await self.flush()
        self._file.close()
        if self._sync_failed:
            return self.failure
        if self._error is None or not self._unwritten or isinstance(self._error, BrokenPipeError):
            return None
        missing = self._unwritten.count(b"\n")
        return _explain(self._file.name, f"cannot be written, {missing} records are missing", self._error)

    async def _bring(self, *, sync: bool) -> None:
        async with self._busy:
            await self._write()
            if sync or self._sync_is_due or self._unsynced_bytes >= SYNC_BYTES:
                await self._sync()

    async def _write(self) -> None:
        data = b"".join((self._unwritten, *self._records))
        if not data:
            return
        self._records = []
        self._gathered_bytes = 0
        if self._sync_timer is None and self._file.is_resumable:
            loop = asyncio.get_running_loop()
            self._sync_timer = loop.call_later(self._sync_after_s, self._demand_sync)
        written, error = await self._append_in_thread(data)
        self._unwritten = data[written:]
        self._unsynced_bytes += written
        self._on_written(written)
        if error is not None:
            self._fail("cannot be written", error)

    async def _sync(self) -> None:
        if self._sync_timer is not None:
            self._sync_timer.cancel()
            self._sync_timer = None
        self._sync_is_due = False
        if not self._unsynced_bytes or self._sync_failed:
            return
        self._unsynced_bytes = 0
        try:
            await self._sync_in_thread()
        except OSError as error:
            self._sync_failed = True
            self._fail("cannot be synced to its device, so its last records may be missing", error)

    def _demand_sync(self) -> None:
        self._sync_is_due = True
        self._work.set()

    def _fail(self, problem: str, error: OSError) -> None:
        self._error = error
        if self.failure is None:
            self.failure = _explain(self._file.name, problem, error)
            self._on_failure(self.failure)


def _explain(name: str, problem: str, error: OSError) -> OutputFailedError:
    if isinstance(error, BrokenPipeError):
        return OutputFailedError(f"{name}: nobody reads it any more. Run the same command again to go on.")
    fix = "Make room" if error.errno in _NO_ROOM else "Mend that"
    return OutputFailedError(f"{name}: {problem}: {error.strerror}. {fix} and run the same command again to go on.")
