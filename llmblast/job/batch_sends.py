"""Batch sends: lines that can wait leave the flow here, for a provider's batch API, and come back where it fails them.

It stands between the parsers and the queue. What leaves is packed on disk, so that memory holds a byte for each line
that waits at a provider. Each batch has a task; the run waits for all of them. Lines that a batch ended without join
the flow again, and are sent directly.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import Final

from llmblast.errors import ExitCode
from llmblast.job.back_pressure import Sink
from llmblast.job.batch_endpoints import BatchEndpoint
from llmblast.job.batch_journal import BatchEntry, BatchJournal, Step
from llmblast.job.batch_packs import BatchPacks, Closed
from llmblast.job.batch_parser import Batch
from llmblast.job.batch_task import CHUNK_LINES, ROOM_INTERVAL_S, BatchTask
from llmblast.job.engine import Engine
from llmblast.models import Failure, Reply, Request
from llmblast.reading import RequestParser, RowForm
from llmblast.watching import Counters
from llmblast.writing import Writer
from llmblast.writing.ordered_writer import OrderedWriter

MAX_UPLOADS: Final = 2
SAFETY: Final = 1.5
"""The rest of a batch gets so many times the time that it needs at the present rate."""
MAX_CANCEL_S: Final = 600.0
CANCEL_SHARE: Final = 0.1
"""Time for a cancellation: OpenAI names up to ten minutes; at most this share of the time that the batch has."""
USUAL_LINES_PER_S: Final = 10.0
"""Taken for the rate of direct requests while nothing is known of it."""


@dataclass(frozen=True, slots=True)
class EarlierBatch:
    """A batch of an earlier run. `states` tells which of its lines have a record."""

    entry: BatchEntry
    states: bytearray


class BatchSends:
    """`earlier` are the batches that earlier runs have left. `lines_per_s` returns the rate at which direct requests
    can go, None while it is not known.
    """

    def __init__(
        self,
        journal: BatchJournal,
        endpoints: list[BatchEndpoint],
        engine: Engine,
        *,
        writer: Writer | OrderedWriter,
        sink: Sink,
        counters: Counters,
        earlier: list[EarlierBatch],
        new_parser: Callable[[], RequestParser],
        lines_per_s: Callable[[], float | None],
        say: Callable[[str], None],
        detaches: bool,
        may_repair: bool,
    ) -> None:
        self.new_parser = new_parser
        self.say = say
        self.detaches = detaches
        self._journal = journal
        self._endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self._engine = engine
        self._writer = writer
        self._sink = sink
        self._counters = counters
        self._earlier = earlier
        self._lines_per_s = lines_per_s
        self._may_repair = may_repair
        self._packs = BatchPacks(journal, [e for e in endpoints if e.takes_lines], time.time)
        self._uploads = asyncio.Semaphore(MAX_UPLOADS)
        self._tasks: dict[asyncio.Task[None], BatchTask] = {}
        self._collected: list[BatchTask] = []
        """Batches of which some lines have to be sent directly."""
        self._ended: list[BatchTask] = []
        self._unknown: list[BatchEntry] = []
        """Batches at endpoints that this run does not have."""
        self._readers = 0
        """Inputs that may bring more lines."""
        self._packing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._finished = asyncio.Event()

    def without_deferred(
        self, parsed: AsyncIterator[Batch], form: Callable[[], RowForm | None]
    ) -> AsyncIterator[Batch]:
        """Return the lines of an input without those that go by batch. Call this for all inputs before `returned`.

        `form` returns the form of the rows that were read last.
        """
        self._readers += 1
        return self._without_deferred(parsed, form)

    async def _without_deferred(
        self, parsed: AsyncIterator[Batch], form: Callable[[], RowForm | None]
    ) -> AsyncIterator[Batch]:
        try:
            async for batch in parsed:
                yield await self._pack(batch, form())
        finally:
            self._readers -= 1
            self._wake.set()

    async def returned(self) -> AsyncIterator[Batch]:
        """Yield lines that came back from batches, until all batches have ended. Start the batches of earlier runs."""
        self._engine.run_task(self._watch())
        self._take_up_earlier()
        while self._readers or self._packs or self._tasks or self._collected:
            await self._wait_for_event()
            while self._collected:
                async for lines in self._lines_of(self._collected.pop()):
                    yield lines
            if not self._readers:
                await self._close_packs(self._packs.close_all)
            elif self._packs.next_close_s() <= time.time():
                await self._close_packs(self._packs.close_idle)
        self._leave_pending()
        self._finished.set()

    def finish(self) -> None:
        """Note that all lines have a record, at the end of a run where that is so. Blocks."""
        for task in self._ended:
            if task.entry.step is Step.COLLECTED:
                task.finish()

    async def close(self) -> None:
        """End what still waits; the batches go on at their providers."""
        await self._cancel_tasks()

    def words_at_stop(self) -> str:
        """Return, for the verdict of a run that was stopped, what becomes of the batches."""
        entries = [task.entry for task in self._tasks.values() if task.entry.is_in_progress]
        lines = sum(entry.lines for entry in entries)
        go = "goes" if len(entries) == 1 else "go"
        words = f"; {_in_words(entries)} with {lines:,} lines {go} on: the same command collects the answers"
        return words if entries else ""

    # What batches need of the run; see `Host`.

    def on_reply(self, request: Request, index: int, reply: Reply) -> bool:
        return self._engine.on_batch_reply(request, index, reply)

    async def wait_for_room(self) -> None:
        while self._sink.is_full or (self._may_repair and self._engine.is_full):  # noqa: ASYNC110 -- rare
            await asyncio.sleep(ROOM_INTERVAL_S)

    async def flush(self) -> bool:
        await self._writer.flush()
        return self._writer.failure is None

    def latest_wait_s(self, entry: BatchEntry) -> float:
        if entry.deadline_s == inf:
            return inf
        rate = self._lines_per_s() or USUAL_LINES_PER_S
        left = max(entry.lines - entry.finished_lines, 0)
        since_s = entry.started_s or entry.packed_s
        cancel_s = min(MAX_CANCEL_S, max(entry.deadline_s - since_s, 0.0) * CANCEL_SHARE)
        return entry.deadline_s - cancel_s - SAFETY * left / rate

    def on_progress(self) -> None:
        entries = [task.entry for task in self._tasks.values()]
        self._counters.batches_open = len(entries) + len(self._packs)
        self._counters.batch_lines = sum(entry.lines for entry in entries) + self._packs.lines
        self._counters.batch_lines_done = sum(entry.finished_lines for entry in entries)

    def on_not_here(self, endpoint: BatchEndpoint, path: str) -> None:
        self._packs.exclude(endpoint, path)

    async def _pack(self, batch: Batch, form: RowForm | None) -> Batch:
        """Pack the lines that go by batch. Return the others."""
        to_pack: list[Request] = []
        direct: list[Request | Failure] = []
        for item in batch:
            if isinstance(item, Request) and item.terms.is_deferred and self._packs.takes(item):
                to_pack.append(item)
            else:
                direct.append(item)
        if to_pack:
            async with self._packing:
                closed, rest = await asyncio.to_thread(self._packs.add, to_pack, form)
            direct += rest
            self._start(closed)
            self._wake.set()
        return direct

    async def _close_packs(self, close: Callable[[], list[Closed]]) -> None:
        async with self._packing:
            closed = await asyncio.to_thread(close)
        self._start(closed)

    def _take_up_earlier(self) -> None:
        for earlier in self._earlier:
            endpoint = self._endpoints.get(earlier.entry.endpoint)
            if endpoint is None:
                self._unknown.append(earlier.entry)
                continue
            self._run_task(BatchTask(earlier.entry, endpoint, self._journal, self, earlier.states, self._uploads))

    def _start(self, closed: list[Closed]) -> None:
        for entry, endpoint in closed:
            states = bytearray(entry.lines)
            self._run_task(BatchTask(entry, endpoint, self._journal, self, states, self._uploads))
        self.on_progress()

    def _run_task(self, batch: BatchTask) -> None:
        task = asyncio.create_task(batch.run())
        self._tasks[task] = batch
        task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        batch = self._tasks.pop(task)
        error = task.exception()
        if isinstance(error, OSError):
            reason = f"{self._journal.folder}: cannot be written: {error.strerror}: solve that and run it again"
            self._engine.stop(ExitCode.OUTPUT_FAILED, reason)
        elif error is not None:
            self._engine.fail_internal(error)
        else:
            self._ended.append(batch)
            if not batch.is_left and batch.outstanding:
                self._collected.append(batch)
        self.on_progress()
        self._wake.set()

    async def _lines_of(self, batch: BatchTask) -> AsyncIterator[Batch]:
        """Yield the lines that a batch ended without."""
        reader = await asyncio.to_thread(batch.open_lines)
        try:
            indexes = batch.outstanding
            for start in range(0, len(indexes), CHUNK_LINES):
                yield await asyncio.to_thread(reader.items, indexes[start : start + CHUNK_LINES], batch.entry.id)
        finally:
            reader.close()

    async def _wait_for_event(self) -> None:
        """Wait until an input or a batch has ended, or a pack is due."""
        if not self._readers and self._packs:
            return
        due_s = self._packs.next_close_s()
        with suppress(TimeoutError):
            async with asyncio.timeout(None if due_s == inf else max(due_s - time.time(), 0.0)):
                await self._wake.wait()
        self._wake.clear()

    async def _watch(self) -> None:
        """Keep the run going until all lines have left; end the tasks where it stops."""
        waits = [asyncio.create_task(event.wait()) for event in (self._engine.end.stopping, self._finished)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await self._cancel_tasks()

    async def _cancel_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _leave_pending(self) -> None:
        """Leave the batches that go on to another run."""
        left = [task.entry for task in self._ended if task.is_left]
        if left:
            lines = sum(entry.lines for entry in left)
            self._engine.leave_pending(lines, f"{_in_words(left)}: run the same command again to collect the answers")
        if self._unknown:
            names = ", ".join(sorted({entry.endpoint for entry in self._unknown}))
            lines = sum(entry.lines for entry in self._unknown)
            self._engine.leave_pending(
                lines, f"batches at {names}, which is none of the endpoints: name it again to collect them"
            )


def _in_words(entries: list[BatchEntry]) -> str:
    return "1 batch at the provider" if len(entries) == 1 else f"{len(entries):,} batches at the providers"
