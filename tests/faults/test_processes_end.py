"""Several processes at one run, and the end of one or all of them: nobody lives on, nothing is lost or sent twice."""

import os
import select
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from llmblast.mocking.server import MockServer
from tests.conftest import LLMBLAST, RunLlmblast, StartMock, records, unmeasured, write_prompts, write_requests
from tests.faults.checker import check, key_of
from tests.faults.test_kill import assert_every_line_once
from tests.processes import Process, let_run, start_run, wait_for_requests

HANG_S = 30
LINES = 2000
IN_FLIGHT = 50
WORKERS = 3
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def workers_of(process: Process) -> list[int]:
    """The processes that it has forked."""
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def wait_for_end(processes: Sequence[int]) -> None:
    """Goes on when none of these process descriptors belongs to a living process."""
    for descriptor in processes:
        has_ended = bool(select.select([descriptor], [], [], HANG_S)[0])
        if not has_ended:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        os.close(descriptor)
        assert has_ended, "a process lives on"


def start_group(tmp_path: Path, environment: dict[str, str], server: MockServer, *arguments: str) -> Process:
    """A run that leads a process group, as a terminal's foreground job does."""
    return subprocess.Popen(
        [*LLMBLAST, "run", "prompts.jsonl", "-u", server.url, "--processes", str(WORKERS), *arguments],
        cwd=tmp_path,
        env=unmeasured(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def complaints(tmp_path: Path, lost: int) -> list[str]:
    return check(*(tmp_path / f"{name}.jsonl" for name in ("prompts", "save", "errors", "ledger")), lost=lost)


@pytest.mark.parametrize("after", [1, 60, 700])
def test_no_worker_outlives_a_killed_run(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, llmblast: RunLlmblast, after: int
) -> None:
    """Kill -9 of the process that leads; the same command goes on, and every line has one record."""
    server = start_mock("latency=0.02&errors=0.03&rate_limited=0.02&retry_after=0.01")
    write_prompts(tmp_path / "prompts.jsonl", LINES)
    arguments = ("-u", server.url, "-j", str(IN_FLIGHT), "--processes", str(WORKERS))
    process = start_run(tmp_path, environment, "prompts.jsonl", *arguments)
    wait_for_requests(server, after, process)
    workers = [os.pidfd_open(pid) for pid in workers_of(process)]
    process.kill()
    process.wait()

    wait_for_end(workers)
    process.communicate()
    done = llmblast("run", "prompts.jsonl", *arguments)

    assert len(workers) == WORKERS
    assert done.returncode == 0, done.stderr
    assert_every_line_once(tmp_path, LINES)


def test_workers_end_where_the_end_of_children_is_ignored(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """Which is inherited from a supervisor, say: the run waits for its workers all the same."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 20)
    command = [*LLMBLAST, "run", "prompts.jsonl", "-u", server.url, "--processes", "2", "-q"]

    done = subprocess.run(
        ["bash", "-c", 'trap "" CHLD; exec "$@"', "bash", *command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("attempts", ["1", "5"])
@pytest.mark.parametrize("after", [1, 60, 700])
def test_a_run_that_loses_a_worker_ends_and_is_gone_on_with(
    tmp_path: Path,
    environment: dict[str, str],
    start_mock: StartMock,
    llmblast: RunLlmblast,
    after: int,
    attempts: str,
) -> None:
    """Kill -9 of one of them: a sentence and exit code 71; what the others had in flight is recorded, and nothing that
    was recorded is sent again.
    """
    server = start_mock(f"latency=0.04&ledger={tmp_path / 'ledger.jsonl'}")
    write_requests(tmp_path / "prompts.jsonl", (f"Question {number}?" for number in range(LINES)))
    arguments = ("-u", server.url, "-j", str(IN_FLIGHT), "--processes", str(WORKERS), "-a", attempts)
    process = start_run(tmp_path, environment, "prompts.jsonl", *arguments)
    wait_for_requests(server, after, process)
    pids = workers_of(process)
    workers = [os.pidfd_open(pid) for pid in pids]
    os.kill(pids[1], signal.SIGKILL)
    _, stderr = process.communicate(timeout=HANG_S)
    wait_for_end(workers)
    was_sent = server.received
    saved = {record["key"] for record in records(tmp_path / "save.jsonl")}

    done = llmblast("run", "prompts.jsonl", *arguments)

    assert process.returncode == 71, stderr
    assert stderr.startswith(f"worker process {pids[1]} is gone: was it killed, or was there no memory left?\n")
    assert "Traceback" not in stderr
    assert "next: llmblast run prompts.jsonl" in stderr
    assert was_sent < LINES
    assert done.returncode == 0, done.stderr
    assert saved.isdisjoint(key_of(arrival.body) for arrival in server.ledger[was_sent:])
    assert complaints(tmp_path, lost=IN_FLIGHT) == []


def test_a_worker_that_is_lost_while_a_run_starts_ends_it(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """Before the run has said a word to it; here there would be nothing to do for long."""
    server = start_mock()
    process = start_run(tmp_path, environment, "-", "-u", server.url, "--processes", "2", stdin=subprocess.PIPE)
    while len(pids := workers_of(process)) < 2:
        assert process.poll() is None
        let_run(process, 0.001)
    os.kill(pids[0], signal.SIGKILL)

    process.wait(timeout=HANG_S)
    _, stderr = process.communicate()

    assert process.returncode == 71, stderr
    assert f"worker process {pids[0]} is gone" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("number", EXIT_CODES)
def test_a_signal_to_all_processes_lets_what_is_in_flight_finish(
    tmp_path: Path,
    environment: dict[str, str],
    start_mock: StartMock,
    llmblast: RunLlmblast,
    number: signal.Signals,
) -> None:
    """As Ctrl-C in a terminal is: every request that was sent is recorded, and the same command goes on."""
    server = start_mock("latency=0.1")
    write_prompts(tmp_path / "prompts.jsonl", LINES)
    process = start_group(tmp_path, environment, server, "-j", "20")
    wait_for_requests(server, 50, process)
    workers = [os.pidfd_open(pid) for pid in workers_of(process)]
    os.killpg(process.pid, number)
    _, stderr = process.communicate(timeout=HANG_S)
    sent = server.received

    done = llmblast("run", "prompts.jsonl", "-u", server.url)

    wait_for_end(workers)
    assert process.returncode == EXIT_CODES[number], stderr
    assert "Traceback" not in stderr
    assert "next: llmblast run prompts.jsonl" in stderr
    assert sent < LINES
    assert done.returncode == 0
    assert server.received == LINES
    assert_every_line_once(tmp_path, LINES)


@pytest.mark.parametrize("stopped", [False, True], ids=["all-at-work", "one-stopped"])
@pytest.mark.parametrize("number", EXIT_CODES)
def test_the_second_signal_cuts_short(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, number: signal.Signals, stopped: bool
) -> None:
    """What is in flight is abandoned without a record, also where a worker does not move any more."""
    server = start_mock("latency=60")
    write_prompts(tmp_path / "prompts.jsonl", 300)
    process = start_group(tmp_path, environment, server, "-j", "20")
    wait_for_requests(server, 20, process)
    pids = workers_of(process)
    workers = [os.pidfd_open(pid) for pid in pids]
    if stopped:
        os.kill(pids[0], signal.SIGSTOP)
    os.killpg(process.pid, number)
    assert process.stderr is not None
    assert "waiting up to 30 s for 20 requests" in process.stderr.readline()
    os.killpg(process.pid, number)
    _, stderr = process.communicate(timeout=HANG_S)

    wait_for_end(workers)
    assert process.returncode == EXIT_CODES[number], stderr
    assert "20 abandoned" in stderr
    assert "Traceback" not in stderr
    assert records(tmp_path / "save.jsonl") == records(tmp_path / "errors.jsonl") == []
