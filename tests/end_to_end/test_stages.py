"""Runs with [[stage]] tables: real processes, from the first line to the last stage's record."""

import fcntl
import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmblast.mocking.server import ScriptedReply
from tests.conftest import LLMBLAST, RunLlmblast, StartMock, records, unmeasured, write_prompts
from tests.processes import start_run, wait_for_requests

HEAD_ENDS_WITHIN_S = 30
"""Under load; without any it takes a quarter of a second."""


def write_stages(tmp_path: Path, *urls: str, above: str = "", judge: str = "", draft: str = "") -> str:
    """Two stages, each with an endpoint."""
    first, second = urls if len(urls) == 2 else urls * 2
    (tmp_path / "judge.toml").write_text(
        f'model = "m"\n{above}\n'
        f'[[stage]]\nname = "draft"\nendpoints = ["{first}"]\n{draft}\n'
        f'[[stage]]\nname = "judge"\nendpoints = ["{second}"]\nprompt = "Judge: {{response}}"\n{judge}\n'
    )
    return "judge.toml"


def rejecting(text: bytes, status: int = 400) -> Any:
    """A script of a mock that rejects requests with a text in them."""
    return lambda index, body: ScriptedReply(status, b'{"error": {"message": "no"}}') if text in body else None


def test_each_answer_goes_to_the_next_stage(tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock) -> None:
    """Its record is joined to that of the line by id and line number, and has the answer and own fields in it."""
    lines = [{"id": f"row-{n}", "input": f"Question {n}?", "team": n} for n in range(50)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(map(orjson.dumps, [*lines, {"input": "same"}, {"input": "same"}])))

    done = llmblast("run", "--config", write_stages(tmp_path, start_mock().url), "a.jsonl")

    drafts = {record["line"]: record for record in records(tmp_path / "draft.jsonl")}
    judged = {record["line"]: record for record in records(tmp_path / "judge.jsonl")}
    assert done.returncode == 0, done.stderr
    assert drafts.keys() == judged.keys() == set(range(1, 53))
    for line, record in judged.items():
        draft = drafts[line]
        assert record["input"] == f"Judge: {draft['response']}"
        assert record["fields"]["response"] == draft["response"]
        assert (record["id"], record.get("team")) == (draft["id"], draft.get("team"))
    assert len({record["key"] for record in judged.values()}) == 52
    assert "stage draft\nfinished: every line has its answer" in done.stderr
    assert "stage judge\nfinished: every line has its answer" in done.stderr
    assert done.stderr.rstrip().endswith("next: jq -r .response judge.jsonl")


