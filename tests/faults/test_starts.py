"""Many starts at the same moment on one output, as a clock that strikes everywhere makes them: one of them wins."""

import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmblast.mocking.replies import ScriptedReply, Step
from llmblast.mocking.server import MockServer
from tests.conftest import LLMBLAST, RunLlmblast, StartMock, records, write_prompts

LINES = 40
FINISHED = 15
"""Lines that an earlier run has answered."""
HANG_S = 60
LOCKED = 73
RACER = """
import sys, time
import llmblast.cli.run_job
from llmblast.cli import main

print("ready", flush=True)
sys.stdin.read()
started_s, used_s = time.monotonic(), time.process_time()
try:
    main()
finally:
    print(time.monotonic() - started_s, time.process_time() - used_s)
"""
"""A start that has everything loaded, and goes when its standard input is closed. It tells what it took since then."""

Process = subprocess.Popen[Any]


@dataclass(frozen=True)
class End:
    """How a start ended; seconds since its `main` began, and those of its processor with all that it had to load."""

    exit_code: int
    stderr: str
    wall_s: float
    cpu_s: float
    whole_cpu_s: float


class Gate:
    """Holds the replies back after the first ones until it is opened: who sent the requests cannot end before."""

    def __init__(self) -> None:
        self._opened = threading.Event()

    def script(self, index: int, body: bytes) -> ScriptedReply | None:
        return None if index < FINISHED else ScriptedReply(steps=self._steps())

    def open(self) -> None:
        self._opened.set()

    def _steps(self) -> Iterator[Step]:
        while not self._opened.is_set():
            yield 0.02
        answer = orjson.dumps({"choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}]})
        yield b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open()


@pytest.fixture
def server(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, gate: Gate) -> MockServer:
    """A provider, and the outputs of an earlier run that has finished a part of the lines, long ago."""
    server = start_mock(script=gate.script)
    write_prompts(tmp_path / "prompts.jsonl", LINES)
    llmblast("run", "prompts.jsonl", "-u", server.url, "--limit", str(FINISHED))
    assert server.received == FINISHED
    for path in tmp_path.iterdir():
        os.utime(path, ns=(10**18, 10**18))
    return server


@contextmanager
def ended_at_last(processes: list[Process]) -> Iterator[list[Process]]:
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def start_ready(folder: Path, environment: dict[str, str], count: int, *arguments: str) -> tuple[list[Process], int]:
    """So many processes that all go at the moment when the descriptor, which is returned too, is closed."""
    go, closed_to_go = os.pipe()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, *arguments],
            cwd=folder,
            env=environment,
            stdin=go,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    os.close(go)
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    return processes, closed_to_go


def first_ends(racers: list[Process], count: int) -> Iterator[End]:
    """The processes that end, in that order, until there were so many."""
    running = {os.pidfd_open(racer.pid): racer for racer in racers}
    try:
        while len(racers) - len(running) < count:
            ended = select.select(running, [], [], HANG_S)[0]
            assert ended, "more than one of them runs"
            for descriptor in ended:
                yield end_of(running.pop(descriptor))
                os.close(descriptor)
    finally:
        for descriptor in running:
            os.close(descriptor)


def end_of(racer: Process) -> End:
    _, status, usage = os.wait4(racer.pid, 0)
    racer.returncode = os.waitstatus_to_exitcode(status)
    stdout, stderr = racer.communicate()
    wall_s, cpu_s = map(float, stdout.split())
    return End(racer.returncode, stderr, wall_s, cpu_s, usage.ru_utime + usage.ru_stime)


def wait_until(is_so: Callable[[], bool], process: Process) -> None:
    """Returns when it is so; the process must not end before."""
    for _ in range(HANG_S * 100):
        if is_so():
            return
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
    raise AssertionError("it never came to that")


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """What is in each file, and when it was last written to."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def lines(folder: Path) -> list[int]:
    return sorted(record["line"] for name in ("save", "errors") for record in records(folder / f"{name}.jsonl"))


@pytest.mark.parametrize("count", [5, pytest.param(100, marks=pytest.mark.long)])
def test_of_many_starts_at_once_one_runs(
    tmp_path: Path,
    environment: dict[str, str],
    server: MockServer,
    gate: Gate,
    record_property: Callable[[str, object], None],
    count: int,
) -> None:
    """The others end with exit code 73 and have touched nothing; each line is sent once and has one record."""
    before = files(tmp_path)
    racers, closed_to_go = start_ready(tmp_path, environment, count, "run", "prompts.jsonl", "-u", server.url)
    with ended_at_last(racers):
        os.close(closed_to_go)
        ends = list(first_ends(racers, count - 1))
        (winner,) = (racer for racer in racers if racer.returncode is None)
        wait_until(lambda: server.received == LINES, winner)
        meanwhile = files(tmp_path)
        gate.open()
        winner.communicate(timeout=HANG_S)

    record_property("longest wall seconds of a loser since its start of main", max(end.wall_s for end in ends))
    record_property("most CPU seconds of a loser since its start of main", max(end.cpu_s for end in ends))
    record_property("most CPU seconds of a loser with its imports", max(end.whole_cpu_s for end in ends))
    assert [end.exit_code for end in ends] == [LOCKED] * (count - 1)
    assert [end.stderr.count("another run is writing to it") for end in ends] == [1] * (count - 1)
    assert meanwhile == before
    assert winner.returncode == 0
    assert server.received == LINES
    assert lines(tmp_path) == list(range(1, LINES + 1))


@pytest.mark.parametrize("more", [("--overwrite",), ("--system", "Another one.", "--changed-settings", "ok")])
def test_a_late_start_touches_nothing(
    tmp_path: Path,
    environment: dict[str, str],
    server: MockServer,
    gate: Gate,
    llmblast: RunLlmblast,
    more: tuple[str, ...],
) -> None:
    """Neither what the run under way has found, nor what it keeps beside it, whatever the start is told to do."""
    arguments = ("run", "prompts.jsonl", "-u", server.url)
    first = subprocess.Popen([*LLMBLAST, *arguments, "-q"], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL)
    with ended_at_last([first]):
        wait_until(lambda: server.received == LINES, first)
        before = files(tmp_path)
        late = llmblast(*arguments, *more)
        meanwhile = files(tmp_path)
        gate.open()
        first.wait(timeout=HANG_S)

    assert late.returncode == LOCKED, late.stderr
    assert meanwhile == before
    assert first.returncode == 0
    assert lines(tmp_path) == list(range(1, LINES + 1))
