"""Processes that end in the middle: what is on disk afterwards, and what the next run makes of it."""

import signal
import subprocess
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from llmblast.mocking.server import MockServer
from tests.conftest import RunLlmblast, StartMock, records, write_prompts, write_requests
from tests.faults.checker import check
from tests.processes import start_run, wait_for_requests

LINES = 5000
IN_FLIGHT = 200
LATENCY_S = 0.04
QUEUED = 2 * IN_FLIGHT
"""Answers that may wait for the disk: those of 80 ms at full speed, 20 ms of which records wait for each other."""


def assert_every_line_once(tmp_path: Path, count: int) -> None:
    lines = Counter(record["line"] for name in ("save", "errors") for record in records(tmp_path / f"{name}.jsonl"))
    assert lines == Counter(range(1, count + 1))


@pytest.mark.parametrize("after", [1, 150, 400, 900])
def test_a_killed_run_is_gone_on_with(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, llmblast: RunLlmblast, after: int
) -> None:
    """Kill -9 in the middle, then the same command again: every line once, and little was sent twice."""
    server = start_mock("latency=0.01&errors=0.03&rate_limited=0.02&retry_after=0.01")
    write_prompts(tmp_path / "prompts.jsonl", 1000)
    arguments = ("-u", server.url, "-j", "50")
    process = start_run(tmp_path, environment, "prompts.jsonl", *arguments)
    wait_for_requests(server, after, process)
    process.kill()
    process.communicate()

    done = llmblast("run", "prompts.jsonl", *arguments)

    assert done.returncode == 0, done.stderr
    assert_every_line_once(tmp_path, 1000)


def kill_after(process: "subprocess.Popen[str]", server: MockServer, count: int) -> None:
    """Ends a run by kill -9 when the server has received so many requests."""
    wait_for_requests(server, count, process)
    process.kill()
    process.communicate()


def complaints(tmp_path: Path, kills: int) -> list[str]:
    paths = (tmp_path / f"{name}.jsonl" for name in ("prompts", "save", "errors", "ledger"))
    return check(*paths, lost=kills * (IN_FLIGHT + QUEUED))


@pytest.mark.parametrize("seed", [*range(5), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(5, 200))])
def test_a_run_killed_at_random_loses_and_repeats_nothing(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, llmblast: RunLlmblast, seed: int
) -> None:
    """Every line has its own answer once; sent again is at most what was in flight or on its way to the disk."""
    server = start_mock(f"latency={LATENCY_S}&ledger={tmp_path / 'ledger.jsonl'}")
    write_requests(tmp_path / "prompts.jsonl", (f"Question {number}?" for number in range(LINES)))
    arguments = ("-u", server.url, "-j", str(IN_FLIGHT))
    process = start_run(tmp_path, environment, "prompts.jsonl", *arguments)
    kill_after(process, server, Random(seed).randint(1, LINES - IN_FLIGHT))

    done = llmblast("run", "prompts.jsonl", *arguments)

    assert done.returncode == 0, done.stderr
    assert complaints(tmp_path, kills=1) == []


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 5))])
def test_a_job_killed_twenty_times_loses_and_repeats_nothing(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, llmblast: RunLlmblast, seed: int
) -> None:
    """Each run goes on where the one before was cut off."""
    server = start_mock(f"latency={LATENCY_S}&ledger={tmp_path / 'ledger.jsonl'}")
    write_requests(tmp_path / "prompts.jsonl", (f"Question {number}?" for number in range(LINES)))
    arguments = ("-u", server.url, "-j", str(IN_FLIGHT))
    random = Random(seed)
    for _ in range(20):
        process = start_run(tmp_path, environment, "prompts.jsonl", *arguments)
        kill_after(process, server, server.received + random.randint(1, IN_FLIGHT))

    done = llmblast("run", "prompts.jsonl", *arguments)

    assert done.returncode == 0, done.stderr
    assert complaints(tmp_path, kills=20) == []


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_what_is_in_flight_finish(
    tmp_path: Path,
    environment: dict[str, str],
    start_mock: StartMock,
    llmblast: RunLlmblast,
    number: signal.Signals,
    exit_code: int,
) -> None:
    """Nothing more is sent, every request that was sent is recorded, and the same command goes on."""
    server = start_mock("latency=0.1")
    write_prompts(tmp_path / "prompts.jsonl", 300)
    process = start_run(tmp_path, environment, "prompts.jsonl", "-u", server.url, "-j", "20")
    wait_for_requests(server, 50, process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=20)
    sent = server.received

    done = llmblast("run", "prompts.jsonl", "-u", server.url)

    assert process.returncode == exit_code, stderr
    assert "Traceback" not in stderr
    assert "next: llmblast run prompts.jsonl" in stderr
    assert sent < 300
    assert done.returncode == 0
    assert server.received == 300
    assert_every_line_once(tmp_path, 300)


def test_the_second_signal_cuts_short(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """What was in flight is abandoned without a record; its lines run again."""
    server = start_mock("latency=30")
    write_prompts(tmp_path / "prompts.jsonl", 5)
    process = start_run(tmp_path, environment, "prompts.jsonl", "-u", server.url)
    wait_for_requests(server, 5, process)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "waiting up to 30 s for 5 requests" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)

    assert process.returncode == 130, stderr
    assert "5 dropped" in stderr
    assert records(tmp_path / "save.jsonl") == []


def test_a_stop_ends_a_run_that_waits_for_its_pipe(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """A blocked read of standard input does not keep the process from ending."""
    server = start_mock()
    process = start_run(tmp_path, environment, "-", "-u", server.url, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write('{"input": "a"}\n')
    process.stdin.flush()
    wait_for_requests(server, 1, process)

    process.send_signal(signal.SIGTERM)
    process.wait(timeout=20)

    assert process.returncode == 143
    assert [record["input"] for record in records(tmp_path / "save.jsonl")] == ["a"]
    process.communicate()
