"""Stages by a pipe: `llmblast run -o - | llmblast run -`."""

import subprocess
from pathlib import Path

import pytest

from llmblast.mocking.server import ScriptedReply
from tests.conftest import LLMBLAST, StartMock, records, unmeasured, write_prompts

COMMAND = " ".join(LLMBLAST)


def run_pipe(tmp_path: Path, environment: dict[str, str], *commands: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", " | ".join(commands)],
        cwd=tmp_path,
        env=unmeasured(environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def judge_of(url: str, output: str = "b.jsonl") -> str:
    return f"{COMMAND} run - -u {url} -m m --prompt 'Judge: {{response}}' -o {output} -q"


def counting() -> tuple[list[int], object]:
    """A script of a mock whose answers are never the same."""
    numbers: list[int] = []

    def reply(index: int, body: bytes) -> ScriptedReply:
        numbers.append(index)
        text = b'{"model": "m", "choices": [{"message": {"content": "answer %d"}, "finish_reason": "stop"}]}' % index
        return ScriptedReply(200, text, {"content-type": "application/json"})

    return numbers, reply


def test_a_second_run_of_the_pipe_sends_only_what_the_second_stage_lacks(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """Though the first stage gets other answers then. Equal lines and repeats count on their own."""
    _, reply = counting()
    first, second = start_mock(script=reply), start_mock()
    write_prompts(tmp_path / "a.jsonl", 20)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"input":"same"}\n{"input":"same"}\n')
    draft = f"{COMMAND} run a.jsonl -u {first.url} -m m --repeat 2 -o - -q"

    done = run_pipe(tmp_path, environment, draft, judge_of(second.url))
    half = (tmp_path / "b.jsonl").read_bytes().splitlines(keepends=True)[::2]
    (tmp_path / "b.jsonl").write_bytes(b"".join(half))
    count = second.received
    again = run_pipe(tmp_path, environment, draft, judge_of(second.url))

    assert (done.returncode, again.returncode) == (0, 0), done.stderr + again.stderr
    assert count == 44
    assert second.received - count == 44 - len(half)
    judged = records(tmp_path / "b.jsonl")
    assert sorted((record["line"], record["fields"]["repeat"]) for record in judged) == [
        (line, repeat) for line in range(1, 23) for repeat in (1, 2)
    ]


def test_three_runs_in_a_row(tmp_path: Path, environment: dict[str, str], start_mock: StartMock) -> None:
    """The keys of the third one are stable, too, though records come in another order each time."""
    first, second, third = start_mock("latency=0.02&jitter=1"), start_mock("latency=0.02&jitter=1"), start_mock()
    write_prompts(tmp_path / "a.jsonl", 30)
    commands = (f"{COMMAND} run a.jsonl -u {first.url} -m m -o - -q", judge_of(second.url, "-"), judge_of(third.url))

    done = run_pipe(tmp_path, environment, *commands)
    again = run_pipe(tmp_path, environment, *commands)

    assert (done.returncode, again.returncode) == (0, 0), done.stderr + again.stderr
    assert third.received == 30


def test_with_a_cache_nothing_is_paid_twice(tmp_path: Path, environment: dict[str, str], start_mock: StartMock) -> None:
    """The first stage answers from it, and the second one knows the lines."""
    server = start_mock()
    write_prompts(tmp_path / "a.jsonl", 20)
    draft = f"{COMMAND} run a.jsonl -u {server.url} -m m --cache answers.db -o - -q"

    run_pipe(tmp_path, environment, draft, judge_of(server.url))
    again = run_pipe(tmp_path, environment, draft, judge_of(server.url))

    assert again.returncode == 0, again.stderr
    assert server.received == 40


@pytest.mark.parametrize("way", ["run draft.jsonl", "cat draft.jsonl | run -", "run - < draft.jsonl"])
def test_the_records_may_come_in_another_way(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, way: str
) -> None:
    """From their file instead of the pipe: those that were answered are known."""
    server = start_mock()
    write_prompts(tmp_path / "a.jsonl", 10)
    run_pipe(
        tmp_path,
        environment,
        f"{COMMAND} run a.jsonl -u {server.url} -m m -o - -q | tee draft.jsonl",
        judge_of(server.url),
    )
    count = server.received
    rest = f"-u {server.url} -m m --prompt 'Judge: {{response}}' -o b.jsonl -q"
    command, _, redirection = way.partition(" <")

    done = run_pipe(
        tmp_path,
        environment,
        f"{command.replace('run', f'{COMMAND} run')} {rest} {'<' * bool(redirection)}{redirection}",
    )

    assert done.returncode == 0, done.stderr
    assert (count, server.received) == (20, 20)


def test_answers_of_two_models_in_one_stream_are_all_judged(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """Also when the run is gone on with where only those of the second model were done."""
    server = start_mock()
    write_prompts(tmp_path / "a.jsonl", 10)
    for model in ("x", "y"):
        run_pipe(tmp_path, environment, f"{COMMAND} run a.jsonl -u {server.url} -m {model} -o {model}.jsonl -q")
    both = "cat x.jsonl y.jsonl"
    run_pipe(tmp_path, environment, both, judge_of(server.url))
    judged = (tmp_path / "b.jsonl").read_bytes().splitlines(keepends=True)
    of_second_model = [line for line in judged if b'"model":"y"' in line.partition(b'"fields"')[2]]
    (tmp_path / "b.jsonl").write_bytes(b"".join(of_second_model))
    count = server.received

    done = run_pipe(tmp_path, environment, both, judge_of(server.url))

    models = [record["fields"]["model"] for record in records(tmp_path / "b.jsonl")]
    assert done.returncode == 0, done.stderr
    assert (len(judged), len(of_second_model), server.received - count) == (20, 10, 10)
    assert (models.count("x"), models.count("y")) == (10, 10)


def test_half_a_record_of_a_killed_run_is_no_bad_line(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """It says that its writer was ended; the next run of the pipe brings the whole record."""
    server = start_mock()
    write_prompts(tmp_path / "a.jsonl", 3)
    run_pipe(tmp_path, environment, f"{COMMAND} run a.jsonl -u {server.url} -m m -o draft.jsonl -q")
    size = (tmp_path / "draft.jsonl").stat().st_size - 20

    done = run_pipe(tmp_path, environment, f"head -c {size} draft.jsonl", judge_of(server.url))

    assert done.returncode == 65
    assert (
        "standard input:3: is half a record: the run that wrote it was ended: run the same commands again"
        in done.stderr
    )
    assert len(records(tmp_path / "b.jsonl")) == 2
    assert records(tmp_path / "b.errors.jsonl") == []


def test_head_ends_both(tmp_path: Path, environment: dict[str, str], start_mock: StartMock) -> None:
    """Each says where the answers are that were not read."""
    server = start_mock("latency=0.01")
    write_prompts(tmp_path / "a.jsonl", 20000)

    done = run_pipe(
        tmp_path,
        environment,
        f"{COMMAND} run a.jsonl -u {server.url} -m m --rps 200 -o - -q",
        judge_of(server.url, "-"),
        "head -5",
    )

    assert done.returncode == 141
    assert len(done.stdout.splitlines()) == 5
    assert [
        line.startswith("llmblast: standard output: its reader has closed it") for line in done.stderr.splitlines()
    ] == [
        True,
        True,
    ]
