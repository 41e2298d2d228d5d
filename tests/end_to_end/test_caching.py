"""Never pay twice: the cache of answers, equal requests, and several answers to each line, as a person runs them."""

import subprocess
from collections import Counter
from pathlib import Path
from random import Random

import orjson
import pytest

import llmblast as library
from llmblast.mocking.server import ScriptedReply
from tests.conftest import CANARY, LLMBLAST, RunLlmblast, StartMock, records, write_prompts
from tests.processes import start_run, wait_for_requests

MODEL = ("-m", "m")


def write_lines(path: Path, texts: list[str]) -> None:
    """Simple lines of which only the text is sent."""
    lines = (orjson.dumps({"id": number, "input": text, "own": number}) for number, text in enumerate(texts, 1))
    path.write_bytes(b"\n".join(lines) + b"\n")


def test_another_run_takes_all_answers_from_the_cache(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """No request, the same answers; limits are not asked, so nothing waits for them."""
    server, other = start_mock(), start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 300)
    llmblast("run", "prompts.jsonl", "-u", server.url, *MODEL, "--cache", "c.db")

    done = llmblast("run", "prompts.jsonl", "-u", other.url, *MODEL, "--cache", "c.db", "-o", "2.jsonl", "--rps", "1")

    assert done.returncode == 0, done.stderr
    assert (server.received, other.received) == (300, 0)
    first = {record["line"]: record for record in records(tmp_path / "save.jsonl")}
    for record in records(tmp_path / "2.jsonl"):
        same = first.pop(record["line"])
        assert "cached" not in same
        assert record == {**same, "endpoint": None, "attempts": 0, "latency": 0.0, "cached": True}
    assert not first
    assert "300 answered (300 without a request)" in done.stderr
    assert "none sent" in done.stderr


