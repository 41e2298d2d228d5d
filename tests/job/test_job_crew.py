"""The crew, as the process sees it that leads it: the order of lines, what is lost with a worker, what is let go."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from llmblast.errors import ExitCode, InputDamagedError
from llmblast.job import stations as stations_module
from llmblast.mocking.server import MockServer
from llmblast.mocking.settings import MockSettings
from llmblast.records import Request
from tests.conftest import write_prompts
from tests.job.job_crew import HANG_S, a_crew

LINES = 1000
SLOW = MockSettings.from_query("latency=60")


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Source:
    """Gives a file in blocks, then waits to be told how it ends."""

    size_bytes: int | None = None
    has_grown = False

    def __init__(self, path: Path, block_bytes: int) -> None:
        self._text = path.read_bytes()
        self._block_bytes = block_bytes
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def blocks(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._text), self._block_bytes):
            yield self._text[start : start + self._block_bytes]
        await self.end

    async def close(self) -> None: ...


def give(patch: pytest.MonkeyPatch, source: Source) -> None:
    async def open_source(path: str) -> Source:
        return source

    patch.setattr(stations_module, "open_source", open_source)


@pytest.mark.parametrize("workers", [1, 2, 5])
async def test_lines_keep_their_order_and_damage_comes_behind_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """What could be read of an input that breaks off is sent, whoever shapes it."""
    source = Source(write_prompts(tmp_path / "prompts.jsonl", LINES), 777)
    give(monkeypatch, source)
    source.end.set_exception(InputDamagedError("it breaks off"))
    numbers: list[int] = []
    async with a_crew(monkeypatch, workers, endpoints=["mock:"]) as bench:

        async def read() -> None:
            async for shaped in bench.stations.slices():
                numbers.extend(item.number for item in shaped if isinstance(item, Request))

        with pytest.raises(InputDamagedError, match="it breaks off"):
            await asyncio.wait_for(read(), HANG_S)

    assert numbers == list(range(1, LINES + 1))
    assert not bench.stations.counters.input_ended


async def test_a_line_from_a_pipe_does_not_wait_for_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that was written is answered while the writer thinks."""
    source = Source(write_prompts(tmp_path / "prompts.jsonl", 3), 1 << 20)
    give(monkeypatch, source)
    async with MockServer() as server, a_crew(monkeypatch, endpoints=[server.url]) as bench:
        running = asyncio.create_task(bench.run())
        await bench.until(lambda: len(bench.answered) == 3)

        source.end.set_result(None)
        await running

        assert bench.stations.counters.input_ended


async def test_a_defect_in_reading_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes out where the lines are taken."""
    source = Source(write_prompts(tmp_path / "prompts.jsonl", 3), 1 << 20)
    give(monkeypatch, source)
    source.end.set_exception(RuntimeError("a bug"))
    async with MockServer() as server, a_crew(monkeypatch, endpoints=[server.url]) as bench:
        with pytest.raises(RuntimeError, match="a bug"):
            await bench.run()


async def test_what_a_lost_worker_had_sent_is_told_as_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends with a sentence; the other worker's requests may finish, and each record has all of its line."""
    write_prompts(tmp_path / "prompts.jsonl", 128)
    async with MockServer(SLOW) as server:
        settings: dict[str, Any] = {"endpoints": [server.url], "max_attempts": 1}
        async with a_crew(monkeypatch, input="prompts.jsonl", **settings) as bench:
            await bench.feed()
            await bench.until(lambda: server.received == 64)
            bench.lose(0)
            bench.lose(1)
            await bench.over()

            engine = bench.stations.engine
            assert (engine.exit_code, len(bench.failed)) == (ExitCode.PROCESS_LOST, 64)
            assert engine.reason in [f"worker process {pid} is gone: {WHY}" for pid in bench.pids]
            assert all(record["id"] == f"row-{record['line'] - 1}" for record in bench.records)
            assert all(record["input"] == f"Question {record['line'] - 1}?" for record in bench.records)
            assert {(record["code"], record["maybe_billed"]) for record in bench.records} == {("connection_broken", 1)}


WHY = "was it killed, or was there no memory left?"


async def test_a_line_that_may_be_tried_again_has_no_record_when_its_worker_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run sends it; nothing more is sent by this one."""
    write_prompts(tmp_path / "prompts.jsonl", 128)
    async with MockServer(SLOW) as server:
        async with a_crew(monkeypatch, input="prompts.jsonl", endpoints=[server.url]) as bench:
            await bench.feed()
            await bench.until(lambda: server.received == 64)
            bench.lose(0)
            bench.lose(1)
            await bench.over()

        assert bench.outcomes == []
        assert server.received == 64


async def test_a_worker_that_is_lost_before_there_is_work_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever that is: also before anybody has heard of it."""
    write_prompts(tmp_path / "prompts.jsonl", 3)
    async with a_crew(monkeypatch, input="prompts.jsonl", endpoints=["mock:"], lost_at_start=True) as bench:
        async with asyncio.timeout(HANG_S):
            await bench.stations.engine.stopping.wait()

        assert bench.stations.engine.exit_code is ExitCode.PROCESS_LOST


async def test_what_comes_back_after_it_was_abandoned_is_no_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those lines have no record and run again."""
    write_prompts(tmp_path / "prompts.jsonl", 20)
    async with (
        MockServer(MockSettings.from_query("latency=0.05")) as server,
        a_crew(monkeypatch, input="prompts.jsonl", endpoints=[{"url": server.url, "adaptive": False}]) as bench,
    ):
        await bench.feed()
        await bench.until(lambda: server.received == 20)
        await bench.stations.engine.cut_short()
        await bench.until(lambda: not server.in_flight)
        await bench.stations.channels[0].warm_up()

        assert bench.outcomes == []
        assert bench.stations.counters.abandoned == 20


async def test_all_processes_are_gone_when_a_run_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is left to be waited for."""
    write_prompts(tmp_path / "prompts.jsonl", 20)
    async with MockServer() as server:
        async with a_crew(monkeypatch, 3, input="prompts.jsonl", endpoints=[server.url]) as bench:
            await bench.run()

        assert len(bench.answered) == 20
    for pid in bench.pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
