"""`--ordered`: answers in the order of the input, with slow lines, bad lines, kills and pipes."""

import subprocess
from pathlib import Path

import orjson
import pytest

from llmblast.mocking.server import ScriptedReply
from tests.conftest import LLMBLAST, RunLlmblast, StartMock, records, unmeasured, write_prompts
from tests.processes import run_measured, start_run, wait_for_requests


def lines_of(path: Path) -> list[int]:
    return [record["line"] for record in records(path)]


def leftovers(tmp_path: Path) -> list[str]:
    return [path.name for path in tmp_path.iterdir() if ".waiting" in path.name]


def test_answers_are_in_order_whatever_takes_longer(
    tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock
) -> None:
    """Bad lines among them go to the errors file; retries come at their place, too."""
    server = start_mock("latency=0.02&jitter=1&errors=0.05&rate_limited=0.05&retry_after=0.01")
    write_prompts(tmp_path / "prompts.jsonl", 1000)
    lines = (tmp_path / "prompts.jsonl").read_text().splitlines()
    lines[9] = lines[500] = "bad"
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-j", "100", "--ordered")

    assert done.returncode == 3, done.stderr
    assert lines_of(tmp_path / "save.jsonl") == [n for n in range(1, 1001) if n not in (10, 501)]
    assert lines_of(tmp_path / "errors.jsonl") == [10, 501]
    assert leftovers(tmp_path) == []


def test_a_slow_line_among_many_keeps_its_place_in_little_memory(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """The first line is answered last; some 20 MB of answers wait on disk meanwhile."""
    answer = orjson.dumps({"choices": [{"message": {"content": "x" * 1000}, "finish_reason": "stop"}]})
    count = 20_000

    def reply(index: int, body: bytes) -> ScriptedReply:
        return ScriptedReply(200, answer, delay_s=5.0 if b"Question 0?" in body else 0.0)

    server = start_mock(script=reply)
    write_prompts(tmp_path / "prompts.jsonl", count)

    exit_code, peak_bytes = run_measured(
        tmp_path, environment, "-u", server.url, "-o", "save.jsonl", "--ordered", "--timeout", "60"
    )

    assert exit_code == 0
    assert lines_of(tmp_path / "save.jsonl") == list(range(1, count + 1))
    assert peak_bytes < 150e6
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("has_order_again", [True, False])
def test_a_killed_run_loses_nothing_that_waited(
    tmp_path: Path,
    environment: dict[str, str],
    start_mock: StartMock,
    llmblast: RunLlmblast,
    has_order_again: bool,
) -> None:
    """The records of the killed run come first, in order; then those of the next one. Little is sent twice."""
    in_flight = 20

    def reply(index: int, body: bytes) -> ScriptedReply | None:
        return ScriptedReply(delay_s=60) if index == 0 else None

    server = start_mock("latency=0.005", script=reply)
    write_prompts(tmp_path / "prompts.jsonl", 1000)
    arguments = ("-u", server.url, "-j", str(in_flight))
    process = start_run(tmp_path, environment, "prompts.jsonl", *arguments, "--ordered")
    wait_for_requests(server, 600, process)
    process.kill()
    process.communicate()
    assert lines_of(tmp_path / "save.jsonl") == []
    assert leftovers(tmp_path) != []

    done = llmblast("run", "prompts.jsonl", *arguments, *(["--ordered"] if has_order_again else []))

    assert done.returncode == 0, done.stderr
    lines = lines_of(tmp_path / "save.jsonl")
    first = lines.index(1)
    assert sorted(lines) == list(range(1, 1001))
    assert first > 300
    assert lines[:first] == sorted(lines[:first])
    assert lines[first:] == sorted(lines[first:]) or not has_order_again
    assert server.received < 1000 + 200 + 2 * in_flight
    assert leftovers(tmp_path) == []
    assert "that waited for others were added" in done.stderr


def test_a_pipe_gets_its_answers_in_order(tmp_path: Path, environment: dict[str, str], start_mock: StartMock) -> None:
    """Nothing is left beside it."""
    server = start_mock("latency=0.02&jitter=1")
    write_prompts(tmp_path / "prompts.jsonl", 500)
    command = f"{' '.join(LLMBLAST)} run prompts.jsonl -u {server.url} --ordered -q -o - | cat"

    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=unmeasured(environment), capture_output=True, timeout=60, check=False
    )

    assert [orjson.loads(line)["line"] for line in done.stdout.splitlines()] == list(range(1, 501))
    assert {path.name for path in tmp_path.iterdir()} == {"errors.jsonl", "prompts.jsonl"}


def test_repeats_of_a_line_and_equal_lines_of_two_files_keep_their_places(
    tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock
) -> None:
    server = start_mock("latency=0.02&jitter=1")
    for name in ("a.jsonl", "b.jsonl"):
        write_prompts(tmp_path / name, 50)

    done = llmblast("run", "a.jsonl", "b.jsonl", "-u", server.url, "-j", "50", "--ordered", "--repeat", "3")

    assert done.returncode == 0, done.stderr
    assert [(record["file"], record["line"], record["repeat"]) for record in records(tmp_path / "save.jsonl")] == [
        (name, line, repeat) for name in ("a.jsonl", "b.jsonl") for line in range(1, 51) for repeat in (1, 2, 3)
    ]
