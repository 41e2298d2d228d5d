"""Batch task: carry one batch from its files on disk to the records of its lines, step by step as the journal has it.

    packed -> upload -> start -> wait -> collect

Each step is noted before it is done, so a task that begins anew after a crash begins with the last step noted. What the
API refuses is not lost: the batch ends without results, and its lines are sent directly.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Final

from llmblast.batching.api import (
    BatchApi,
    BatchApiError,
    BatchEnd,
    BatchFile,
    BatchGone,
    BatchResult,
    BatchState,
    BatchStatus,
    BrokenOff,
    Found,
    LineError,
    MaybeStarted,
    NotAllowed,
    NotFound,
    NotHere,
    NotNow,
    Rejected,
    Unfinished,
    Unreachable,
    poll_interval_s,
)
from llmblast.batching.listing import look_for
from llmblast.job.batch_endpoints import BatchEndpoint
from llmblast.job.batch_journal import BatchEntry, BatchJournal, Step, new_mark
from llmblast.job.batch_lines import LinesReader, copy_lines, custom_id_of, index_in
from llmblast.job.batch_run_side import RunSide
from llmblast.job.batch_tries import FIRST_PAUSE_S, MAX_PAUSE_S, BatchTries, LeaveToNextRun, SendDirectly
from llmblast.job.batch_words import words_of_rest
from llmblast.models import Reply
from llmblast.writing.side_file import open_side_file

VIA_BATCH: Final = "batch"
CHUNK_LINES: Final = 64
"""Results that are handled at once: it blocks the loop for a few milliseconds."""
MIN_SPLIT: Final = 2
MAX_EXCLUDED: Final = 1000
"""With more invalid lines, the file is not started without them: its lines are sent directly."""


class LineState:
    """States of a line in a batch; each line takes one byte."""

    OUTSTANDING: Final = 0
    HANDLED: Final = 1
    """The line has a record, or will get one: its answer is being checked or repaired."""
    DIRECT: Final = 2
    """The batch brought a reply that does not count: it is to be sent directly."""


class _ResultsGone(BatchGone):
    """The provider knows the batch and has no results of it any more: they are too old."""


@dataclass(slots=True, eq=False)
class BatchTask:
    """Carries one batch. `states` has a `LineState` for each line, from an earlier run or all outstanding."""

    entry: BatchEntry
    endpoint: BatchEndpoint
    journal: BatchJournal
    run_side: RunSide
    states: bytearray
    uploads: asyncio.Semaphore
    """Bounds how many are uploaded at once."""
    on_change: Callable[[], None]
    """Called after each step."""
    on_split: Callable[[BatchEntry, BatchEndpoint, bytearray], None]
    """Called with a new batch that has a part of the lines."""
    was_alone: Callable[[BatchEntry], bool]
    """Return whether no other batch was in progress at the endpoint since this one was started last."""
    on_not_here: Callable[[BatchEndpoint, str], None]
    """Called where the endpoint has no batch API for the path."""
    was_under_way: bool = False
    """Some answer was handled without a record at once, or a line was sent directly: only the end of the run tells
    whether all have one.
    """
    is_left: bool = False
    """The batch goes on at the provider, and a later run collects it."""
    problem: str = ""
    """Why it is left, where a person has to solve that."""
    breaks_off: bool = False
    """It is left since the download of its results makes no progress."""
    _next_pause_s: float = FIRST_PAUSE_S
    _tries: BatchTries = field(init=False)

    def __post_init__(self) -> None:
        """Try the calls of the API as the run wants it."""
        self._tries = BatchTries(self.run_side.say, self.run_side.detaches, self.endpoint.is_mock)

    @property
    def _api(self) -> BatchApi:
        return self.endpoint.api

    @property
    def _file(self) -> BatchFile:
        entry = self.entry
        path = Path(self.journal.requests_path(entry))
        lines = entry.lines - len(entry.excluded)
        return BatchFile(path, entry.mark, lines, entry.path, entry.model, entry.upload_id)

    @property
    def outstanding(self) -> list[int]:
        """Return the indexes of lines that the batch has not brought an outcome for."""
        return [index for index, state in enumerate(self.states) if state != LineState.HANDLED]

    async def run(self) -> None:
        """Carry the batch on until it is collected, or is left to a later run."""
        actions: dict[Step, Callable[[], Awaitable[None]]] = {
            Step.PACKED: self._upload,
            Step.UPLOADING: self._upload,
            Step.UPLOADED: self._start,
            Step.STARTING: self._find_start,
            Step.STARTED: self._wait,
            Step.CANCELLING: self._wait,
            Step.ENDED: self._collect,
        }
        while not self.is_left and (action := actions.get(self.entry.step)) is not None:
            try:
                await action()
            except (SendDirectly, BatchGone) as reason:
                await self._note(Step.ENDED, end=str(reason))
            except LeaveToNextRun as reason:
                self.is_left, self.problem = True, str(reason)
                self.breaks_off = isinstance(reason.__cause__, BrokenOff)

    async def _upload(self) -> None:
        await self._note(Step.UPLOADING)
        async with self.uploads:
            await asyncio.to_thread(self._restore_requests)
            file = self._file
            try:
                upload_id = await self._tries.while_there_is_time(
                    lambda: self._api.upload(file), lambda: self._cutoff_s
                )
            except BatchApiError as error:
                raise self._refused(error) from None
        await self._note(Step.UPLOADED, upload_id=upload_id)

    async def _start(self) -> None:
        if time.time() >= self._cutoff_s:
            raise SendDirectly("there is no time for a batch before the deadline")
        await self._note(Step.STARTING)
        try:
            status = await self._api.start(self._file)
        except MaybeStarted as error:
            self._tries.tell(f"{error}; looking for the batch")
            return
        except (NotNow, Unreachable) as error:
            await self._note(Step.UPLOADED)
            if isinstance(error, NotNow) and await self._split(None):
                return
            self._next_pause_s = await self._tries.pause(error, self._next_pause_s, self._cutoff_s)
            return
        except Rejected as error:
            await self._start_without(error.line_errors, str(error))
            return
        except BatchApiError as error:
            await self._note(Step.UPLOADED)
            raise self._refused(error) from None
        await self._note(Step.STARTED, batch_id=status.id)

    async def _find_start(self) -> None:
        """Find out whether a start that may have happened did. Until that is known, nothing is sent again."""
        entry = self.entry
        known = [*entry.earlier_ids, *(e.batch_id for e in list(self.journal.entries.values()) if e.batch_id)]
        finding = await self._tries.until_known(
            lambda: look_for(self._api, self._file, entry.first_start_s, entry.last_start_s, known)
        )
        if isinstance(finding, Found):
            await self._note(Step.STARTED, batch_id=finding.status.id)
        elif isinstance(finding, NotFound):
            await self._note(Step.UPLOADED)
        elif self.run_side.detaches:
            raise LeaveToNextRun(f"endpoint {entry.endpoint}: another batch has to end first")
        else:
            self._tries.tell(f"endpoint {entry.endpoint}: it is not known yet whether a batch was started; waiting")
            await asyncio.sleep(MAX_PAUSE_S)

    async def _wait(self) -> None:
        """Wait for the end of the batch; cancel it where its lines could not make their deadlines otherwise."""
        entry = self.entry
        batch_id = entry.batch_id or ""
        is_asked = False
        while True:
            status = await self._tries.until_known(lambda: self._api.status(batch_id))
            self._read_counts(status)
            if status.state is BatchState.ENDED:
                return await self._on_end(status)
            if entry.step is Step.STARTED and time.time() >= self._cutoff_s:
                await self._note(Step.CANCELLING)
            if entry.step is Step.CANCELLING and not is_asked:
                is_asked = await self._ask_for_end(batch_id)
            if self.run_side.detaches and entry.step is Step.STARTED:
                self.is_left = True
                return None
            wait_s = poll_interval_s(time.time() - entry.started_s)
            if entry.step is Step.STARTED:
                wait_s = min(wait_s, max(self._cutoff_s - time.time(), 0.0))
            await asyncio.sleep(wait_s)

    async def _ask_for_end(self, batch_id: str) -> bool:
        """Ask the provider to end the batch; return whether that was accepted. A batch that cannot be cancelled goes on
        and is paid for, so its end is waited for.
        """
        try:
            await self._api.cancel(batch_id)
        except BatchApiError as error:
            self._tries.tell(f"{error}; it is tried again until the batch has ended")
            return False
        return True

    async def _on_end(self, status: BatchStatus) -> None:
        if status.end is BatchEnd.FAILED and status.is_not_now:
            if await self._split(status.id):
                return
            await self._note(Step.UPLOADED, earlier_id=status.id)
            error = NotNow(f"endpoint {self.entry.endpoint}: batch {status.id}: {status.message}")
            self._next_pause_s = await self._tries.pause(error, self._next_pause_s, self._cutoff_s)
        elif status.end is BatchEnd.FAILED and not status.result_files:
            await self._start_without(
                status.line_errors, f"endpoint {self.entry.endpoint}: batch {status.id} failed: {status.message}"
            )
        else:
            end = BatchEnd.COMPLETED if status.end is None else status.end
            await self._note(Step.ENDED, end=end.value)

    async def _split(self, earlier_id: str | None) -> bool:
        """Split a batch that was refused for now although no other one was in progress: it may be too large for the
        queue of the provider, and would be refused for ever. Return whether that was done.
        """
        entry = self.entry
        if entry.lines < MIN_SPLIT or entry.excluded or not self.was_alone(entry):
            return False
        kept = (entry.lines + 1) // 2
        rest = replace(entry, mark=new_mark(), lines=entry.lines - kept, size_bytes=0, earlier_ids=[], excluded=set())
        rest.step, rest.upload_id, rest.batch_id = Step.PACKED, None, None
        lines_path = self.journal.lines_path
        await asyncio.to_thread(copy_lines, lines_path(entry), kept, lines_path(rest))
        await asyncio.to_thread(self.journal.split, entry, kept, rest, earlier_id)
        states, self.states = self.states[kept:], self.states[:kept]
        await asyncio.to_thread(self._remove_requests)
        self._tries.tell(
            f"endpoint {entry.endpoint}: the queue is full for {entry.lines:,} lines or more; smaller batches go"
        )
        self.on_split(rest, self.endpoint, states)
        return True

    async def _start_without(self, errors: Sequence[LineError], reason: str) -> None:
        """Start the file again without its invalid lines, which are sent directly: each gets an error of its own."""
        entry = self.entry
        included = [index for index in range(entry.lines) if index not in entry.excluded]
        wrong = {included[error.line - 1] for error in errors if error.line and 0 < error.line <= len(included)}
        is_known = bool(wrong) and all(error.line for error in errors)
        if not is_known or len(wrong) == len(included) or len(wrong) + len(entry.excluded) > MAX_EXCLUDED:
            raise SendDirectly(reason)
        self._tries.tell(f"{reason}; the batch is started again without its invalid lines")
        await asyncio.to_thread(self._remove_requests)
        await self._note(Step.PACKED, excluded=sorted(wrong), earlier_id=entry.batch_id)

    async def _collect(self) -> None:
        entry, run = self.entry, self.run_side
        if entry.batch_id is not None:
            await self._read_results(entry.batch_id)
        if rest := len(self.outstanding):
            run.say(words_of_rest(entry, rest))
        if not await run.flush():
            self.is_left = True
            return
        await self._note(Step.COLLECTED)
        await asyncio.to_thread(self._remove_requests)
        if entry.upload_id is not None:
            await self._api.delete_upload(entry.upload_id)
        if self.outstanding:
            self.was_under_way = True
        elif not self.was_under_way:
            await asyncio.to_thread(self.finish)

    def finish(self) -> None:
        """Note that every line has a record, and remove the files. Blocks."""
        self.journal.record(self.entry, Step.DONE)
        self.journal.remove_files(self.entry)

    async def _read_results(self, batch_id: str) -> None:
        """Hand all results to the run. A stream that breaks off is read again from its start."""

        async def read() -> None:
            status = await self._api.status(batch_id)
            before = self.states.count(LineState.OUTSTANDING)
            try:
                await self._read_stream(status)
            except BatchGone as error:
                raise _ResultsGone(str(error)) from None
            except BrokenOff as error:
                if self.states.count(LineState.OUTSTANDING) < before:
                    raise Unreachable(str(error)) from None
                raise

        try:
            await self._tries.until_known(read)
        except (BatchGone, LeaveToNextRun) as reason:
            if isinstance(reason, LeaveToNextRun) and not isinstance(reason.__cause__, _ResultsGone):
                raise
            if str(reason) != self.entry.end:
                self.run_side.say(str(reason))

    async def _read_stream(self, status: BatchStatus) -> None:
        reader = await asyncio.to_thread(self.open_lines)
        try:
            async with aclosing(self._api.results(status)) as results:
                async for chunk in _in_chunks(results):
                    await self._handle(chunk, reader)
        finally:
            reader.close()

    async def _handle(self, results: Sequence[BatchResult], reader: LinesReader) -> None:
        replies: dict[int, Reply] = {}
        for result in results:
            index = index_in(self.entry.mark, result.custom_id)
            if index is None or index >= len(self.states) or self.states[index] != LineState.OUTSTANDING:
                continue
            if not isinstance(result.reply, Unfinished):
                replies[index] = result.reply
        requests = await asyncio.to_thread(reader.requests, list(replies), self.entry.id)
        for request, (index, reply) in zip(requests, replies.items(), strict=True):
            reply.via = VIA_BATCH
            reply.latency_s = self.entry.duration_s
            is_handled = self.run_side.on_reply(request, self.endpoint.index, reply)
            self.states[index] = LineState.HANDLED if is_handled else LineState.DIRECT
        await asyncio.sleep(0)
        await self.run_side.wait_for_room()

    def open_lines(self) -> LinesReader:
        """Open the lines of the batch. Blocks."""
        return LinesReader(self.journal.lines_path(self.entry), self.run_side.new_parser())

    def _restore_requests(self) -> None:
        """Write the file of requests anew where it is missing: after a part was invalid, or in a copied folder."""
        entry = self.entry
        path = Path(self.journal.requests_path(entry))
        if path.is_file() and not entry.excluded and path.stat().st_size == entry.size_bytes:
            return
        reader = self.open_lines()
        try:
            with open_side_file(str(path), "wb") as file:
                for index in range(entry.lines):
                    if index not in entry.excluded:
                        [request] = reader.requests([index], entry.id)
                        file.write(self.endpoint.render(request, custom_id_of(entry.mark, index)))
        finally:
            reader.close()

    def _remove_requests(self) -> None:
        Path(self.journal.requests_path(self.entry)).unlink(missing_ok=True)

    def _read_counts(self, status: BatchStatus) -> None:
        counts = status.counts
        self.entry.finished_lines = (counts.succeeded or 0) + (counts.failed or 0)
        self.on_change()

    @property
    def _cutoff_s(self) -> float:
        return self.run_side.latest_wait_s(self.entry)

    def _refused(self, error: BatchApiError) -> SendDirectly | LeaveToNextRun:
        """Return what becomes of a batch that is refused before its start. A key without the right to batches is for a
        person to mend: to send directly costs twice as much. Only a deadline does not wait for that.
        """
        if isinstance(error, NotAllowed) and self.entry.deadline_s == inf:
            return LeaveToNextRun(str(error))
        if isinstance(error, NotHere):
            self.on_not_here(self.endpoint, self.entry.path)
        return SendDirectly(str(error))

    async def _note(self, step: Step, **facts: object) -> None:
        await asyncio.to_thread(self.journal.record, self.entry, step, **facts)
        self.on_change()


async def _in_chunks(results: AsyncIterator[BatchResult]) -> AsyncIterator[list[BatchResult]]:
    chunk: list[BatchResult] = []
    try:
        async for result in results:
            chunk.append(result)
            if len(chunk) >= CHUNK_LINES:
                yield chunk
                chunk = []
    except BatchApiError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk
