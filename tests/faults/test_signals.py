"""Signals to real processes at moments that nobody chose: exit code, whole files, what the next run makes of it."""

import os
import pty
import select
import signal
import subprocess
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from llmblast.cli.signals import ShutdownSignals, ShutdownStage
from llmblast.mocking.server import MockServer
from tests.conftest import LLMBLAST, RunLlmblast, StartMock, records, write_prompts
from tests.processes import Process, let_run, start_run, wait_for_requests

LINES = 400
HANG_S = 30
"""A process that takes longer than this to end does not end."""
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def listens(process: Process) -> bool:
    """Whether it has asked for SIGTERM to be left to it, as a run does once its outputs are open."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def wait_until_listening(process: Process) -> None:
    while not listens(process):
        assert process.poll() is None, "the run was over too early"
        let_run(process, 0.005)


def keys(tmp_path: Path) -> list[str]:
    """Of all records, each of them whole."""
    return [record["key"] for name in ("save", "errors") for record in records(tmp_path / f"{name}.jsonl")]


def assert_a_resumed_run_completes(tmp_path: Path, llmblast: RunLlmblast, server: MockServer) -> None:
    done = llmblast("run", "prompts.jsonl", "-u", server.url)

    lines = Counter(record["line"] for record in records(tmp_path / "save.jsonl"))
    assert done.returncode == 0, done.stderr
    assert lines == Counter(range(1, LINES + 1))


def test_three_signals_are_three_stages() -> None:
    """Whatever their numbers; from the third on, each one ends the process."""
    signals = ShutdownSignals(Clock())

    said = [signals.on_signal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGTERM)]

    assert said == [ShutdownStage.DRAIN, ShutdownStage.ABORT_IN_FLIGHT, ShutdownStage.EXIT, ShutdownStage.EXIT]


@pytest.mark.parametrize("first", EXIT_CODES)
def test_a_hang_up_right_after_another_signal_says_nothing_new(first: signal.Signals) -> None:
    """It counts as the same signal; a later one asks for the next stage."""
    clock = Clock()
    signals = ShutdownSignals(clock)

    at_once = [signals.on_signal(first), signals.on_signal(signal.SIGHUP), signals.on_signal(signal.SIGHUP)]
    clock.now_s += 2
    later = signals.on_signal(signal.SIGHUP)

    assert (at_once, later) == ([ShutdownStage.DRAIN, None, None], ShutdownStage.ABORT_IN_FLIGHT)


def test_a_hang_up_drains(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """As SIGTERM does: what was sent is recorded, exit code 129, and the same command goes on."""
    server = start_mock("latency=0.1")
    write_prompts(tmp_path / "prompts.jsonl", LINES)
    process = start_run(tmp_path, environment, "prompts.jsonl", "-u", server.url, "-j", "20")
    wait_for_requests(server, 50, process)
    process.send_signal(signal.SIGHUP)
    _, stderr = process.communicate(timeout=HANG_S)

    assert process.returncode == 129, stderr
    assert "next: llmblast run prompts.jsonl" in stderr
    assert len(records(tmp_path / "save.jsonl")) == server.received < LINES
    assert_a_resumed_run_completes(tmp_path, llmblast, server)


def test_nohup_is_respected(tmp_path: Path, environment: dict[str, str], start_mock: StartMock) -> None:
    """A run that was started to outlive its terminal does not notice the hang-up."""
    server = start_mock("latency=0.05")
    write_prompts(tmp_path / "prompts.jsonl", 100)
    process = subprocess.Popen(
        ["nohup", *LLMBLAST, "run", "prompts.jsonl", "-u", server.url, "-j", "5"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while server.received < 10:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)

    process.send_signal(signal.SIGHUP)

    assert process.wait(timeout=HANG_S) == 0
    assert len(records(tmp_path / "save.jsonl")) == 100


def test_a_closed_terminal_loses_nothing_that_was_sent(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """The hang-up comes from the shell and from the kernel, and standard error is gone: in flight still finishes."""
    server = start_mock("latency=1&jitter=0")
    write_prompts(tmp_path / "prompts.jsonl", 100)
    command = " ".join([*LLMBLAST, "run", "prompts.jsonl", "-u", server.url, "-j", "10"])
    shell_pid, terminal = pty.fork()
    if shell_pid == 0:
        os.chdir(tmp_path)
        os.execvpe("bash", ["bash", "--norc", "-i"], environment)
    os.write(terminal, f"sh -c 'echo $$ > pid; exec {command}'\n".encode())
    while server.received < 10:
        if select.select([terminal], [], [], 0.01)[0]:
            os.read(terminal, 4096)
    run = os.pidfd_open(int((tmp_path / "pid").read_text()))

    os.close(terminal)

    os.waitpid(shell_pid, 0)
    assert select.select([run], [], [], HANG_S)[0], "the run goes on"
    os.close(run)
    assert len(records(tmp_path / "save.jsonl")) == server.received == 10


@pytest.mark.parametrize("quiet", [[], ["-q"]])
def test_a_request_for_status_is_answered_in_one_line(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, quiet: list[str]
) -> None:
    """On standard error, and the run goes on."""
    server = start_mock("latency=0.2&jitter=0")
    write_prompts(tmp_path / "prompts.jsonl", 30)
    process = start_run(tmp_path, environment, "prompts.jsonl", "-u", server.url, "-j", "10", *quiet)
    wait_for_requests(server, 11, process)
    process.send_signal(signal.SIGUSR1)
    assert process.stderr is not None
    line = process.stderr.readline()
    _, rest = process.communicate(timeout=HANG_S)

    assert process.returncode == 0
    assert "in flight" in line
    assert "retries 0  429s 0  errors 0" in line
    assert "in flight" not in rest


def test_a_request_for_status_while_a_run_starts_waits_for_it(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """It would end a process that does not listen yet."""
    server = start_mock("latency=0.3")
    write_prompts(tmp_path / "prompts.jsonl", 5)
    process = start_run(tmp_path, environment, "prompts.jsonl", "-u", server.url)
    while not int(Path(f"/proc/{process.pid}/status").read_text().split("SigBlk:")[1].split()[0], 16):
        let_run(process, 0.001)
    was_listening = listens(process)
    process.send_signal(signal.SIGUSR1)
    _, stderr = process.communicate(timeout=HANG_S)

    assert not was_listening
    assert process.returncode == 0
    assert "in flight" in stderr.splitlines()[0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("number", EXIT_CODES)
def test_a_signal_at_any_moment_leaves_whole_files(
    tmp_path: Path,
    environment: dict[str, str],
    start_mock: StartMock,
    llmblast: RunLlmblast,
    number: signal.Signals,
    seed: int,
) -> None:
    """While it starts the process just ends; once it listens, every answer that was sent for is recorded."""
    server = start_mock("latency=0.05&errors=0.05&rate_limited=0.02&retry_after=0.05")
    write_prompts(tmp_path / "prompts.jsonl", LINES)
    process = start_run(tmp_path, environment, "prompts.jsonl", "-u", server.url, "-j", "20")
    let_run(process, Random(f"{number}{seed}").uniform(0, 2))
    was_listening = process.poll() is None and listens(process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=HANG_S)

    assert process.returncode in (EXIT_CODES[number], -number, 0)
    assert process.returncode >= 0 or not was_listening or "next:" in stderr
    assert "Traceback" not in stderr
    if process.returncode >= 0:
        answered = sum(arrival.status == 200 for arrival in server.ledger)
        assert len(set(keys(tmp_path))) == len(keys(tmp_path)) == answered
    assert_a_resumed_run_completes(tmp_path, llmblast, server)


@pytest.mark.parametrize("seed", range(3))
def test_signals_while_it_drains(
    tmp_path: Path,
    environment: dict[str, str],
    start_mock: StartMock,
    llmblast: RunLlmblast,
    seed: int,
) -> None:
    """Up to three at any moments: no record is torn beyond what the next run mends, none stands there twice."""
    random = Random(seed)
    server = start_mock("latency=0.2")
    write_prompts(tmp_path / "prompts.jsonl", LINES)
    process = start_run(tmp_path, environment, "prompts.jsonl", "-u", server.url, "-j", "50")
    wait_for_requests(server, 60, process)
    for _ in range(3):
        process.send_signal(random.choice([signal.SIGINT, signal.SIGTERM]))
        let_run(process, random.uniform(0, 0.1))
    _, stderr = process.communicate(timeout=HANG_S)

    assert process.returncode in (130, 143, -signal.SIGINT, -signal.SIGTERM), stderr
    assert "Traceback" not in stderr
    assert_a_resumed_run_completes(tmp_path, llmblast, server)


@pytest.mark.parametrize("number", EXIT_CODES)
def test_a_signal_ends_a_run_that_waits_for_its_pipe(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, number: signal.Signals
) -> None:
    """What had come through the pipe is answered and recorded."""
    server = start_mock()
    process = start_run(tmp_path, environment, "-", "-u", server.url, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write('{"input": "a"}\n{"input": "b"}\n{"input": "c')
    process.stdin.flush()
    wait_for_requests(server, 2, process)
    process.send_signal(number)
    process.wait(timeout=HANG_S)
    process.communicate()

    assert process.returncode == EXIT_CODES[number]
    assert [record["input"] for record in records(tmp_path / "save.jsonl")] == ["a", "b"]
    assert records(tmp_path / "errors.jsonl") == []


@pytest.mark.parametrize("number", EXIT_CODES)
def test_a_signal_ends_a_run_that_cools_down(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, number: signal.Signals
) -> None:
    """Nothing is in flight, so there is nothing to wait for: not for the moment that the provider named either."""
    server = start_mock("latency=0&rate_limited=1&retry_after=600")
    write_prompts(tmp_path / "prompts.jsonl", LINES)
    process = start_run(tmp_path, environment, "prompts.jsonl", "-u", server.url)
    wait_for_requests(server, 1, process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=HANG_S)

    assert process.returncode == EXIT_CODES[number], stderr
    assert keys(tmp_path) == []


def test_a_reader_that_goes_away_is_no_news(tmp_path: Path, environment: dict[str, str]) -> None:
    """`llmblast check FILE | head -n 1` says what it was asked for and nothing else."""
    (tmp_path / "prompts.jsonl").write_text("no JSON\n" * 20_000)
    command = " ".join([*LLMBLAST, "check prompts.jsonl | head -n 1; exit ${PIPESTATUS[0]}"])

    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 141
    assert done.stdout.startswith("prompts.jsonl:1:1: not JSON")
    assert done.stderr == ""
