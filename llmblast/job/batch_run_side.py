"""Run side of batches: what a batch needs of the run whose lines it has."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final

from llmblast.job.back_pressure import Sink
from llmblast.job.batch_journal import BatchEntry
from llmblast.job.engine import Engine
from llmblast.job.ways import batch_wait_s
from llmblast.models import Reply, Request
from llmblast.reading import RequestParser
from llmblast.watching import Counters
from llmblast.writing import Writer
from llmblast.writing.ordered_writer import OrderedWriter

ROOM_INTERVAL_S: Final = 0.02
FULL_DISK_INTERVAL_S: Final = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class RunSide:
    """The run, as batches see it."""

    engine: Engine
    writer: Writer | OrderedWriter
    sink: Sink
    counters: Counters
    new_parser: Callable[[], RequestParser]
    """Return a parser of lines, for one thread."""
    lines_per_s: Callable[[], float | None]
    """Return the rate at which direct requests can go, None while it is not known."""
    keep_settings: Callable[[], str | None]
    """Store the settings that requests are made by, and return an error message. Blocks."""
    say: Callable[[str], None]
    detaches: bool
    """The run ends once everything is started."""
    may_repair: bool
    """Answers are checked, and those that do not fit lead to more requests."""

    def on_reply(self, request: Request, index: int, reply: Reply) -> bool:
        """Handle the reply of the endpoint with this index. Return False where the line is to be sent directly."""
        return self.engine.on_batch_reply(request, index, reply)

    async def wait_for_room(self) -> None:
        """Wait until there is room for more records."""
        while self.sink.is_full or (self.may_repair and self.engine.is_full):  # noqa: ASYNC110 -- rare
            await asyncio.sleep(ROOM_INTERVAL_S)

    async def wait_for_queue(self) -> None:
        """Wait until there is room in the queue for lines that come back."""
        while self.engine.is_full_of_deferred:  # noqa: ASYNC110 -- rare
            await asyncio.sleep(ROOM_INTERVAL_S)

    async def flush(self) -> bool:
        """Wait until all records so far are durable, for room on a full disk, too; return whether they are."""
        await self.writer.flush()
        while self.writer.is_paused and self.writer.failure is None:
            await asyncio.sleep(FULL_DISK_INTERVAL_S)
            await self.writer.flush()
        return self.writer.failure is None

    def latest_wait_s(self, entry: BatchEntry) -> float:
        """Return the wall time until which the lines of a batch can wait for it and make their deadlines still."""
        if entry.deadline_s == inf:
            return inf
        left = max(entry.lines - entry.finished_lines, 0)
        since_s = entry.started_s or entry.packed_s
        in_all_s = entry.deadline_s - since_s
        return since_s + batch_wait_s(in_all_s, left, self.lines_per_s())
