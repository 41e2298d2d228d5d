"""Runs of several processes at full speed, whose workers send on their own account: nothing may show from outside."""

import os
import select
import signal
from collections import Counter
from pathlib import Path

import orjson
import pytest

from llmblast.mocking.server import MockServer, ScriptedReply
from tests.conftest import RunLlmblast, StartMock, records, write_prompts
from tests.processes import Process, start_run, wait_for_requests

LINES = 3000
IN_FLIGHT = 48
THREE = ("prompts.jsonl", "--processes", "3", "-j", str(IN_FLIGHT))
NOBODY = "http://127.0.0.1:9/v1"
HANG_MS = 5_000


def assert_every_line_once(tmp_path: Path, count: int = LINES) -> None:
    lines = Counter(record["line"] for name in ("save", "errors") for record in records(tmp_path / f"{name}.jsonl"))
    assert lines == Counter(range(1, count + 1))


def sends(server: MockServer) -> Counter[bytes]:
    return Counter(arrival.body for arrival in server.ledger)


def workers_of(process: Process) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def has_ended(pidfd: int) -> bool:
    """Waits for the process; a descriptor of one that has ended can be read."""
    watched = select.poll()
    watched.register(pidfd, select.POLLIN)
    return bool(watched.poll(HANG_MS))


@pytest.mark.parametrize(
    ("run_slots", "endpoint_slots", "most"), [(30, None, 30), (96, None, 96), (96, 40, 40), (40, 96, 40)]
)
def test_slots_are_used_and_never_exceeded(
    tmp_path: Path,
    start_mock: StartMock,
    llmblast: RunLlmblast,
    run_slots: int,
    endpoint_slots: int | None,
    most: int,
) -> None:
    """As many are in flight as the tighter one of both limits allows, by the server's own account, and never more."""
    server = start_mock("latency=0.05")
    write_prompts(tmp_path / "prompts.jsonl", LINES)
    url = server.url if endpoint_slots is None else f"{server.url},concurrency={endpoint_slots}"

    done = llmblast("run", "prompts.jsonl", "--processes", "3", "-u", url, "-j", str(run_slots))

    assert done.returncode == 0, done.stderr
    assert server.most_in_flight == most
    assert server.received == LINES
    assert_every_line_once(tmp_path)


@pytest.mark.parametrize(
    "faults",
    [
        "errors=0.03&broken=0.02&malformed=0.02",
        "rate_limited=0.002&retry_after=0.05",
        "rate_limited=0.002&tell_retry_after=0",
    ],
)
def test_no_line_is_lost_or_repeated_among_faults(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, faults: str
) -> None:
    """Each line has one record, each request that the server got is counted, and the slots hold for retries, too.
    No rate is learned, so that slots are lent again after each pause.
    """
    server = start_mock(f"latency=0.01&{faults}")
    write_prompts(tmp_path / "prompts.jsonl", LINES)

    done = llmblast("run", *THREE, "-u", f"{server.url},adaptive=false", "--json")

    summary = orjson.loads(done.stdout)
    assert done.returncode in (0, 3), done.stderr
    assert_every_line_once(tmp_path)
    assert summary["requests"]["sent"] == server.received
    assert summary["lines"]["answered"] == len(records(tmp_path / "save.jsonl"))
    assert server.most_in_flight <= IN_FLIGHT


