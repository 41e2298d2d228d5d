"""A crew whose workers are tasks of this process: what forked processes do, where it can be looked at and measured."""

import asyncio
import itertools
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from llmblast.job import stations as stations_module
from llmblast.job import worker as worker_module
from llmblast.job.hands import Forked
from llmblast.job.stations import Stations, open_stations
from llmblast.records import Failure, Outcome, Request, Success
from llmblast.settings import Settings, load
from llmblast.writing import render

HANG_S = 20


@dataclass
class Bench:
    """A run over such a crew; a test feeds it, and looks at the outcomes that would be written."""

    settings: Settings
    stations: Stations
    workers: list[asyncio.Task[None]]
    connected: list[socket.socket]
    """The workers' ends."""
    pids: Sequence[int]
    outcomes: list[Outcome] = field(default_factory=list)

    async def feed(self) -> None:
        """Reads the input to its end, as a run does."""
        engine = self.stations.engine
        async with asyncio.timeout(HANG_S):
            async for shaped in self.stations.slices():
                for item in shaped:
                    if isinstance(item, Request):
                        engine.accept(item)
                    else:
                        engine.refuse(item)
                engine.pump()
                await engine.room()

    async def run(self) -> None:
        """To the end of the last request."""
        await self.feed()
        await self.over()

    async def over(self) -> None:
        async with asyncio.timeout(HANG_S):
            await self.stations.engine.wait_until_done()

    @property
    def records(self) -> list[dict[str, Any]]:
        """Of all outcomes, in the order of the input."""
        found = [orjson.loads(render(outcome, self.settings.echo, self.settings.body)) for outcome in self.outcomes]
        return sorted(found, key=lambda record: int(record["line"]))

    @property
    def answered(self) -> list[Success]:
        return [outcome for outcome in self.outcomes if isinstance(outcome, Success)]

    @property
    def failed(self) -> list[Failure]:
        return [outcome for outcome in self.outcomes if isinstance(outcome, Failure)]

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Goes on when it is."""
        async with asyncio.timeout(HANG_S):
            while not is_so():  # noqa: ASYNC110 -- of whatever happens on this loop, nobody tells
                await asyncio.sleep(0)

    def lose(self, worker: int) -> None:
        """As if the process was killed."""
        self.connected[worker].shutdown(socket.SHUT_RDWR)


class Sink:
    """Takes outcomes in place of a writer."""

    def __init__(self) -> None:
        self.is_full = False
        self.outcomes: list[Outcome] = []

    def put(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


@asynccontextmanager
async def a_crew(
    patch: pytest.MonkeyPatch, workers: int = 2, *, lost_at_start: bool = False, **settings: Any
) -> AsyncIterator[Bench]:
    """Opens all that a run with `--processes` has. In place of each worker's process there is one that only waits for
    its end. With no workers it is a run of one process. One that is `lost_at_start` has hung up before.
    """
    sink = Sink()
    patch.setattr(stations_module, "Writer", lambda *_, **__: sink)
    patch.setattr(os, "_exit", lambda code: None)
    patch.setattr(worker_module, "tune_collector", lambda concurrency: None)
    checked = load(settings)
    pairs = [socket.socketpair() for _ in range(workers)]
    forked = [Forked(_start_process(), ours) for ours, _ in pairs]
    connected = [theirs for _, theirs in pairs]
    async with AsyncExitStack() as stack:
        for end in itertools.chain(*pairs):
            stack.callback(end.close)
        if lost_at_start:
            connected.pop(0).close()
        stations = await stack.enter_async_context(open_stations(checked, os.environ, forked))
        tasks = [asyncio.create_task(worker_module._serve(theirs, checked)) for theirs in connected]
        yield Bench(checked, stations, tasks, connected, [one.pid for one in forked], sink.outcomes)
        await stations.engine.cut_short()
    async with asyncio.timeout(HANG_S):
        await asyncio.gather(*tasks, return_exceptions=True)


def _start_process() -> int:
    return os.posix_spawn("/bin/sleep", ["sleep", "1000"], os.environ)