def test_equal_lines_go_once_and_each_has_its_record(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """With their own fields; `--dedupe` needs no file and leaves none."""
    server = start_mock()
    texts = [f"Question {n}?" for n in range(1000)]
    write_lines(tmp_path / "prompts.jsonl", [*texts, texts[0], *texts[500:], texts[0]])

    done = llmblast("run", "prompts.jsonl", "-u", server.url, *MODEL, "--dedupe")

    saved = records(tmp_path / "save.jsonl")
    assert done.returncode == 0, done.stderr
    assert server.received == 1000
    assert sorted(record["own"] for record in saved) == list(range(1, 1503))
    assert len({record["response"] for record in saved if record["input"] == texts[0]}) == 1
    assert Counter(record.get("cached", False) for record in saved) == {False: 1000, True: 502}
    names = {path.name for path in tmp_path.iterdir()}
    assert names <= {"prompts.jsonl", "save.jsonl", "errors.jsonl", "save.jsonl.settings", "save.jsonl.limits"}


def test_without_the_options_each_line_is_sent(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Equal lines may well ask for different answers."""
    server = start_mock()
    write_lines(tmp_path / "prompts.jsonl", ["same"] * 3)

    llmblast("run", "prompts.jsonl", "-u", server.url, *MODEL)

    assert server.received == 3


def test_errors_are_not_cached(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """A line that failed is sent in the next run."""
    failing = start_mock(
        script=lambda index, body: ScriptedReply(400, b'{"error":{"message":"no"}}') if b"bad" in body else None
    )
    healthy = start_mock()
    write_lines(tmp_path / "prompts.jsonl", ["good", "bad", "bad", *(f"more {n}" for n in range(20))])
    first = llmblast("run", "prompts.jsonl", "-u", failing.url, *MODEL, "--cache", "c.db")

    second = llmblast("run", "prompts.jsonl", "-u", healthy.url, *MODEL, "--cache", "c.db", "-o", "2.jsonl")

    assert [first.returncode, second.returncode] == [3, 0]
    assert [record["line"] for record in records(tmp_path / "errors.jsonl")] == [2, 3]
    assert healthy.received == 1


@pytest.mark.parametrize("format_", ["openai-batch", "anthropic-batch"])
def test_batch_records_are_made_of_cached_replies(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, format_: str
) -> None:
    """With the whole reply."""
    server = start_mock()
    messages = {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    name = "params" if format_ == "anthropic-batch" else "body"
    (tmp_path / "prompts.jsonl").write_bytes(orjson.dumps({"custom_id": "a", name: {"model": "m", **messages}}))
    url = f"{server.url},kind={'anthropic' if name == 'params' else 'openai'}"
    for output in ("1.jsonl", "2.jsonl"):
        done = llmblast("run", "prompts.jsonl", "-u", url, "--cache", "c.db", "-o", output)
        assert done.returncode == 0, done.stderr

    (first,), (second,) = records(tmp_path / "1.jsonl"), records(tmp_path / "2.jsonl")
    assert server.received == 1
    if name == "body":
        first["response"]["request_id"] = f"req_{first['key']}_1"  # made up, where no reply names one
    assert second == {**first, "cached": True}


def test_several_runs_share_a_cache_at_the_same_time(
    tmp_path: Path, start_mock: StartMock, environment: dict[str, str]
) -> None:
    """Each has all its records, and the file is sound."""
    server = start_mock("latency=0.01")
    write_prompts(tmp_path / "prompts.jsonl", 1000)
    command = [*LLMBLAST, "run", "prompts.jsonl", "-q", "-u", server.url, *MODEL, "--cache", "c.db", "-o"]
    runs = [
        subprocess.Popen([*command, f"{n}.jsonl"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
        for n in range(4)
    ]

    ends = [(run.communicate(timeout=60)[1], run.returncode) for run in runs]

    assert ends == [("", 0)] * 4
    assert all(len(records(tmp_path / f"{n}.jsonl")) == 1000 for n in range(4))
    before = server.received
    last = subprocess.run([*command, "5.jsonl"], cwd=tmp_path, env=environment, check=False)
    assert last.returncode == 0
    assert server.received == before


@pytest.mark.parametrize(
    ("cache", "words"),
    [
        ("foreign.db", "--cache foreign.db: is not a cache of llmblast, or is damaged: remove it or name another file"),
        ("prompts.jsonl", "--cache prompts.jsonl: is also the input or an output: name another file"),
        ("save.jsonl", "--cache save.jsonl: is also the input or an output: name another file"),
        (".", "--cache .: is not a file"),
        ("no/c.db", "--cache no/c.db: cannot be opened: No such file or directory"),
        ("-", "--cache -: is not a file"),
    ],
)
def test_a_file_that_is_no_cache_is_a_usage_error(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, cache: str, words: str
) -> None:
    """Before anything is sent."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 3)
    (tmp_path / "foreign.db").write_bytes(b"something else\n" * 100)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--cache", cache)

    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert server.received == 0


def test_a_key_that_a_reply_repeats_is_in_no_cache(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """What is kept is what the record has."""
    text = orjson.dumps({"choices": [{"message": {"content": f"it is {CANARY}"}, "finish_reason": "stop"}]})
    server = start_mock(script=lambda index, body: ScriptedReply(200, text))
    write_prompts(tmp_path / "prompts.jsonl", 3)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--cache", "c.db")

    assert done.returncode == 0, done.stderr
    assert all(CANARY.encode() not in path.read_bytes() for path in tmp_path.iterdir())


def test_each_line_is_answered_several_times(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Each with a seed of its own, which follows that of the line or of the run."""
    server = start_mock()
    lines = ['{"id": "a", "input": "hi"}', '{"id": "b", "messages": [{"role": "user", "content": "x"}], "seed": 40}']
    (tmp_path / "prompts.jsonl").write_text("\n".join([*lines, "not json"]))

    done = llmblast("run", "prompts.jsonl", "-u", server.url, *MODEL, "--repeat", "3")

    saved = records(tmp_path / "save.jsonl")
    assert done.returncode == 3, done.stderr
    assert Counter((record["id"], record["repeat"]) for record in saved) == Counter(
        {(name, repeat): 1 for name in "ab" for repeat in (1, 2, 3)}
    )
    assert len({(record["id"], record["key"]) for record in saved}) == 2
    assert list(saved[0])[:3] == ["key", "line", "repeat"]
    assert sorted(orjson.loads(arrival.body)["seed"] for arrival in server.ledger) == [1, 2, 3, 40, 41, 42]
    assert [record["line"] for record in records(tmp_path / "errors.jsonl")] == [3]
    assert "3 read, 4 repeats, 6 answered, 1 failed (1 bad line)" in done.stderr


def test_repeats_go_on_where_they_stopped(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Those that are missing are sent, by their number, whichever these are; more may be asked for later."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 20)
    command = ("run", "prompts.jsonl", "-u", server.url, *MODEL, "--repeat")
    llmblast(*command, "4")
    lines = (tmp_path / "save.jsonl").read_bytes().splitlines(keepends=True)
    Random(1).shuffle(lines)
    (tmp_path / "save.jsonl").write_bytes(b"".join(lines[:30]))

    done = llmblast(*command, "4")
    more = llmblast(*command, "6")

    assert [done.returncode, more.returncode] == [0, 0], done.stderr + more.stderr
    assert server.received == 80 + 50 + 40
    counted = Counter((record["line"], record["repeat"]) for record in records(tmp_path / "save.jsonl"))
    assert counted == Counter({(line, repeat): 1 for line in range(1, 21) for repeat in range(1, 7)})


def test_failed_repeats_are_tried_again_by_themselves(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """The answer to one repeat does not finish another."""
    failing = start_mock(
        script=lambda index, body: ScriptedReply(500, b"{}") if b'"seed":2' in body else None,
    )
    healthy = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 5)
    command = ("run", "prompts.jsonl", *MODEL, "--repeat", "3", "-a", "1", "-u")
    first = llmblast(*command, failing.url)
    assert first.returncode == 3
    assert {record["repeat"] for record in records(tmp_path / "errors.jsonl")} == {2}

    done = llmblast(*command, healthy.url)

    assert done.returncode == 0, done.stderr
    assert [orjson.loads(arrival.body)["seed"] for arrival in healthy.ledger] == [2] * 5
    assert records(tmp_path / "errors.jsonl") == []


def test_repeats_differ_in_the_cache(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Also at an API without seeds, where all have one body."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 5)
    url = f"{server.url},kind=anthropic"
    command = ("run", "prompts.jsonl", "-u", url, *MODEL, "--repeat", "3", "--cache", "c.db", "-o")

    first = llmblast(*command, "1.jsonl")
    second = llmblast(*command, "2.jsonl")

    assert [first.returncode, second.returncode] == [0, 0], first.stderr + second.stderr
    assert server.received == 15
    answers = [
        {(record["line"], record["repeat"]): record["response"] for record in records(tmp_path / f"{n}.jsonl")}
        for n in (1, 2)
    ]
    assert answers[0] == answers[1]
    assert len(answers[0]) == 15


def test_repeats_count_for_a_limit_of_lines_and_in_a_check(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """`--limit` counts lines; `check` counts what will be sent."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 200)
    command = ("prompts.jsonl", "--repeat", "3", "--limit", "100")
    before = llmblast("check", *command, "--json")
    llmblast("run", *command, "-u", server.url, *MODEL)
    after = llmblast("check", *command, "--json")

    assert server.received == 300
    assert [orjson.loads(done.stdout)["lines"]["to_send"] for done in (before, after)] == [300, 0]


def test_plain_answers_do_not_mix_with_repeated_ones(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Their seeds make them another kind of answer, unless a person wants that."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 3)
    command = ("run", "prompts.jsonl", "-u", server.url, *MODEL)
    llmblast(*command)

    done = llmblast(*command, "--repeat", "2")

    assert done.returncode == 2
    assert "repeat was not set, is 'true'" in done.stderr


async def test_the_library_has_all_three(start_mock: StartMock, tmp_path: Path) -> None:
    """With typed results; a cache may be shared with the command line."""
    server = start_mock()
    options = {"endpoints": server.url, "model": "m", "cache": tmp_path / "c.db", "repeat": 2}

    first = await library.run_async(["a", "b", "a"], **options)  # type: ignore[arg-type] # options of the test
    second = await library.run_async(["a", "b"], **options)  # type: ignore[arg-type]

    assert server.received == 4
    assert [(r.index, r.repeat, r.cached, r.endpoint is None) for r in second.results] == [
        (0, 1, True, True),
        (0, 2, True, True),
        (1, 1, True, True),
        (1, 2, True, True),
    ]
    assert sum(result.cached for result in first.results) == 2


@pytest.mark.parametrize("seed", range(3))
def test_a_run_with_a_cache_killed_at_random_loses_and_repeats_nothing(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, llmblast: RunLlmblast, seed: int
) -> None:
    """Kill -9 several times: each line and repeat has one record, the cache is sound, and knows most answers."""
    server = start_mock("latency=0.01")
    random = Random(seed)
    write_lines(tmp_path / "prompts.jsonl", [f"Question {n % 700}?" for n in range(1000)])
    arguments = ("-u", server.url, *MODEL, "-j", "50", "--cache", "c.db", "--repeat", "2")
    for _ in range(4):
        process = start_run(tmp_path, environment, "prompts.jsonl", *arguments)
        wait_for_requests(server, server.received + random.randint(1, 250), process)
        process.kill()
        process.communicate()

    done = llmblast("run", "prompts.jsonl", *arguments)

    assert done.returncode == 0, done.stderr
    counted = Counter((record["line"], record["repeat"]) for record in records(tmp_path / "save.jsonl"))
    assert counted == Counter({(line, repeat): 1 for line in range(1, 1001) for repeat in (1, 2)})
    assert records(tmp_path / "errors.jsonl") == []
    before = server.received
    again = llmblast("run", "prompts.jsonl", *arguments, "-o", "again.jsonl")
    assert again.returncode == 0, again.stderr
    assert len(records(tmp_path / "again.jsonl")) == 2000
    assert server.received - before <= 4 * 250


def test_an_equal_line_waits_for_the_one_in_flight(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """However long that takes; after its retries, too."""
    server = start_mock(script=lambda index, body: None if index else ScriptedReply(500, b"{}", delay_s=0.2))
    write_lines(tmp_path / "prompts.jsonl", ["same"] * 3000)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, *MODEL, "--dedupe")

    assert done.returncode == 0, done.stderr
    assert server.received == 2
    assert sorted(record["line"] for record in records(tmp_path / "save.jsonl")) == list(range(1, 3001))


SUBMARINE = ScriptedReply(
    body=b'{"model":"m","choices":[{"message":{"content":"a submarine"},"finish_reason":"stop"}]}'
)


def test_three_equal_lines_of_many_are_one_request(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """And three records."""
    server = start_mock("latency=0")
    lines = [f"Question {n}?" for n in range(10_000)]
    lines[5000] = lines[9999] = lines[17]
    write_lines(tmp_path / "prompts.jsonl", lines)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, *MODEL, "--dedupe")

    assert done.returncode == 0, done.stderr
    assert server.received == 9998
    saved = {record["line"]: record["response"] for record in records(tmp_path / "save.jsonl")}
    assert len(saved) == 10_000
    assert saved[18] == saved[5001] == saved[10_000]


def test_equal_lines_share_a_failure_and_are_tried_again_together(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """None is lost, none is sent by itself, with repeats neither; the next run sends one request for all."""
    failing = start_mock(script=lambda index, body: ScriptedReply(400, b"{}") if b"bad" in body else None)
    healthy = start_mock("latency=0")
    write_lines(tmp_path / "prompts.jsonl", ["bad", "good", "bad", "bad", "good"] * 20)
    command = ("run", "prompts.jsonl", *MODEL, "--dedupe", "--repeat", "2", "-a", "3", "-u")

    first = llmblast(*command, failing.url)
    failed = records(tmp_path / "errors.jsonl")
    done = llmblast(*command, healthy.url, "--retry-errors", "all")

    assert (first.returncode, done.returncode) == (3, 0), first.stderr + done.stderr
    assert failing.received == 4
    assert Counter((record["line"], record["repeat"]) for record in failed) == Counter(
        {(line, repeat): 1 for line in range(1, 101) if line % 5 not in (2, 0) for repeat in (1, 2)}
    )
    assert healthy.received == 2
    counted = Counter((record["line"], record["repeat"]) for record in records(tmp_path / "save.jsonl"))
    assert counted == Counter({(line, repeat): 1 for line in range(1, 101) for repeat in (1, 2)})


def test_a_run_that_sends_equal_lines_once_goes_on_after_kill(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Lines that waited for an answer when the run was killed have theirs in the end, and each has one."""
    server = start_mock("latency=0.02")
    write_lines(tmp_path / "prompts.jsonl", [f"Question {n % 300}?" for n in range(3000)])
    arguments = ("-u", server.url, *MODEL, "-j", "20", "--dedupe")
    for seen in (40, 120, 200):
        process = start_run(tmp_path, environment, "prompts.jsonl", *arguments)
        wait_for_requests(server, seen, process)
        process.kill()
        process.communicate()

    done = llmblast("run", "prompts.jsonl", *arguments)

    assert done.returncode == 0, done.stderr
    assert Counter(record["line"] for record in records(tmp_path / "save.jsonl")) == Counter(range(1, 3001))
    assert server.received <= 200 + 3 * 20 + 300


@pytest.mark.parametrize(
    ("check", "fits"), [(("--expect-regex", "ship"), True), (("--expect-command", "grep -q submarine"), False)]
)
def test_answers_of_the_cache_are_checked_again(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, check: tuple[str, str], fits: bool
) -> None:
    """What does not fit is a miss: the fresh answer is kept instead."""
    old, new = start_mock("latency=0"), start_mock(script=lambda index, body: SUBMARINE)
    write_lines(tmp_path / "prompts.jsonl", [f"Count the ships of fleet {n}" for n in range(20)])
    command = ("run", "prompts.jsonl", *MODEL, "--cache", "c.db", "-u")
    llmblast(*command, old.url, "-o", "1.jsonl")

    second = llmblast(*command, new.url, "-o", "2.jsonl", *check)
    third = llmblast(*command, new.url, "-o", "3.jsonl", *check)

    assert (second.returncode, third.returncode) == (0, 0), second.stderr + third.stderr
    assert new.received == (0 if fits else 20)
    assert len(records(tmp_path / "3.jsonl")) == 20