def test_nobody_at_the_endpoint_ends_the_run(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """Where slots are lent from the first moment on, too: the run ends at once, and every line stays pending."""
    write_prompts(tmp_path / "prompts.jsonl", 500)

    done = llmblast("run", *THREE, "-u", f"{NOBODY},adaptive=false")

    assert done.returncode == 77, done.stderr
    assert "no endpoint can be reached" in done.stderr
    assert records(tmp_path / "errors.jsonl") == []


def test_an_endpoint_that_is_gone_for_seconds_is_waited_for(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """In the middle connections are refused: what was in flight goes again, then there are probes, and every line gets
    its answer.
    """
    gone = ScriptedReply(break_connection=True, down_s=1.5)
    server = start_mock("latency=0.02", script=lambda index, body: gone if index == LINES // 3 else None)
    write_prompts(tmp_path / "prompts.jsonl", LINES)

    done = llmblast("run", *THREE, "-u", server.url, "--json")

    assert done.returncode == 0, done.stderr
    assert_every_line_once(tmp_path)
    assert orjson.loads(done.stdout)["requests"]["sent"] <= LINES + 3 * IN_FLIGHT


def test_a_key_that_is_refused_in_the_middle_ends_the_run(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Nothing more is sent, no line is blamed, what was answered is recorded, and the next run does the rest."""
    refusing = start_mock(
        "latency=0.02", script=lambda index, body: ScriptedReply(401, b"{}") if index >= LINES // 2 else None
    )
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", LINES)

    refused = llmblast("run", *THREE, "-u", refusing.url)
    answered = len(records(tmp_path / "save.jsonl"))
    done = llmblast("run", *THREE, "-u", server.url)

    assert refused.returncode == 77, refused.stderr
    assert answered == LINES // 2
    assert refusing.received <= LINES // 2 + 2 * IN_FLIGHT
    assert done.returncode == 0, done.stderr
    assert server.received == LINES - answered
    assert_every_line_once(tmp_path)


def test_an_interrupted_run_drains_and_is_gone_on_with(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Whatever was sent is recorded, so the second run sends each of the other lines once."""
    server = start_mock("latency=0.05")
    write_prompts(tmp_path / "prompts.jsonl", LINES)
    process = start_run(tmp_path, environment, *THREE, "-u", server.url)
    wait_for_requests(server, LINES // 3, process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    recorded, sent = len(records(tmp_path / "save.jsonl")), server.received

    done = llmblast("run", *THREE, "-u", server.url)

    assert process.returncode == 130, stderr
    assert recorded == sent < LINES
    assert done.returncode == 0, done.stderr
    assert_every_line_once(tmp_path)
    assert set(sends(server).values()) == {1}


def test_a_run_that_is_abandoned_counts_what_it_leaves(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """With no grace at all, each request that has no record is told of."""
    server = start_mock("latency=1")
    write_prompts(tmp_path / "prompts.jsonl", 300)
    arguments = ("prompts.jsonl", "--processes", "3", "-j", "30", "-u", f"{server.url},adaptive=false")

    cut_short = llmblast("run", *arguments, "--max-time", "1.5", "--grace", "0", "--json")
    summary = orjson.loads(cut_short.stdout)

    assert cut_short.returncode == 5, cut_short.stderr
    assert summary["requests"]["sent"] == server.received
    assert summary["requests"]["abandoned"] == server.received - len(records(tmp_path / "save.jsonl"))


def test_workers_end_with_the_run_that_was_killed(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Kill -9 of the first process in the middle: the others go, too, and the second run finishes the work."""
    server = start_mock("latency=0.05")
    write_prompts(tmp_path / "prompts.jsonl", LINES)
    process = start_run(tmp_path, environment, *THREE, "-u", server.url)
    wait_for_requests(server, LINES // 3, process)
    watched = [os.pidfd_open(pid) for pid in workers_of(process)]
    process.kill()
    ended = [has_ended(pidfd) for pidfd in watched]
    for pidfd in watched:
        os.close(pidfd)
    assert ended == [True] * 3  # before the end of their standard error is waited for
    process.communicate()

    done = llmblast("run", *THREE, "-u", server.url)

    assert done.returncode == 0, done.stderr
    assert_every_line_once(tmp_path)


def test_a_worker_that_is_killed_ends_the_run(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """What the others have under way is recorded; the second run finishes the work, and what was sent twice is no more
    than the lost one had under way or had not told of.
    """
    server = start_mock("latency=0.05")
    write_prompts(tmp_path / "prompts.jsonl", LINES)
    process = start_run(tmp_path, environment, *THREE, "-u", server.url)
    wait_for_requests(server, LINES // 3, process)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    _, stderr = process.communicate(timeout=20)
    sent, recorded = server.received, len(records(tmp_path / "save.jsonl"))

    done = llmblast("run", *THREE, "-u", server.url)

    assert process.returncode == 71, stderr
    assert sent - recorded <= IN_FLIGHT
    assert done.returncode == 0, done.stderr
    assert_every_line_once(tmp_path)
    assert max(sends(server).values()) <= 2


@pytest.mark.parametrize("first", [200, 1200])
def test_lines_that_may_wait_go_last(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, first: int) -> None:
    """Whether they were read before workers sent on their own account or then: all other lines go first. What is in
    flight together arrives in any order.
    """
    server = start_mock("latency=0.02")
    deferred = [b'{"input": "may wait %d", "priority": -1}' % number for number in range(20)]
    lines = [b'{"input": "Question %d?"}' % number for number in range(LINES)]
    (tmp_path / "prompts.jsonl").write_bytes(b"\n".join([*lines[:first], *deferred, *lines[first:]]))

    done = llmblast("run", "prompts.jsonl", "--processes", "3", "-j", "100", "-u", server.url)

    assert done.returncode == 0, done.stderr
    places = [place for place, arrival in enumerate(server.ledger) if b"may wait" in arrival.body]
    assert len(places) == 20
    assert places[0] >= LINES - 100
