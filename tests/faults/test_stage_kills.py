"""Stages that are killed in the middle: nothing is lost, and only what was under way is sent again."""

import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from random import Random
from typing import IO

import pytest

from llmblast.mocking.server import MockServer
from tests.conftest import LLMBLAST, StartMock, records, write_prompts
from tests.processes import Process, let_run, start_run, wait_for_requests

LINES = 600
IN_FLIGHT = 20
LATENCY_S = 0.02
MAX_AGAIN = IN_FLIGHT * 3
"""Requests that one kill may cost in one stage: in flight, and answered in the last 20 ms, before the disk had them."""
CACHED_LATER = 100
"""Answers at 400 a second that the cache has not written yet: those of a quarter of a second."""


@pytest.fixture
def servers(start_mock: StartMock) -> tuple[MockServer, MockServer]:
    return start_mock(f"latency={LATENCY_S}"), start_mock(f"latency={LATENCY_S}")


def write_stages(tmp_path: Path, servers: tuple[MockServer, MockServer]) -> None:
    write_prompts(tmp_path / "a.jsonl", LINES - 2)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"input":"same"}\n{"input":"same"}\n')
    (tmp_path / "judge.toml").write_text(
        f'model = "m"\nconcurrency = {IN_FLIGHT}\n'
        f'[[stage]]\nname = "draft"\nendpoints = ["{servers[0].url}"]\n'
        f'[[stage]]\nname = "judge"\nprompt = "Judge: {{response}}"\nrps = 400\nendpoints = ["{servers[1].url}"]\n'
    )


def assert_each_line_once(tmp_path: Path, *names: str) -> None:
    for name in names:
        assert Counter(record["line"] for record in records(tmp_path / name)) == Counter(range(1, LINES + 1))


@pytest.mark.parametrize("moments", [(1,), (15,), (300, 40), (120, 120, 120), (700,), (1000, 30)])
def test_killed_stages_go_on(
    tmp_path: Path, environment: dict[str, str], servers: tuple[MockServer, MockServer], moments: tuple[int, ...]
) -> None:
    """Kill -9 after so many requests, each time; then the same command once more."""
    write_stages(tmp_path, servers)
    for after in moments:
        process = start_run(tmp_path, environment, "-c", "judge.toml", "a.jsonl", "-q")
        wanted = sum(server.received for server in servers) + after
        while sum(server.received for server in servers) < wanted:
            assert process.poll() is None, "the run was over too early"
            let_run(process, 0.002)
        process.kill()
        process.communicate()

    done = start_run(tmp_path, environment, "-c", "judge.toml", "a.jsonl", "-q")
    _, stderr = done.communicate()

    assert done.returncode == 0, stderr
    assert_each_line_once(tmp_path, "draft.jsonl", "judge.jsonl")
    for server in servers:
        assert LINES <= server.received <= LINES + MAX_AGAIN * len(moments)
    drafts = {record["line"]: record["response"] for record in records(tmp_path / "draft.jsonl")}
    for record in records(tmp_path / "judge.jsonl"):
        assert record["input"] == f"Judge: {drafts[record['line']]}"


class Pipe:
    """`llmblast run -o - | llmblast run -`, in two processes that can be killed one by one."""

    def __init__(self, tmp_path: Path, environment: dict[str, str], servers: tuple[MockServer, MockServer]) -> None:
        first, second = (server.url for server in servers)
        common = ("-m", "m", "-j", str(IN_FLIGHT), "-q", "--rps", "400")
        draft = ("a.jsonl", "-u", first, "--cache", "answers.db", "-o", "-", *common)
        judge = ("-", "-u", second, "--prompt", "Judge: {response}", "-o", "b.jsonl", *common)
        self.draft = self._start(draft, tmp_path, environment, subprocess.DEVNULL, subprocess.PIPE)
        assert self.draft.stdout is not None
        self.judge = self._start(judge, tmp_path, environment, self.draft.stdout, subprocess.DEVNULL)
        self.draft.stdout.close()

    @staticmethod
    def _start(
        arguments: tuple[str, ...], tmp_path: Path, environment: dict[str, str], stdin: int | IO[str], stdout: int
    ) -> Process:
        return subprocess.Popen(
            [*LLMBLAST, "run", *arguments],
            cwd=tmp_path,
            env=environment,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def end(self) -> tuple[int, int]:
        """Wait for both; return their exit codes."""
        return self.draft.wait(timeout=60), self.judge.wait(timeout=60)


@pytest.mark.parametrize("seed", range(6))
def test_killed_runs_of_a_pipe_go_on(
    tmp_path: Path, environment: dict[str, str], servers: tuple[MockServer, MockServer], seed: int
) -> None:
    """Either of them or both, at a random moment, twice; then the same command once more."""
    random = Random(seed)
    write_stages(tmp_path, servers)
    for _ in range(2):
        pipe = Pipe(tmp_path, environment, servers)
        server, after = random.choice(servers), random.randrange(5, 200)
        wanted = server.received + after
        while server.received < wanted and pipe.judge.poll() is None:
            let_run(pipe.judge, 0.002)
        for process in random.choice(((pipe.draft,), (pipe.judge,), (pipe.draft, pipe.judge))):
            os.kill(process.pid, signal.SIGKILL)
        pipe.end()

    codes = Pipe(tmp_path, environment, servers).end()

    assert codes == (0, 0)
    assert_each_line_once(tmp_path, "b.jsonl")
    assert LINES - 1 <= servers[0].received <= LINES + 2 * (MAX_AGAIN + CACHED_LATER)
    assert LINES <= servers[1].received <= LINES + 2 * MAX_AGAIN


def test_a_second_signal_drops_what_is_in_flight_in_all_stages(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """The first one lets it finish."""
    servers = start_mock("latency=30"), start_mock()
    write_stages(tmp_path, servers)
    process = start_run(tmp_path, environment, "-c", "judge.toml", "a.jsonl", "-q")
    wait_for_requests(servers[0], IN_FLIGHT, process)

    process.send_signal(signal.SIGTERM)
    let_run(process, 0.2)
    was_running = process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=20)

    assert was_running
    assert process.returncode == 143, stderr
