"""Hedging as people see it: a run with one endpoint that straggles, with `--hedge` and without."""

import signal
import subprocess
from collections import Counter
from pathlib import Path

import orjson
import pytest

from llmblast.mocking.server import MockServer
from tests.conftest import LLMBLAST, RunLlmblast, StartMock, records, write_prompts

LINES = 1000


def endpoints(start_mock: StartMock, straggler_s: float) -> tuple[list[MockServer], list[str]]:
    """Two fast ones, and one that takes long and gets one request in 33: servers and flags."""
    servers = [start_mock("latency=0.03"), start_mock("latency=0.03"), start_mock(f"latency={straggler_s}&jitter=0")]
    specs = [f"{server.url},weight={weight}" for server, weight in zip(servers, (16, 16, 1), strict=True)]
    return servers, [word for spec in specs for word in ("-u", spec)]


def assert_every_line_once(path: Path) -> None:
    assert Counter(record["line"] for record in records(path)) == Counter(range(1, LINES + 1))


def test_hedging_cuts_the_tail_within_its_budget(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """The slowest hundredth is at least three times as fast, for five per cent more requests at most. A twin that was
    cancelled before it had left counts as well.
    """
    servers, flags = endpoints(start_mock, straggler_s=3.0)
    write_prompts(tmp_path / "prompts.jsonl", LINES)

    plain = llmblast("run", "prompts.jsonl", *flags, "-j", "32", "--json", "-o", "plain.jsonl")
    sent_plain = sum(len(server.ledger) for server in servers)
    hedged = llmblast("run", "prompts.jsonl", *flags, "-j", "32", "--json", "-o", "hedged.jsonl", "--hedge", "p95")
    extra = sum(len(server.ledger) for server in servers) - sent_plain - LINES

    assert (plain.returncode, hedged.returncode) == (0, 0), plain.stderr + hedged.stderr
    before, after = orjson.loads(plain.stdout), orjson.loads(hedged.stdout)
    assert before["latency_s"]["p99"] >= 2.9
    assert after["latency_s"]["p99"] <= before["latency_s"]["p99"] / 3
    assert sent_plain == LINES
    assert before["requests"]["hedged"] == 0
    assert 10 < extra <= after["requests"]["hedged"] <= 0.05 * LINES
    assert_every_line_once(tmp_path / "plain.jsonl")
    assert_every_line_once(tmp_path / "hedged.jsonl")
    told = sum(record.get("maybe_billed", 0) for record in records(tmp_path / "hedged.jsonl"))
    assert told == after["requests"]["maybe_billed"] == after["requests"]["hedged"]
    assert f"{told} hedged" in hedged.stderr


def test_batch_records_keep_their_form(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """What may have been billed twice stands beside what OpenAI's format fixes."""
    _, flags = endpoints(start_mock, straggler_s=1.0)
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    url = "/v1/chat/completions"
    lines = [{"custom_id": f"c{n}", "method": "POST", "url": url, "body": {**body, "seed": n}} for n in range(LINES)]
    (tmp_path / "batch.jsonl").write_bytes(b"\n".join(orjson.dumps(line) for line in lines))

    done = llmblast("run", "batch.jsonl", *flags, "-j", "32", "--hedge", "p95")

    assert done.returncode == 0, done.stderr
    twice = [record for record in records(tmp_path / "save.jsonl") if "maybe_billed" in record]
    assert len(twice) > 10
    assert {tuple(record) for record in twice} == {
        ("key", "line", "id", "custom_id", "response", "error", "maybe_billed")
    }
    assert {record["maybe_billed"] for record in twice} == {1}


@pytest.mark.parametrize("signals", [1, 2])
def test_an_interrupted_run_is_gone_on_with(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, llmblast: RunLlmblast, signals: int
) -> None:
    """Ctrl-C in the middle of races, once or twice, then the same command: every line once."""
    servers, flags = endpoints(start_mock, straggler_s=0.5)
    write_prompts(tmp_path / "prompts.jsonl", LINES)
    arguments = ["run", "prompts.jsonl", *flags, "-j", "32", "--hedge", "p50"]
    process = subprocess.Popen(
        [*LLMBLAST, *arguments], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while servers[0].received < LINES // 3:
        assert process.poll() is None, "the run was over too early"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
    for _ in range(signals):
        process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)

    done = llmblast(*arguments)

    assert process.returncode == 130, stderr
    assert b"hedged" in stderr
    assert b"Traceback" not in stderr
    assert done.returncode == 0, done.stderr
    assert_every_line_once(tmp_path / "save.jsonl")
    assert records(tmp_path / "errors.jsonl") == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-u", "mock:", "--hedge", "p95"], "--hedge p95: needs a second endpoint: name two with --url"),
        (["-u", "mock:", "-u", "mock:", "--hedge", "95"], "--hedge '95': write a quantile from p50 to p99.9"),
        (["-u", "mock:", "-u", "mock:", "--hedge", "p"], "--hedge 'p': write a quantile from p50 to p99.9"),
        (["-u", "mock:", "-u", "mock:", "--hedge", "p49.9"], "write a quantile from p50 to p99.9, such as p95"),
        (["-u", "mock:", "-u", "mock:", "--hedge", "p100"], "write a quantile from p50 to p99.9, such as p95"),
        (["-u", "mock:", "-u", "mock:", "--hedge", "pnan"], "write a quantile from p50 to p99.9, such as p95"),
    ],
)
def test_what_cannot_be_hedged_is_said(
    tmp_path: Path, llmblast: RunLlmblast, arguments: list[str], sentence: str
) -> None:
    """Before anything is sent, with exit code 2."""
    write_prompts(tmp_path / "prompts.jsonl", 3)

    done = llmblast("run", "prompts.jsonl", *arguments)

    assert done.returncode == 2
    assert sentence in done.stderr
    assert not (tmp_path / "save.jsonl").exists()