def test_the_second_stage_starts_while_the_first_one_runs(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """And a slow second one does not hold up the first."""
    first, second = start_mock(), start_mock("latency=30")
    write_prompts(tmp_path / "a.jsonl", 3000)
    config = write_stages(tmp_path, first.url, second.url, draft="rps = 100", judge="concurrency = 1")
    process = start_run(tmp_path, environment, "-c", config, "a.jsonl", "-q", "--grace", "0")
    wait_for_requests(second, 1, process)
    already = first.received
    wait_for_requests(first, already + 50, process)

    process.send_signal(signal.SIGINT)
    process.communicate()

    assert already < 1000
    assert second.received == 1
    assert process.returncode == 130


def test_the_same_command_goes_on(tmp_path: Path, environment: dict[str, str], start_mock: StartMock) -> None:
    """Ctrl-C ends both stages; nothing that has a record is sent again."""
    server = start_mock("latency=0.02")
    write_prompts(tmp_path / "a.jsonl", 300)
    config = write_stages(tmp_path, server.url, draft="rps = 300", judge="rps = 100")
    process = start_run(tmp_path, environment, "-c", config, "a.jsonl")
    wait_for_requests(server, 100, process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()

    again = start_run(tmp_path, environment, "-c", config, "a.jsonl")
    _, stderr_again = again.communicate()

    assert (process.returncode, again.returncode) == (130, 0), stderr + stderr_again
    assert stderr.rstrip().endswith("next: llmblast run -c judge.toml a.jsonl")
    assert "stage draft\ninterrupted" in stderr
    assert "stage judge\ninterrupted" in stderr
    for name in ("draft", "judge"):
        assert sorted(record["line"] for record in records(tmp_path / f"{name}.jsonl")) == list(range(1, 301))
    assert server.received == 600


def test_a_line_that_fails_in_the_first_stage_gets_no_further(
    tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock
) -> None:
    """It is counted; once it has an answer, that goes on. Nothing else is sent again."""
    write_prompts(tmp_path / "a.jsonl", 20)
    failing = start_mock(script=rejecting(b"Question 7?"))
    server = start_mock()

    first = llmblast("run", "-c", write_stages(tmp_path, failing.url, server.url), "a.jsonl")
    count = server.received
    config = write_stages(tmp_path, server.url)
    second = llmblast("run", "-c", config, "a.jsonl", "--retry-errors", "all", "--json", "-q")

    summary = orjson.loads(second.stdout)
    assert first.returncode == 3
    assert "stage judge: 1 line has no answer in stage draft\nfinished: every line has its answer" in first.stderr
    assert count == 19
    assert second.returncode == 0, second.stderr
    assert server.received - count == 2
    assert [(stage["name"], stage["exit_code"], stage["lines"]["answered"]) for stage in summary["stages"]] == [
        ("draft", 0, 1),
        ("judge", 0, 1),
    ]
    assert summary["exit_code"] == 0
    assert len(records(tmp_path / "judge.jsonl")) == 20


def test_records_of_the_first_stage_that_are_lost_are_asked_again_with_the_same_keys(
    tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock
) -> None:
    """As after a power cut: the second stage has had them already, and sends nothing. The order does not count."""
    server = start_mock()
    write_prompts(tmp_path / "a.jsonl", 20)
    config = write_stages(tmp_path, server.url)
    llmblast("run", "-c", config, "a.jsonl", "-q")
    lines = (tmp_path / "draft.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "draft.jsonl").write_bytes(b"".join(reversed(lines[:15])) + lines[15][:40])
    count = server.received

    done = llmblast("run", "-c", config, "a.jsonl", "-q")

    assert done.returncode == 0, done.stderr
    assert server.received - count == 5
    assert len(records(tmp_path / "draft.jsonl")) == len(records(tmp_path / "judge.jsonl")) == 20


def test_three_stages_with_a_schema_and_repeats(tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock) -> None:
    """`{parsed.score}`, `{fields.response}` and the repeats of a line are there for later stages."""
    pytest.importorskip("jsonschema_rs")
    url = start_mock().url
    write_prompts(tmp_path / "a.jsonl", 5)
    schema = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}
    (tmp_path / "score.json").write_bytes(orjson.dumps(schema))
    config = write_stages(
        tmp_path,
        url,
        above="repeat = 3",
        judge=f'schema = "score.json"\n[[stage]]\nname = "last"\nendpoints = ["{url}"]\n'
        'prompt = "{parsed.score} for {fields.response}"',
    )

    done = llmblast("run", "-c", config, "a.jsonl", "-q")
    again = llmblast("run", "-c", config, "a.jsonl", "--json", "-q")

    judged = {record["key"]: record for record in records(tmp_path / "judge.jsonl")}
    last = records(tmp_path / "last.jsonl")
    assert done.returncode == 0, done.stderr
    assert len(last) == len(judged) == 15
    for record in last:
        before = judged[record["fields"]["key"]]
        assert record["input"] == f"{before['parsed']['score']} for {before['fields']['response']}"
    assert [stage["requests"]["sent"] for stage in orjson.loads(again.stdout)["stages"]] == [0, 0, 0]


def test_batch_lines_have_the_same_stages(tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock) -> None:
    """The next stage finds `response` in their records, too; their custom_id goes along."""
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    line = {"custom_id": "x-1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (tmp_path / "batch.jsonl").write_bytes(orjson.dumps(line))

    done = llmblast("run", "-c", write_stages(tmp_path, start_mock().url), "batch.jsonl", "-q")

    (draft,), (judged,) = records(tmp_path / "draft.jsonl"), records(tmp_path / "judge.jsonl")
    assert done.returncode == 0, done.stderr
    assert (judged["id"], judged["input"]) == ("x-1", f"Judge: {draft['response']}")


def test_answers_that_say_more_than_their_text_go_on(
    tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock
) -> None:
    """Their records have a body, without the input, too."""
    write_prompts(tmp_path / "a.jsonl", 3)
    config = write_stages(tmp_path, start_mock().url, draft='body = "always"\necho = false')

    done = llmblast("run", "-c", config, "a.jsonl", "-q")

    assert done.returncode == 0, done.stderr
    assert all(record["input"].startswith("Judge: ") for record in records(tmp_path / "judge.jsonl"))


def test_a_stage_that_gives_up_ends_all(tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock) -> None:
    """Nothing more is paid for, before it or behind it."""
    first = start_mock("latency=0.01")
    second = start_mock(script=lambda index, body: ScriptedReply(400, b"{}") if index % 2 else None)
    write_prompts(tmp_path / "a.jsonl", 2000)
    config = write_stages(tmp_path, first.url, second.url, draft="rps = 200", judge='max_errors = "3"')

    done = llmblast("run", "-c", config, "a.jsonl")

    assert done.returncode == 4
    assert "stage draft\nstopped, because stage judge has ended" in done.stderr
    assert first.received < 2000


def test_a_stage_that_is_refused_leaves_the_others_going(
    tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock
) -> None:
    """What the first one pays for is saved, and the second one goes on with it later. That is said at once."""
    server = start_mock()
    refusing = start_mock(script=lambda index, body: ScriptedReply(401, b"{}"))
    write_prompts(tmp_path / "a.jsonl", 50)
    third = '[[stage]]\nname = "last"\nprompt = "{response}"\nendpoints = ["mock:"]'

    done = llmblast("run", "-c", write_stages(tmp_path, server.url, refusing.url, judge=third), "a.jsonl")
    again = llmblast("run", "-c", write_stages(tmp_path, server.url, judge=third), "a.jsonl", "-q")

    assert done.returncode == 77
    assert done.stderr.startswith("judge: all endpoints rejected the requests")
    assert "stage draft\nfinished: every line has its answer" in done.stderr
    assert done.stderr.rstrip().endswith("next: llmblast run -c judge.toml a.jsonl")
    assert again.returncode == 0, again.stderr
    assert server.received == 100
    assert len(records(tmp_path / "last.jsonl")) == 50


def test_head_ends_all_stages(tmp_path: Path, environment: dict[str, str], start_mock: StartMock) -> None:
    """Quietly, and the next run goes on."""
    write_prompts(tmp_path / "a.jsonl", 5000)
    server = start_mock("latency=0.01")
    config = write_stages(tmp_path, server.url, draft="rps = 100")
    command = f"{' '.join(LLMBLAST)} run -c {config} a.jsonl -o - | head -5"

    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=tmp_path,
        env=unmeasured(environment),
        capture_output=True,
        text=True,
        timeout=HEAD_ENDS_WITHIN_S,
        check=False,
    )

    assert done.returncode == 141
    assert len(done.stdout.splitlines()) == 5
    assert done.stderr.startswith("llmblast: judge: standard output: its reader has closed it")
    assert len(done.stderr.splitlines()) == 1
    assert len(records(tmp_path / "draft.jsonl")) < 5000


@pytest.mark.parametrize("locked", ["draft.jsonl", "judge.jsonl", "judge.errors.jsonl"])
def test_a_locked_output_of_any_stage_stops_the_run(
    tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock, locked: str
) -> None:
    """Before anything is sent or created."""
    server = start_mock()
    write_prompts(tmp_path / "a.jsonl", 3)
    with (tmp_path / locked).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        done = llmblast("run", "-c", write_stages(tmp_path, server.url), "a.jsonl")

    assert done.returncode == 73
    assert done.stderr.startswith(f"llmblast: stage {locked[:5].strip('.')}: {locked}: another run is")
    assert server.received == 0


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"draft": 'save = "x.jsonl"', "judge": 'save = "./x.jsonl"'}, "stage judge: ./x.jsonl: is also the input"),
        ({"draft": 'errors = "x.jsonl"', "judge": 'save = "x.jsonl"'}, "x.jsonl: is an output of the stages draft and"),
        ({"judge": 'errors = "draft.jsonl.settings"'}, "is an output of the stages draft and judge: name two files"),
        ({"judge": 'save = "a.jsonl"'}, "a.jsonl: is also the input"),
        ({"judge": 'schema = "none.json"'}, "stage judge: "),
        ({"judge": 'endpoints = ["https://api.openai.com/v1"]'}, "judge.toml: not TOML: Cannot overwrite a value"),
    ],
)
def test_settings_that_do_not_fit_together(
    tmp_path: Path, llmblast: RunLlmblast, stages: dict[str, str], message: str
) -> None:
    """They are found before anything is sent."""
    write_prompts(tmp_path / "a.jsonl", 3)

    done = llmblast("run", "-c", write_stages(tmp_path, "mock:", **stages), "a.jsonl")

    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "draft.jsonl").exists()


