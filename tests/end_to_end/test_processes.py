"""`--processes N` as people see it: N processes send, and limits, records and messages are those of one."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmblast.mocking.server import ScriptedReply
from tests.conftest import CANARY, LLMBLAST, ROOT, RunLlmblast, StartMock, canary_places, records, write_prompts

MESSAGES = [{"role": "user", "content": "Hello"}]
CHANGING = ("endpoint", "latency")
RAW = [{"model": "m", "messages": MESSAGES, "seed": n} for n in range(20)]
BATCH = [{"custom_id": str(n), "method": "POST", "url": "/v1/chat/completions", "body": RAW[n]} for n in range(20)]
EMBEDDINGS = [{"model": "m", "input": f"Text {n}"} for n in range(20)]
OWN_FIELDS = [
    {"id": f"ü{n}", "input": f"Question {n}?", "fruit": "äpfel \ud83c\udf4e", "deep": {"list": [n, None, 1.5, True]}}
    for n in range(20)
]
OURS_TAKEN = [{"input": f"Question {n}?", "model": "theirs", "usage": n, "attempts": [n]} for n in range(20)]
LONG_NUMBERS = [{"id": 2**64 - 1 - n, "input": f"Hello {n}", "big": -(2**63)} for n in range(20)]


def write_lines(path: Path, lines: list[Any]) -> None:
    """Texts as they are, all else as JSON."""
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))


def unchanging(path: Path) -> list[dict[str, Any]]:
    """All records in the order of the input, without what differs from run to run."""
    return [
        {name: value for name, value in record.items() if name not in CHANGING}
        for record in sorted(records(path), key=lambda record: int(record["line"]))
    ]


@pytest.mark.parametrize("transport", ["lean", "session"])
def test_no_line_is_lost_among_faults(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, transport: str
) -> None:
    """500s, 429s, broken connections, malformed lines: each line exactly one record, each fault told of."""
    server = start_mock("latency=0.002&errors=0.05&rate_limited=0.05&broken=0.02&retry_after=0.02&seed=7")
    good = [orjson.dumps({"id": n, "input": f"Question {n}?"}) for n in range(2000)]
    lines = [line for n, text in enumerate(good) for line in ((text, b"not json") if n % 20 == 0 else (text,))]
    (tmp_path / "prompts.jsonl").write_bytes(b"\n".join(lines))

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--processes", "3", "--transport", transport)

    saved, failed = records(tmp_path / "save.jsonl"), records(tmp_path / "errors.jsonl")
    assert done.returncode == 3, done.stderr
    assert sorted(record["line"] for record in saved + failed) == list(range(1, len(lines) + 1))
    assert all(record["input"] == f"Question {record['id']}?" for record in saved)
    assert sum(record["code"] == "bad_line" for record in failed) == 100
    assert {record["code"] for record in failed} <= {"bad_line", "connection_broken"}
    assert max(record["attempts"] for record in saved) > 1


@pytest.mark.parametrize("transport", ["lean", "session"])
def test_the_runs_concurrency_binds_over_all_processes(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, transport: str
) -> None:
    """Never more than five in flight together, and five are reached."""
    server = start_mock("latency=0.02")
    write_prompts(tmp_path / "prompts.jsonl", 300)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-j", "5", "--processes", "3", "--transport", transport)

    assert done.returncode == 0, done.stderr
    assert server.most_in_flight == 5


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Only what has no record yet is sent, whichever number of processes has written it."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 200)
    llmblast("run", "prompts.jsonl", "-u", server.url, "--limit", "50")
    llmblast("run", "prompts.jsonl", "-u", server.url, "--limit", "120", "--processes", "2")

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--processes", "3")

    assert "120 skipped" in done.stderr
    assert len(server.ledger) == 200
    assert sorted(record["line"] for record in records(tmp_path / "save.jsonl")) == list(range(1, 201))


@pytest.mark.parametrize(
    ("lines", "arguments"),
    [
        (RAW, []),
        (BATCH, []),
        (EMBEDDINGS, ["--format", "raw"]),
        (OWN_FIELDS, []),
        (OWN_FIELDS, ["--no-echo"]),
        (OWN_FIELDS, ["--body", "always", "--prompt", "{fruit} {id}", "--system", "Be brief.", "--params", '{"n":1}']),
        (OURS_TAKEN, ["-m", "ours"]),
        (LONG_NUMBERS, []),
        (["not json", '{"input": 5}', "[]", *RAW, *OWN_FIELDS, '{"id": "bad", "messages": 5}', "\ufeff{}"], []),
    ],
    ids=["raw", "batch", "embeddings", "fields", "no-echo", "body", "taken", "numbers", "malformed"],
)
def test_records_are_those_of_one_process(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, lines: list[Any], arguments: list[str]
) -> None:
    """Answers and failures, in every form that a line may have."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    write_lines(tmp_path / "prompts.jsonl", lines)
    flags = [*arguments, "-a", "1"]
    for folder, processes in (("one", "1"), ("two", "2")):
        server = start_mock("latency=0", script=refuses_some)
        llmblast(
            *("run", "prompts.jsonl", "-u", f"{server.url},name=a", "-o", f"{folder}/save.jsonl", *flags),
            *("--processes", processes),
        )

    assert unchanging(tmp_path / "two/save.jsonl") == unchanging(tmp_path / "one/save.jsonl")
    assert unchanging(tmp_path / "two/errors.jsonl") == unchanging(tmp_path / "one/errors.jsonl")
    assert len(records(tmp_path / "two/save.jsonl")) > 10
    assert len(records(tmp_path / "two/errors.jsonl")) > 0


