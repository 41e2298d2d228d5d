"""Batch sends: lines that can wait leave the flow here, for a provider's batch API, and come back where it fails them.

It stands between the parsers and the queue. What leaves is packed on disk, so that memory holds a byte for each line
that waits at a provider. Each batch has a task; the run waits for all of them. Lines that a batch ended without join
the flow again, and are sent directly.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import TypeVar

from llmblast.batching.api import BatchEnd
from llmblast.errors import OutputFailedError
from llmblast.job.batch_endpoints import BatchEndpoint
from llmblast.job.batch_journal import BatchEntry, BatchJournal
from llmblast.job.batch_packs import BatchPacks, Closed
from llmblast.job.batch_parser import Batch
from llmblast.job.batch_pool import BatchPool
from llmblast.job.batch_run_side import RunSide
from llmblast.job.batch_task import CHUNK_LINES, BatchTask, LineState
from llmblast.job.batch_words import words_at_stop, words_of_batches, words_of_failure
from llmblast.job.deferred_ways import DeferredWays
from llmblast.models import Failure, Request
from llmblast.reading import RowForm

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EarlierBatch:
    """A batch of an earlier run. `states` tells which of its lines have a record."""

    entry: BatchEntry
    states: bytearray


class BatchSends:
    """`earlier` are the batches that earlier runs have left."""

    def __init__(
        self,
        run: RunSide,
        journal: BatchJournal,
        endpoints: Sequence[BatchEndpoint],
        earlier: Sequence[EarlierBatch],
        ways: DeferredWays,
    ) -> None:
        self._run = run
        self._endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self._journal = journal
        self._earlier = earlier
        self._ways = ways
        self._packs = BatchPacks(journal, [e for e in endpoints if e.takes_lines], time.time, self._keep_settings)
        self._pool = BatchPool(run, journal, on_change=self._on_change, on_not_here=self._packs.exclude)
        self._unknown: list[EarlierBatch] = []
        """Batches at endpoints that this run does not have."""
        self._readers = 0
        """Inputs that may bring more lines."""
        self._packing = asyncio.Lock()
        self._wake = asyncio.Event()

    def without_deferred(
        self, parsed: AsyncIterator[Batch], form: Callable[[], RowForm | None]
    ) -> AsyncIterator[Batch]:
        """Return the lines of an input without those that go by batch. Call this for all inputs before `returned`.

        `form` returns the form of the rows that were read last.
        """
        self._readers += 1
        return self._without_deferred(parsed, form)

    async def returned(self) -> AsyncIterator[Batch]:
        """Yield lines that came back from batches, until all batches have ended. Start the batches of earlier runs."""
        finished = asyncio.Event()
        self._run.engine.run_task(self._pool.watch(finished))
        self._take_up_earlier()
        while self._readers or self._packs or self._pool.entries or self._pool.collected:
            await self._wait_for_event()
            while self._pool.collected:
                batch = self._pool.collected.pop()
                if batch.entry.end == BatchEnd.COMPLETED.value:
                    self._ways.learn(batch.entry.duration_s)
                async for lines in self._lines_of(batch):
                    yield lines
            if not self._readers:
                await self._close_packs(self._packs.close_all)
            elif self._packs.next_close_s() <= time.time():
                await self._close_packs(self._packs.close_idle)
        self._leave_pending()
        finished.set()

    def finish(self) -> None:
        """Note that all lines have a record, at the end of a run where that is so. Blocks."""
        self._pool.finish()

    async def close(self) -> None:
        """End what still waits; the batches go on at their providers."""
        await self._pool.cancel()

    @property
    def lacks_endpoints(self) -> bool:
        """Return whether batches are at endpoints that this run does not have: the same command cannot collect them."""
        return bool(self._unknown)

    def words_at_stop(self) -> str:
        """Return, for the verdict of a run that was stopped, what becomes of the batches."""
        tasks = self._pool.under_way
        lines = {task.entry.mark: task.states.count(LineState.OUTSTANDING) for task in tasks}
        return words_at_stop([task.entry for task in tasks], lines)

    async def _without_deferred(
        self, parsed: AsyncIterator[Batch], form: Callable[[], RowForm | None]
    ) -> AsyncIterator[Batch]:
        try:
            async for batch in parsed:
                yield await self._pack(batch, form())
        finally:
            self._readers -= 1
            self._wake.set()

    async def _pack(self, batch: Batch, form: RowForm | None) -> Batch:
        """Pack the lines that go by batch. Return the others."""
        to_pack: list[Request] = []
        direct: list[Request | Failure] = []
        for item in batch:
            if (
                isinstance(item, Request)
                and item.terms.is_deferred
                and self._packs.takes(item)
                and self._ways.goes_by_batch(item)
            ):
                to_pack.append(item)
            else:
                direct.append(item)
        if to_pack:
            async with self._packing:
                closed, rest = await self._in_folder(lambda: self._packs.add(to_pack, form))
            direct += rest
            self._start(closed)
            self._wake.set()
        return direct

    async def _close_packs(self, close: Callable[[], list[Closed]]) -> None:
        async with self._packing:
            closed = await self._in_folder(close)
        self._start(closed)

    async def _in_folder(self, pack: Callable[[], T]) -> T:
        """Pack lines in a thread. Raises OutputFailedError: what is not packed is read again by the next run."""
        try:
            return await asyncio.to_thread(pack)
        except OSError as error:
            raise OutputFailedError(words_of_failure(self._journal.folder, error)) from None

    def _start(self, closed: Sequence[Closed]) -> None:
        for entry, endpoint in closed:
            self._pool.start(entry, endpoint)
        self._count()

    def _take_up_earlier(self) -> None:
        for earlier in self._earlier:
            endpoint = self._endpoints.get(earlier.entry.endpoint)
            if endpoint is None:
                self._unknown.append(earlier)
            else:
                self._pool.start(earlier.entry, endpoint, earlier.states)

    async def _lines_of(self, batch: BatchTask) -> AsyncIterator[Batch]:
        """Yield the lines that a batch ended without."""
        reader = await asyncio.to_thread(batch.open_lines)
        try:
            indexes = batch.outstanding
            for start in range(0, len(indexes), CHUNK_LINES):
                await self._run.wait_for_queue()
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

    def _keep_settings(self) -> None:
        if (problem := self._run.keep_settings()) is not None:
            self._run.say(problem)

    def _on_change(self) -> None:
        self._count()
        self._wake.set()

    def _count(self) -> None:
        counters, entries = self._run.counters, self._pool.entries
        counters.batches_open = len(entries) + len(self._packs)
        counters.batch_lines = sum(entry.lines for entry in entries) + self._packs.lines
        counters.batch_lines_done = sum(entry.finished_lines for entry in entries)

    def _leave_pending(self) -> None:
        """Leave the batches that go on to another run."""
        left = self._pool.left
        reasons = []
        if going := [task.entry for task in left if not task.problem]:
            reasons.append(f"{words_of_batches(going)}: run the same command again to collect the answers")
        if self._unknown:
            names = ", ".join(sorted({earlier.entry.endpoint for earlier in self._unknown}))
            reasons.append(f"batches at {names}, which is none of the endpoints: name it again to collect them")
        reasons += [_problem_of(task, self._journal.folder) for task in left if task.problem]
        if reasons:
            states = [*(task.states for task in left), *(earlier.states for earlier in self._unknown)]
            lines = sum(len(each) - each.count(LineState.HANDLED) for each in states)
            self._run.engine.leave_pending(lines, "; and for ".join(reasons))


def _problem_of(task: BatchTask, folder: str) -> str:
    """Return, for a person, which batch waits for them, and what they can do."""
    entry, give_up = task.entry, f"remove {folder}, and its lines are sent again"
    if not entry.is_in_progress and entry.batch_id is None:
        return (
            f"a batch that was not started ({task.problem}): give the key the right to use files and batches and run "
            f"the same command again; or remove {folder} and run it without --defer batch, at the full price"
        )
    if entry.batch_id is None:
        return (
            f"a batch that may have been started ({task.problem}): run the same command again with a key that may list "
            f"the batches; or look for {entry.mark} at the provider, and if there is no such batch, {give_up}"
        )
    if task.breaks_off:
        return (
            f"batch {entry.id}, whose results end too early each time ({task.problem}): run the same command again to "
            f"read the rest; if that never comes, remove {folder}, and the lines without an answer are sent again"
        )
    return (
        f"batch {entry.id} ({task.problem}): run the same command again with the key, project and URL that it was "
        f"started with; if it is lost, {give_up}"
    )
