"""The main job as a person runs it: real processes against a real server, judged by files and the server's ledger."""

import subprocess
from collections import Counter
from pathlib import Path

import orjson
import pytest

from llmblast.mocking.server import ScriptedReply
from tests.conftest import LLMBLAST, ROOT, RunLlmblast, StartMock, records, write_prompts


def test_every_line_gets_its_answer(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """A plain run: one record for each line, nothing in errors.jsonl, exit code 0."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 500)

    done = llmblast("run", "prompts.jsonl", "-u", server.url)

    assert done.returncode == 0, done.stderr
    saved = records(tmp_path / "save.jsonl")
    assert sorted(record["line"] for record in saved) == list(range(1, 501))
    assert all(record["input"] == f"Question {record['line'] - 1}?" for record in saved)
    assert all(record["response"] and record["finish_reason"] == "stop" for record in saved)
    assert (tmp_path / "errors.jsonl").read_bytes() == b""
    assert len(server.ledger) == 500


@pytest.mark.parametrize("transport", ["lean", "session"])
def test_no_line_is_lost_among_faults(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, transport: str
) -> None:
    """5 % 500s, 5 % 429s, 2 % broken connections, malformed lines between good ones: each line exactly one record."""
    server = start_mock("latency=0.002&errors=0.05&rate_limited=0.05&broken=0.02&retry_after=0.02&seed=7")
    good = [orjson.dumps({"id": n, "input": f"Question {n}?"}) for n in range(2000)]
    lines = [line for n, text in enumerate(good) for line in ((text, b"not json") if n % 20 == 0 else (text,))]
    (tmp_path / "prompts.jsonl").write_bytes(b"\n".join(lines))

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--transport", transport)

    saved, failed = records(tmp_path / "save.jsonl"), records(tmp_path / "errors.jsonl")
    assert done.returncode == 3, done.stderr
    assert sorted(record["line"] for record in saved + failed) == list(range(1, len(lines) + 1))
    assert sum(record["code"] == "bad_line" for record in failed) == 100
    assert {record["code"] for record in failed} <= {"bad_line", "connection_broken"}
    assert len(failed) < 120


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Inserted, reordered, removed and repeated lines: only what has no record yet is sent."""
    server = start_mock()
    lines = (write_prompts(tmp_path / "prompts.jsonl", 100)).read_bytes().splitlines()
    llmblast("run", "prompts.jsonl", "-u", server.url)
    changed = [b'{"input": "new at the front"}', *reversed(lines[10:]), lines[50], lines[50]]
    (tmp_path / "prompts.jsonl").write_bytes(b"\n".join(changed))

    done = llmblast("run", "prompts.jsonl", "-u", server.url)

    assert done.returncode == 0
    assert len(server.ledger) == 100 + 3
    inputs = Counter(record["input"] for record in records(tmp_path / "save.jsonl"))
    assert inputs["Question 50?"] == 3
    assert inputs["new at the front"] == 1


def test_only_transient_errors_are_tried_again(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """A malformed line keeps its record; a line that failed by a 500 is sent again and its old record goes."""
    failing = start_mock("latency=0&errors=1")
    healthy = start_mock()
    (tmp_path / "prompts.jsonl").write_text('{"input": "a"}\nnot json\n')
    first = llmblast("run", "prompts.jsonl", "-u", failing.url, "-a", "1")
    assert first.returncode == 3
    assert [record["transient"] for record in records(tmp_path / "errors.jsonl")].count(True) == 1

    second = llmblast("run", "prompts.jsonl", "-u", healthy.url)

    assert second.returncode == 3
    assert [record["input"] for record in records(tmp_path / "save.jsonl")] == ["a"]
    assert [record["code"] for record in records(tmp_path / "errors.jsonl")] == ["bad_line"]


def test_errors_run_again_as_an_input(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """The `request` of an error record is the original line."""
    failing = start_mock("latency=0&errors=1")
    healthy = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 5)
    llmblast("run", "prompts.jsonl", "-u", failing.url, "-a", "1")
    again = [orjson.dumps(record["request"]) for record in records(tmp_path / "errors.jsonl")]
    (tmp_path / "again.jsonl").write_bytes(b"\n".join(again))

    done = llmblast("run", "again.jsonl", "-u", healthy.url, "-o", "second.jsonl")

    assert done.returncode == 0
    assert sorted(record["id"] for record in records(tmp_path / "second.jsonl")) == [f"row-{n}" for n in range(5)]


def test_overwrite_starts_anew(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Both outputs are emptied and every line is sent again."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 20)
    llmblast("run", "prompts.jsonl", "-u", server.url)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--overwrite")

    assert done.returncode == 0
    assert len(server.ledger) == 40
    assert len(records(tmp_path / "save.jsonl")) == 20


def test_a_pipeline_gets_answers_on_stdout(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """`cat prompts.jsonl | llmblast run - -o -`: records on stdout and nothing else, the summary on stderr."""
    server = start_mock()
    prompts = write_prompts(tmp_path / "prompts.jsonl", 30).read_text()

    done = llmblast("run", "-", "-o", "-", "-u", server.url, stdin=prompts)

    assert done.returncode == 0
    assert sorted(orjson.loads(line)["line"] for line in done.stdout.splitlines()) == list(range(1, 31))
    assert "30 answered" in done.stderr


def test_a_pipe_flows_through(tmp_path: Path, environment: dict[str, str], start_mock: StartMock) -> None:
    """A line is answered before the next one is written, and the reader sees the end when the run has ended."""
    server = start_mock()
    process = subprocess.Popen(
        [*LLMBLAST, "run", "-", "-o", "-", "-u", server.url],
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


@pytest.mark.parametrize("first", [200, 1200])
def test_lines_that_may_wait_go_last(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, first: int) -> None:
    """Wherever they stand in the file: but for one send of twenty, all other lines go first."""
    server = start_mock("latency=0.02")
    deferred = [b'{"input": "may wait %d", "priority": -1}' % number for number in range(20)]
    lines = [b'{"input": "Question %d?"}' % number for number in range(2000)]
    (tmp_path / "prompts.jsonl").write_bytes(b"\n".join([*lines[:first], *deferred, *lines[first:]]))

    done = llmblast("run", "prompts.jsonl", "-j", "100", "-u", server.url)

    assert done.returncode == 0, done.stderr
    places = [place for place, arrival in enumerate(server.ledger) if b"may wait" in arrival.body]
    assert len(places) == 20
    early = [place for place in places if place < 2000 - 100]
    assert all(place >= first + 20 * number for number, place in enumerate(early))


def test_the_older_tools_flags_work(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Underscore flags of the predecessor mean the same."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 10)

    done = llmblast(
        "run",
        "--requests_filepath=prompts.jsonl",
        "--max_requests_per_second=1000",
        "--max_attempts=3",
        "--save_filepath=out.jsonl",
        "--url",
        server.url,
    )

    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path / "out.jsonl")) == 10


def test_batch_lines_become_batch_records(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """OpenAI batch in, OpenAI batch out."""
    server = start_mock()

    done = llmblast("run", str(ROOT / "sample_data/batch.jsonl"), "-u", server.url)

    assert done.returncode == 0, done.stderr
    saved = records(tmp_path / "save.jsonl")
    wanted = records(ROOT / "sample_data/batch.jsonl")
    assert {record["custom_id"] for record in saved} == {line["custom_id"] for line in wanted}
    assert all(record["response"]["status_code"] == 200 and record["error"] is None for record in saved)
    assert all(record["response"]["body"]["choices"] for record in saved)


def test_a_malformed_file_stops_nothing(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Every bad line is one record that names line and column; the good ones are answered."""
    server = start_mock()

    done = llmblast("run", str(ROOT / "sample_data/malformed.jsonl"), "-u", server.url)

    saved, failed = records(tmp_path / "save.jsonl"), records(tmp_path / "errors.jsonl")
    assert done.returncode == 3
    assert (len(saved), len(failed)) == (8, 20)
    assert all(f"malformed.jsonl:{record['line']}:" in record["error"] for record in failed)


def test_a_model_is_put_in_per_endpoint(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """The run's model serves lines that name none; an endpoint's own goes before it."""
    first, second = start_mock(), start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 10)

    done = llmblast("run", "prompts.jsonl", "-m", "general", "-u", first.url, "-u", f"{second.url},model=special")

    assert done.returncode == 0
    assert {orjson.loads(arrival.body)["model"] for arrival in first.ledger} == {"general"}
    assert {orjson.loads(arrival.body)["model"] for arrival in second.ledger} == {"special"}


def test_limit_takes_the_first_lines(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """`--limit 7` is the head of the file, also when it is run again."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 50)
    llmblast("run", "prompts.jsonl", "-u", server.url, "--limit", "7")

    llmblast("run", "prompts.jsonl", "-u", server.url, "--limit", "7")

    assert sorted(record["line"] for record in records(tmp_path / "save.jsonl")) == list(range(1, 8))


def test_the_summary_can_be_json(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """`--json` prints one object on stdout; with -q nothing else is said."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 12)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--json", "-q")

    summary = orjson.loads(done.stdout)
    assert done.stderr == ""
    assert (summary["exit_code"], summary["lines"]["answered"], summary["requests"]["sent"]) == (0, 12, 12)


def test_the_summary_counts_what_the_records_and_the_server_have(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Lines, requests, tokens and latencies."""
    server = start_mock("latency=0.01&errors=0.1&rate_limited=0.05&retry_after=0.01&seed=3")
    lines = [f'{{"input": "Question {n}?"}}' for n in range(400)]
    (tmp_path / "prompts.jsonl").write_text("\n".join([*lines, "not json"]))

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--json", "-q", "-a", "50")

    saved, summary = records(tmp_path / "save.jsonl"), orjson.loads(done.stdout)
    told = summary["lines"], summary["requests"]
    rejected = sum(arrival.status == 429 for arrival in server.ledger)
    assert (told[0]["read"], told[0]["answered"], told[0]["failed"]) == (401, 400, 1)
    assert (told[1]["sent"], told[1]["rate_limited"]) == (len(server.ledger), rejected)
    assert told[1]["retries"] == len(server.ledger) - 400
    assert summary["tokens"]["completion"] == sum(record["usage"]["completion_tokens"] for record in saved)
    assert summary["latency_s"]["p50"] == pytest.approx(sorted(r["latency"] for r in saved)[200], rel=0.1)


def test_verbose_tells_every_failure(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """`-v` names line, endpoint and reason."""
    server = start_mock("latency=0&errors=1")
    write_prompts(tmp_path / "prompts.jsonl", 1)

    done = llmblast("run", "prompts.jsonl", "-u", f"{server.url},name=gpu1", "-v", "-a", "1")

    assert "line 1: gpu1: failed, may be sent again: HTTP 500" in done.stderr


def test_verbose_tells_the_providers_limits_once(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Whoever has to choose limits sees what the provider says of its own."""
    server = start_mock("latency=0&rpm=6000&tpm=900000")
    write_prompts(tmp_path / "prompts.jsonl", 5)

    done = llmblast("run", "prompts.jsonl", "-u", f"{server.url},name=gpu1", "-v")

    told = [line for line in done.stderr.splitlines() if line.startswith("gpu1: the provider reports a limit of ")]
    assert len(told) == 2
    assert "6,000 requests" in told[0]
    assert "900,000 tokens" in told[1]


def test_the_fastest_route_leaves_a_failing_endpoint(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Failures are quick, but they do not count as fast."""
    failing, healthy = start_mock("latency=0&errors=1"), start_mock("latency=0.01")
    write_prompts(tmp_path / "prompts.jsonl", 300)

    done = llmblast("run", "prompts.jsonl", "-u", failing.url, "-u", healthy.url, "--route", "fastest", "-j", "8")

    assert done.returncode == 0, done.stderr
    assert len(failing.ledger) < 60


def test_a_refused_batch_line_becomes_a_batch_record(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """With the provider's reply and its name for the request, and the line, so that it can be run again."""
    refusal = ScriptedReply(413, b'{"error":{"message":"too long","code":"too_long"}}', {"x-request-id": "req_1"})
    server = start_mock(script=lambda index, body: refusal if b"too long" in body else None)
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/completions", "body": {"prompt": text}}
        for name, text in (("r1", "hi"), ("r2", "too long"))
    ]
    (tmp_path / "batch.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))

    done = llmblast("run", "batch.jsonl", "-u", server.url)

    (answered,), (failed,) = records(tmp_path / "save.jsonl"), records(tmp_path / "errors.jsonl")
    assert done.returncode == 3
    assert failed["custom_id"] == "r2"
    assert failed["response"] == {"status_code": 413, "request_id": "req_1", "body": orjson.loads(refusal.body)}
    assert "too long" in failed["error"]["message"]
    assert failed["request"] == lines[1]
    assert answered["id"] != failed["id"]
    assert all(record["id"].startswith("batch_req_") for record in (answered, failed))