def refuses_some(index: int, body: bytes) -> ScriptedReply | None:
    """The same lines in every run, whatever their order."""
    return ScriptedReply(400, b'{"error":{"message":"no"}}', {}) if sum(body) % 5 == 0 else None


def test_a_pipe_flows_through(tmp_path: Path, environment: dict[str, str], start_mock: StartMock) -> None:
    """A line is answered before the next one is written, and the reader sees the end when the run has ended."""
    server = start_mock()
    process = subprocess.Popen(
        [*LLMBLAST, "run", "-", "-o", "-", "-u", server.url, "--processes", "2"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    answered = []
    for number in range(5):
        process.stdin.write(b'{"input": "Question %d?"}\n' % number)
        process.stdin.flush()
        answered.append(orjson.loads(process.stdout.readline())["input"])

    process.stdin.close()
    rest = process.stdout.read()
    process.stdout.close()

    assert answered == [f"Question {number}?" for number in range(5)]
    assert (rest, process.wait(timeout=20)) == (b"", 0)


@pytest.mark.parametrize("lines", [RAW, EMBEDDINGS], ids=["chat", "embeddings"])
def test_stragglers_get_twins(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, lines: list[dict[str, Any]]
) -> None:
    """Each line is answered once, and what may have been billed twice is told."""
    servers = [start_mock("latency=0.02"), start_mock("latency=0.02"), start_mock("latency=2&jitter=0")]
    urls = [f"{server.url},weight={weight}" for server, weight in zip(servers, (16, 16, 1), strict=True)]
    write_lines(tmp_path / "prompts.jsonl", [{**line, "user": str(n)} for n in range(40) for line in lines])
    flags = [word for url in urls for word in ("-u", url)]

    done = llmblast(
        *("run", "prompts.jsonl", *flags, "-j", "32", "--hedge", "p50", "--processes", "2", "--json", "--format", "raw")
    )

    saved = records(tmp_path / "save.jsonl")
    summary = orjson.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert sorted(record["line"] for record in saved) == list(range(1, 801))
    assert summary["requests"]["hedged"] > 10
    assert sum(record.get("maybe_billed", 0) for record in saved) == summary["requests"]["hedged"]


def test_the_built_in_provider_serves_all_processes(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """There is one of it, with one limit."""
    write_prompts(tmp_path / "prompts.jsonl", 100)

    done = llmblast(
        *("run", "prompts.jsonl", "-u", "mock:?rps=100&latency=0.05", "--rps", "100", "--processes", "2", "--json")
    )

    summary = orjson.loads(done.stdout)
    assert (done.returncode, summary["requests"]["sent"], summary["requests"]["rate_limited"]) == (0, 100, 0)
    assert len(records(tmp_path / "save.jsonl")) == 100


def test_a_key_is_found_once_and_shown_nowhere(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """Its command runs once for all processes; all of them send it, though a gateway repeats it."""
    told = orjson.dumps({"error": {"message": f"Received API Key = {CANARY}"}})
    server = start_mock(script=lambda index, body: ScriptedReply(400, told, {}) if index % 3 == 0 else None)
    write_prompts(tmp_path / "prompts.jsonl", 300)
    (tmp_path / "find_key").write_text("#!/bin/sh\necho found >>found\nprintenv CANARY_KEY\n")
    (tmp_path / "find_key").chmod(0o700)
    url = f"{server.url},key_command=./find_key"

    with (tmp_path / "told").open("wb") as told_to:
        code = subprocess.call(
            [*LLMBLAST, "run", "prompts.jsonl", "-u", url, "--processes", "3", "-v", "--json", "--body", "always"],
            cwd=tmp_path,
            env={**environment, "PYTHONASYNCIODEBUG": "1"},
            stdin=subprocess.DEVNULL,
            stdout=told_to,
            stderr=told_to,
        )

    assert code == 3
    assert (tmp_path / "found").read_text() == "found\n"
    assert all(arrival.has_authorization for arrival in server.ledger)
    assert "Received API Key = (hidden)" in (tmp_path / "told").read_text()
    assert "Traceback" not in (tmp_path / "told").read_text()
    assert canary_places([tmp_path]) == []


def test_the_summary_counts_all_processes_together(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Lines, requests, tokens and latencies, as the records and the server's ledger have them."""
    server = start_mock("latency=0.01&errors=0.1&rate_limited=0.05&retry_after=0.01&seed=3")
    lines = [f'{{"input": "Question {n}?"}}' for n in range(400)]
    write_lines(tmp_path / "prompts.jsonl", [*lines, "not json"])

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--processes", "3", "--json", "-q", "-a", "50")

    saved, summary = records(tmp_path / "save.jsonl"), orjson.loads(done.stdout)
    told = summary["lines"], summary["requests"]
    rejected = sum(arrival.status == 429 for arrival in server.ledger)
    assert (told[0]["read"], told[0]["answered"], told[0]["failed"]) == (401, 400, 1)
    assert (told[1]["sent"], told[1]["rate_limited"]) == (len(server.ledger), rejected)
    assert told[1]["retries"] == len(server.ledger) - 400
    assert summary["tokens"]["completion"] == sum(record["usage"]["completion_tokens"] for record in saved)
    assert summary["latency_s"]["p50"] == pytest.approx(sorted(r["latency"] for r in saved)[200], rel=0.1)


@pytest.mark.parametrize("value", ["0", "-1", "1000", "two", "1.5"])
def test_a_number_of_processes_that_will_not_do(tmp_path: Path, llmblast: RunLlmblast, value: str) -> None:
    """Said before anything is sent."""
    write_prompts(tmp_path / "prompts.jsonl", 3)

    done = llmblast("run", "prompts.jsonl", "-u", "mock:", "--processes", value)

    assert done.returncode == 2
    assert "--processes" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "save.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "exit_code", "sentence"),
    [
        (["missing.jsonl", "-u", "mock:"], 66, "missing.jsonl: no such file."),
        (["prompts.jsonl", "-u", "http://127.0.0.1:9/v1,key_env=NOWHERE"], 2, "the variable NOWHERE is not set"),
        (["prompts.jsonl", "-u", "mock:", "--prompt", "{text"], 2, "--prompt"),
        (["prompts.jsonl", "-c", "header.toml"], 2, "header"),
        (["prompts.jsonl", "-u", "mock:", "-o", "nowhere/save.jsonl"], 73, "its directory does not exist"),
    ],
)
def test_a_persons_mistake_gets_one_sentence(
    tmp_path: Path, llmblast: RunLlmblast, arguments: list[str], exit_code: int, sentence: str
) -> None:
    """From one process, though others wait for their work already."""
    write_prompts(tmp_path / "prompts.jsonl", 3)
    (tmp_path / "header.toml").write_text('[[endpoints]]\nurl = "mock:"\nheaders = {"x-a" = "a\\nb"}\n')

    done = llmblast("run", *arguments, "--processes", "2")

    assert done.returncode == exit_code, done.stderr
    assert done.stderr.startswith("llmblast: ")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_system_that_starts_no_more_processes_is_told(tmp_path: Path, environment: dict[str, str]) -> None:
    """With the number that was wanted, and without a traceback."""
    write_prompts(tmp_path / "prompts.jsonl", 3)
    refusing = (
        "import errno, os\n"
        "def fork(): raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))\n"
        "os.fork = fork\n"
        "from llmblast.cli import main\n"
        "main()\n"
    )

    done = subprocess.run(
        [LLMBLAST[0], "-c", refusing, "run", "prompts.jsonl", "-u", "mock:", "--processes", "500"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert done.stderr == f"llmblast: --processes 500: {os.strerror(11)}. Try fewer.\n"


def test_a_malformed_file_stops_nothing(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Every bad line is one record that names line and column; the good ones are answered."""
    server = start_mock()

    done = llmblast("run", str(ROOT / "sample_data/malformed.jsonl"), "-u", server.url, "--processes", "2")

    saved, failed = records(tmp_path / "save.jsonl"), records(tmp_path / "errors.jsonl")
    assert (done.returncode, len(saved), len(failed)) == (3, 8, 20)
    assert all(record["error"].startswith(f"line {record['line']}, column ") for record in failed)
