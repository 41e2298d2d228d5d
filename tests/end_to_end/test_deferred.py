"""Immediate and deferred lines in one run, as real processes: no immediate line waits behind a deferred one."""

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest

import llmblast as package
from tests.conftest import RunLlmblast, StartMock, records, write_prompts
from tests.processes import let_run, run_measured, start_run, wait_for_requests


def write_lines(path: Path, name: str, count: int, **fields: Any) -> Path:
    path.write_bytes(b"".join(orjson.dumps({"input": f"{name} {n}", **fields}) + b"\n" for n in range(count)))
    return path


def inputs_of(path: Path) -> list[str]:
    return sorted(record["input"] for record in records(path))


def test_lines_of_a_deferred_file_wait_for_those_of_a_pipe(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """A line that arrives while they are sent goes next, and its record names its input."""
    server = start_mock()
    write_lines(tmp_path / "later.jsonl", "later", 3000)
    process = start_run(
        tmp_path, environment, "-", "--deferred", "later.jsonl", "-u", server.url, "-r", "300", stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    sent_before = []
    for number in range(5):
        wait_for_requests(server, 100 * (number + 1), process)
        sent_before.append(server.received)
        process.stdin.write(f'{{"input": "now {number}"}}\n')
        process.stdin.flush()
    while sum(b"now" in arrival.body for arrival in list(server.ledger)) < 5:
        assert process.poll() is None
    process.terminate()
    process.communicate(timeout=30)

    places = [place for place, arrival in enumerate(server.ledger) if b"now" in arrival.body]
    assert all(place - before < 60 for place, before in zip(places, sent_before, strict=True))
    found = {record["file"] for record in records(tmp_path / "save.jsonl")}
    assert found == {"-", "later.jsonl"}


def test_a_run_with_deferred_lines_goes_on_where_it_stopped(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Whichever of both inputs a line stood in before."""
    server = start_mock()
    write_lines(tmp_path / "now.jsonl", "now", 30)
    write_lines(tmp_path / "later.jsonl", "later", 50)
    first = llmblast("run", "now.jsonl", "-u", server.url)
    (tmp_path / "later.jsonl").write_bytes(
        (tmp_path / "later.jsonl").read_bytes() + (tmp_path / "now.jsonl").read_bytes()
    )

    done = llmblast("run", "--deferred", "later.jsonl", "-u", server.url, stdin="")

    assert (first.returncode, done.returncode) == (0, 0), done.stderr
    assert len(server.ledger) == 80
    assert inputs_of(tmp_path / "save.jsonl") == sorted(
        [f"now {n}" for n in range(30)] + [f"later {n}" for n in range(50)]
    )


def test_both_inputs_may_be_fifos(tmp_path: Path, environment: dict[str, str], start_mock: StartMock) -> None:
    """The run ends when both are closed."""
    server = start_mock()
    for name in ("now", "later"):
        os.mkfifo(tmp_path / name)
    process = start_run(tmp_path, environment, "now", "--deferred", "later", "-u", server.url)
    with (tmp_path / "later").open("w") as later, (tmp_path / "now").open("w") as now:
        for number in range(3):
            later.write(f'{{"input": "later {number}"}}\n')
            later.flush()
            wait_for_requests(server, 2 * number + 1, process)
            now.write(f'{{"input": "now {number}"}}\n')
            now.flush()
            wait_for_requests(server, 2 * number + 2, process)

    process.communicate(timeout=30)
    assert process.returncode == 0
    assert len(records(tmp_path / "save.jsonl")) == 6


def test_limit_and_sample_hold_for_each_input(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """As do `check`, bad lines with their places, and repeats."""
    server = start_mock()
    write_prompts(tmp_path / "now.jsonl", 30)
    write_lines(tmp_path / "later.jsonl", "later", 30)
    run = ("now.jsonl", "--deferred", "later.jsonl")

    limited = llmblast("run", *run, "-u", server.url, "--limit", "5", "--repeat", "2")
    sampled = llmblast("run", *run, "-u", server.url, "--sample", "7", "-o", "sampled.jsonl")
    (tmp_path / "later.jsonl").write_text('{"input": "x", "deadline": "soon"}\n')
    checked = llmblast("check", *run)
    bad = llmblast("run", *run, "-u", server.url, "-o", "bad.jsonl")

    assert (limited.returncode, sampled.returncode, checked.returncode, bad.returncode) == (0, 0, 3, 3)
    assert "the first 5 of both inputs" in limited.stderr
    assert len(records(tmp_path / "save.jsonl")) == 20
    assert len(records(tmp_path / "sampled.jsonl")) == 14
    assert 'later.jsonl:1:1: "deadline" is not a time' in checked.stdout
    assert "31 read, 30 good, 1 bad" in checked.stdout
    assert [record["file"] for record in records(tmp_path / "bad.errors.jsonl")] == ["later.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.jsonl", "--deferred", "b.jsonl", "--ordered"), "--ordered: two inputs that are read at the same time"),
        (("-", "--deferred", "-"), "standard input is named twice"),
        (("a.jsonl", "--deferred", "b.jsonl", "-o", "b.jsonl"), "b.jsonl: is also an input"),
        (("a.jsonl", "--deferred", "none.jsonl"), "none.jsonl: no such file"),
        (("a.jsonl", "--deferred", "./a.jsonl"), "./a.jsonl: is an input and also named by --deferred, so its lines"),
        (("*.jsonl", "--deferred", "b.jsonl"), "b.jsonl: is an input and also named by --deferred, so its lines"),
        (("a.jsonl", "--reserve", "8", "-j", "8"), "--reserve 8: must be less than the 8 of --concurrency"),
        (("a.jsonl", "--by", "8 o'clock"), "is not a time: write seconds, a duration such as 2h"),
        (("a.jsonl", "--by", "8"), "--by: '8' is not a time: write 08:00 or 2026-12-01T08:00; seconds from now are"),
        (("a.jsonl", "--by", "08:00", "--deadline", "2h"), "--by and --deadline name the time twice"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_sent(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, arguments: tuple[str, ...], message: str
) -> None:
    """With what to do."""
    server = start_mock()
    for name in ("a.jsonl", "b.jsonl"):
        write_prompts(tmp_path / name, 3)

    done = llmblast("run", *arguments, "-u", server.url, stdin="")

    assert message in done.stderr
    assert done.returncode in (2, 66)
    assert not server.ledger


def test_deferred_prompts_of_python(start_mock: StartMock, tmp_path: Path) -> None:
    """Any form of prompts; results name their input, and are in the order of the inputs."""
    server = start_mock()
    later = write_lines(tmp_path / "later.jsonl", "later", 3)

    async def run() -> list[list[tuple[str | None, int, Any]]]:
        found = []
        forms: list[Any] = [["a", {"input": "b", "deadline": 60}], later, (text for text in "ab")]
        for deferred in forms:
            summary = await package.run_async(["x", "y"], deferred=deferred, endpoints=server.url)
            found.append([(result.file, result.index, result.input) for result in summary.results])
        return found

    first, second, third = asyncio.run(run())

    own = [(None, 0, "x"), (None, 1, "y")]
    assert first == [*own, ("the deferred prompts", 0, "a"), ("the deferred prompts", 1, "b")]
    assert second == [*own, *((str(later), index, f"later {index}") for index in range(3))]
    assert third == first


def test_an_immediate_line_behind_a_crowd_of_deferred_ones_goes_at_once(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """In the same pipe. None of the lines behind it is lost when the run is killed, and none is answered twice."""
    server = start_mock("latency=0.01")
    later = write_lines(tmp_path / "later.jsonl", "later", 20_000, priority="deferred").read_text()
    run = ("-", "-u", server.url, "-r", "200")
    process = start_run(tmp_path, environment, *run, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(later)
    process.stdin.flush()
    wait_for_requests(server, 100, process)
    behind = []
    for number in range(3):
        before = server.received
        process.stdin.write(f'{{"input": "now {number}"}}\n')
        process.stdin.flush()
        while not any(b"now" in arrival.body for arrival in server.ledger[before:]):
            assert process.poll() is None
            let_run(process, 0.002)  # the server is a thread of this one
        behind.append(server.received - before)
    process.kill()
    process.communicate()

    assert behind[0] < 1000, "the pipe was read to its end"
    assert max(behind[1:]) < 20
    first = len(records(tmp_path / "save.jsonl"))
    process = start_run(tmp_path, environment, *run[:-2], "--limit", "1000", stdin=subprocess.PIPE)
    process.communicate(later)
    assert process.returncode == 0
    inputs = inputs_of(tmp_path / "save.jsonl")
    assert len(inputs) == len(set(inputs))
    assert {f"later {number}" for number in range(1000)} <= set(inputs)
    assert first > 90


def test_earliest_deadlines_go_first_in_the_whole_file(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """However far back they stand, with a priority before all."""
    server = start_mock("latency=0.01")
    lines = [{"input": f"line {n}", "priority": "deferred", "deadline": f"{3000 - n}m"} for n in range(3000)]
    lines[1500]["priority"] = "immediate"
    (tmp_path / "prompts.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-r", "400", "--max-time", "4s")

    assert done.returncode == 5, done.stderr
    sent = [int(orjson.loads(arrival.body)["messages"][0]["content"][5:]) for arrival in server.ledger]
    assert 1500 in sent
    sent = [number for number in sent if number != 1500]
    later = sent[400:]
    assert later == sorted(later, reverse=True)
    assert min(later) > 3000 - len(sent) - 200


def test_memory_does_not_grow_with_the_lines_that_wait(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """They wait on disk, however many tenants they are of."""
    server = start_mock("latency=0.01")
    peaks = []
    for count in (2_000, 60_000):
        lines = ({"input": "x" * 1000, "priority": "deferred", "tenant": f"t{n % 50}"} for n in range(count))
        (tmp_path / "prompts.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
        code, peak = run_measured(
            tmp_path, environment, "-u", server.url, "-r", "100", "--max-time", "8s", "-o", f"{count}.jsonl"
        )
        assert code == 5
        peaks.append(peak)

    assert peaks[1] - peaks[0] < 24 * 1024 * 1024


def test_late_answers_are_counted_and_told_early(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """The run goes on all the same."""
    server = start_mock("latency=0.01")
    write_prompts(tmp_path / "prompts.jsonl", 600)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-r", "100", "--deadline", "4s")
    by_time = llmblast(
        "run", "prompts.jsonl", "-u", server.url, "--by", "2020-01-01T08:00", "--json", "-o", "late.jsonl"
    )

    assert (done.returncode, by_time.returncode) == (0, 0)
    assert " lines cannot be answered by " in done.stderr
    assert " of them late" in done.stderr
    assert orjson.loads(by_time.stdout)["lines"]["late"] == 600


def test_lines_that_wait_come_back_as_they_were_read(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """With the columns and the name of their file, bad lines with their places, and the number of their line."""
    server = start_mock("latency=0")
    rows = [f"later {n},deferred,{'a' if n % 2 else 'b'},{n}" for n in range(3000)]
    (tmp_path / "a.csv").write_text("input,priority,tenant,note\n" + "\n".join(rows) + "\n")
    bad = [{"input": n if n % 100 == 50 else f"raw {n}", "priority": "deferred"} for n in range(3000)]
    (tmp_path / "b.jsonl").write_bytes(b"\n".join(map(orjson.dumps, bad)))

    done = llmblast("run", "a.csv", "b.jsonl", "-u", server.url, "-j", "8", "--share", "a=2")

    assert done.returncode == 3, done.stderr
    saved, failed = records(tmp_path / "save.jsonl"), records(tmp_path / "errors.jsonl")
    notes = {(record["file"], record["line"], record["note"]) for record in saved if "note" in record}
    assert notes == {("a.csv", number + 2, str(number)) for number in range(3000)}
    assert len(saved) == 6000 - 30
    places = {f"b.jsonl:{number + 1}:1: " for number in range(50, 3000, 100)}
    assert {record["error"].partition('"input"')[0] for record in failed} == places
    assert all(b"note" not in arrival.body and b"tenant" not in arrival.body for arrival in server.ledger)


@pytest.mark.parametrize(
    ("options", "sent", "saved"),
    [(("--repeat", "2"), 4000, 4000), (("--dedupe",), 500, 2000), (("--cache", "answers.db"), 500, 2000)],
)
def test_lines_that_wait_are_repeated_or_sent_once_as_all_others(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, options: tuple[str, ...], sent: int, saved: int
) -> None:
    """A line in the queue stays there then."""
    server = start_mock("latency=0")
    lines = [
        {"input": f"line {n % 500}", "priority": "deferred", "deadline": 86_400 - n, "tenant": f"{n % 3}"}
        for n in range(2000)
    ]
    (tmp_path / "prompts.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-j", "8", *options)

    assert done.returncode == 0, done.stderr
    assert (len(server.ledger), len(records(tmp_path / "save.jsonl"))) == (sent, saved)


def test_a_run_that_keeps_the_order_reads_no_further_than_others(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Records come in the order of the input, whatever the classes of their lines are."""
    server = start_mock("latency=0")
    lines = [{"input": f"line {n}", "priority": "deferred" if n % 3 else "immediate"} for n in range(1000)]
    (tmp_path / "prompts.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-j", "8", "--ordered")

    assert done.returncode == 0, done.stderr
    assert [record["line"] for record in records(tmp_path / "save.jsonl")] == list(range(1, 1001))