def test_check_finds_a_field_that_no_record_will_have(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """Before the first stage is paid for; and it knows what is done."""
    write_prompts(tmp_path / "a.jsonl", 3)
    config = write_stages(tmp_path, "mock:", judge='system = "As a {role}"')

    bad = llmblast("check", "-c", config, "a.jsonl")
    good = llmblast("check", "-c", write_stages(tmp_path, "mock:"), "a.jsonl")
    llmblast("run", "-c", config, "a.jsonl", "--limit", "2", "-q")
    again = llmblast("run", "-c", write_stages(tmp_path, "mock:"), "a.jsonl", "--dry-run", "--json")

    assert bad.returncode == 3
    assert 'stage judge: a.jsonl:3:1: it has no field "role", which --system names: it has: key,' in bad.stdout
    assert good.returncode == 0, good.stdout
    assert "stage judge\nlines     3 read, 3 good, 0 bad" in good.stdout
    told = [(stage["name"], stage["lines"]["to_send"]) for stage in orjson.loads(again.stdout)["stages"]]
    assert told == [("draft", 1), ("judge", 1)]


def test_check_does_not_judge_what_depends_on_an_answer(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """No made-up answer has the values of a real one."""
    write_prompts(tmp_path / "a.jsonl", 3)
    config = write_stages(tmp_path, "mock:", draft='expect = "json"', judge='system = "{parsed.score}"')

    done = llmblast("check", "-c", config, "a.jsonl")

    assert done.returncode == 0, done.stdout


def test_the_endpoints_of_all_stages_are_checked(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """With the name of the stage before theirs."""
    done = llmblast("check", "--endpoints", "-c", write_stages(tmp_path, "mock:"))

    assert done.returncode == 0, done.stdout
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["draft/mock", "ok,"], ["judge/mock", "ok,"]]


def test_the_settings_that_are_shown_make_the_same_run(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """As for a run without stages."""
    config = write_stages(tmp_path, "mock:", above="limit = 3\nrps = 4")

    shown = llmblast("config", "show", "-c", config)
    (tmp_path / "shown.toml").write_text(shown.stdout)
    again = llmblast("config", "show", "-c", "shown.toml")

    assert shown.returncode == 0, shown.stderr
    assert again.stdout == shown.stdout
    assert "limit = 3" in shown.stdout


def test_a_terminal_shows_a_line_for_each_stage(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """And SIGUSR1 prints them anywhere."""
    server = start_mock("latency=0.02")
    write_prompts(tmp_path / "a.jsonl", 100)
    config = write_stages(tmp_path, server.url, draft="rps = 50")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*LLMBLAST, "run", "-c", config, "a.jsonl"], cwd=tmp_path, env=unmeasured(environment), stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while data := os.read(ours, 65536):
                shown += data
        except OSError:  # the terminal's other end is closed
            pass
    os.close(ours)

    assert process.returncode == 0
    assert b"draft  00:0" in shown
    assert b"judge  00:0" in shown


def test_a_status_signal_shows_each_stage(tmp_path: Path, environment: dict[str, str], start_mock: StartMock) -> None:
    """With its name."""
    server = start_mock("latency=0.02")
    write_prompts(tmp_path / "a.jsonl", 200)
    config = write_stages(tmp_path, server.url, draft="rps = 100")
    process = start_run(tmp_path, environment, "-c", config, "a.jsonl", "--progress", "none")
    wait_for_requests(server, 10, process)
    process.send_signal(signal.SIGUSR1)
    _, stderr = process.communicate()

    assert process.returncode == 0
    assert [line.split()[0] for line in stderr.splitlines()[:2]] == ["draft", "judge"]


def test_stages_are_not_for_a_run_of_one(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """A misspelt table is named, too."""
    (tmp_path / "stages.toml").write_text('[[stages]]\nprompt = "x"')

    done = llmblast("run", "-c", "stages.toml", "-u", "mock:", stdin="")

    assert done.returncode == 2
    assert "stages.toml: unknown setting stages: write [[stage]]" in done.stderr
