"""Batch pool: the tasks of all batches of a run, of this one and of earlier ones."""

import asyncio
from collections.abc import Callable
from typing import Final

from llmblast.errors import ExitCode
from llmblast.job.batch_endpoints import BatchEndpoint
from llmblast.job.batch_journal import BatchEntry, BatchJournal, Step
from llmblast.job.batch_run_side import RunSide
from llmblast.job.batch_task import BatchTask
from llmblast.job.batch_words import words_of_failure

MAX_UPLOADS: Final = 2


class BatchPool:
    """`on_change` is called after each step of a batch, `on_not_here` where an endpoint has no batch API for a path."""

    def __init__(
        self,
        run: RunSide,
        journal: BatchJournal,
        *,
        on_change: Callable[[], None],
        on_not_here: Callable[[BatchEndpoint, str], None],
    ) -> None:
        self._run = run
        self._journal = journal
        self._on_change = on_change
        self._on_not_here = on_not_here
        self._uploads = asyncio.Semaphore(MAX_UPLOADS)
        self._tasks: dict[asyncio.Task[None], BatchTask] = {}
        self._ended: list[BatchTask] = []
        self.collected: list[BatchTask] = []
        """Batches some of whose lines have to be sent directly; the caller takes them out."""

    @property
    def under_way(self) -> list[BatchTask]:
        """Return the tasks that have not ended, or that were cancelled when the run stopped."""
        return list(self._tasks.values())

    @property
    def entries(self) -> list[BatchEntry]:
        """Return the batches that are under way."""
        return [task.entry for task in self._tasks.values()]

    @property
    def left(self) -> list[BatchTask]:
        """Return the batches that are left as they are, for a later run."""
        return [task for task in self._ended if task.is_left]

    def start(self, entry: BatchEntry, endpoint: BatchEndpoint, states: bytearray | None = None) -> None:
        """Carry a batch on. `states` tells what earlier runs have of its lines."""
        batch = BatchTask(
            entry,
            endpoint,
            self._journal,
            self._run,
            bytearray(entry.lines) if states is None else states,
            self._uploads,
            self._on_change,
            self.start,
            self._was_alone,
            self._on_not_here,
        )
        task = asyncio.create_task(batch.run())
        self._tasks[task] = batch
        task.add_done_callback(self._on_end)

    def finish(self) -> None:
        """Note that all lines have a record, at the end of a run where that is so. Blocks."""
        for task in self._ended:
            if task.entry.step is Step.COLLECTED:
                task.finish()

    async def watch(self, finished: asyncio.Event) -> None:
        """Keep the run going until all lines have left; end the tasks where it stops."""
        events = (self._run.engine.end.stopping, finished)
        waits = [asyncio.create_task(event.wait()) for event in events]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await self.cancel()

    async def cancel(self) -> None:
        """End the tasks; the batches go on at their providers."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _was_alone(self, entry: BatchEntry) -> bool:
        """Return whether no other batch was in progress at the endpoint since this one was started last."""
        others = [e for e in list(self._journal.entries.values()) if e is not entry and e.endpoint == entry.endpoint]
        return not any(e.is_in_progress or e.ended_s >= entry.last_start_s for e in others)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return  # it stays among those under way, for the verdict
        if isinstance(error := task.exception(), OSError):
            self._run.engine.stop(ExitCode.OUTPUT_FAILED, words_of_failure(self._journal.folder, error))
            return  # as above
        batch = self._tasks.pop(task)
        if error is not None:
            self._run.engine.fail_internal(error)
        else:
            self._ended.append(batch)
            if not batch.is_left and batch.outstanding:
                self.collected.append(batch)
        self._on_change()
