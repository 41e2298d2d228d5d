"""Answers that can be trusted: checks, repairs, escalation and the canary, in real processes against a real server."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

import llmblast as library
from llmblast.errors import GaveUpError, UsageError
from llmblast.mocking.server import ScriptedReply
from tests.conftest import RunLlmblast, StartMock, records, write_prompts, write_requests
from tests.processes import start_run, wait_for_requests

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "size": {"type": "integer"}},
    "required": ["name", "size"],
    "additionalProperties": False,
}
GOOD = '{"name": "Rome", "size": 3}'
ASSISTANT = b'"role":"assistant"'


def reply(text: str | None, finish_reason: str = "stop", **message: object) -> ScriptedReply:
    choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 10, "completion_tokens": 3}
    return ScriptedReply(body=orjson.dumps({"model": "m", "choices": [choice], "usage": usage}))


class Script:
    """Replies as `say` tells for the body of a request, and keeps all bodies."""

    def __init__(self, say: Callable[[bytes], ScriptedReply]) -> None:
        self._say = say
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, index: int, body: bytes) -> ScriptedReply:
        self.bodies.append(orjson.loads(body))
        return self._say(body)


def write_schema(tmp_path: Path, schema: object = SCHEMA) -> None:
    (tmp_path / "schema.json").write_bytes(orjson.dumps(schema))


def summary_of(stdout: str) -> dict[str, Any]:
    return dict(orjson.loads(stdout))


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_answers_that_do_not_fit_are_repaired(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, kind: str
) -> None:
    """One in five is broken: in the end all are valid, and the repairs are counted apart."""
    server = start_mock("latency=0&invalid=0.2")
    write_prompts(tmp_path / "prompts.jsonl", 1000)
    write_schema(tmp_path)

    done = llmblast("run", "prompts.jsonl", "-u", f"{server.url},kind={kind}", "--schema", "schema.json", "--json")

    assert done.returncode == 0, done.stderr
    saved, summary = records(tmp_path / "save.jsonl"), summary_of(done.stdout)
    assert sorted(record["line"] for record in saved) == list(range(1, 1001))
    assert all(record["parsed"].keys() == {"name", "size"} for record in saved)
    assert all(json.loads(record["response"]) == record["parsed"] for record in saved)
    repaired = [record for record in saved if "repairs" in record]
    assert all((record["repairs"], record["attempts"]) == (1, 2) for record in repaired)
    assert all(record["invalid_usage"]["completion_tokens"] > 0 for record in repaired)
    assert len(repaired) == 200
    answers = summary["answers"]
    assert (answers["invalid"], answers["repairs"], answers["escalated"]) == (len(repaired), len(repaired), 0)
    assert answers["invalid_prompt_tokens"] == sum(record["invalid_usage"]["prompt_tokens"] for record in repaired)
    assert summary["requests"]["sent"] == 1000 + len(repaired)
    assert (summary["requests"]["retries"], summary["endpoints"][0]["errors"]) == (0, 0)


def test_without_repairs_each_answer_that_does_not_fit_is_an_error(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """With its body; the next run does not ask again unless told to."""
    server = start_mock("latency=0&invalid=0.2")
    write_prompts(tmp_path / "prompts.jsonl", 1000)
    write_schema(tmp_path)
    command = ("run", "prompts.jsonl", "-u", server.url, "--schema", "schema.json", "--repair", "0")

    first, second = llmblast(*command), llmblast(*command)

    assert (first.returncode, second.returncode) == (3, 3), first.stderr
    saved, failed = records(tmp_path / "save.jsonl"), records(tmp_path / "errors.jsonl")
    assert (len(saved), len(failed), len(server.ledger)) == (800, 200, 1000)
    assert {(record["code"], record["status"], record["transient"]) for record in failed} == {
        ("invalid_answer", 200, False)
    }
    assert all(record["body"]["choices"][0]["message"]["content"] for record in failed)
    assert all("not JSON" in record["error"] for record in failed)


def test_answers_without_a_text_are_a_mistake_before_anything_is_sent(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """No check could pass: `check` says so, and a run pays for none of them."""
    server = start_mock()
    lines = [{"custom_id": "a", "url": "/v1/embeddings", "body": {"input": "Hi"}}, {"input": "Hi"}]
    (tmp_path / "prompts.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    options = ("prompts.jsonl", "-u", server.url, "-m", "m", "--expect-regex", "")

    checked, done = llmblast("check", *options), llmblast("run", *options)

    reason = "prompts.jsonl:1:1: answers of embeddings have no text to check: send such lines in a run without checks"
    assert reason in checked.stdout + checked.stderr
    assert (done.returncode, server.received) == (3, 1), done.stderr
    (failed,) = records(tmp_path / "errors.jsonl")
    assert (failed["code"], failed["id"], failed["error"]) == ("bad_line", "a", reason)


def test_answers_that_are_broken_at_random_need_more_repairs(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Where a repair is as likely to be broken as a first answer, two leave 0.2^3 of the lines, and six leave none."""
    (tmp_path / "faults.toml").write_text('[[fault]]\nkind = "broken-json"\nshare = 0.2\n')
    server = start_mock(f"latency=0&faults={tmp_path / 'faults.toml'}")
    write_prompts(tmp_path / "prompts.jsonl", 1000)
    write_schema(tmp_path)
    command = ("run", "prompts.jsonl", "-u", server.url, "--schema", "schema.json")

    two, six = llmblast(*command, "-o", "two.jsonl"), llmblast(*command, "-o", "six.jsonl", "--repair", "6")

    assert (two.returncode, six.returncode) == (3, 0), two.stderr + six.stderr
    assert 0 < len(records(tmp_path / "two.errors.jsonl")) <= 20
    assert len(records(tmp_path / "six.jsonl")) == 1000


def test_a_repair_has_the_answer_and_the_reason_in_it(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Each time the last answer only, behind the messages of the line; then the line fails."""
    script = Script(lambda body: reply('{"name": 5}'))
    server = start_mock(script=script)
    write_requests(tmp_path / "prompts.jsonl", ["Which town?"])
    write_schema(tmp_path)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--schema", "schema.json", "--repair", "3")

    assert done.returncode == 3
    assert "3 repairs, 4 invalid answers, 40 + 12 tokens for these" in done.stderr
    first, *repairs = script.bodies
    assert first["response_format"]["json_schema"] == {"name": "answer", "schema": SCHEMA, "strict": True}
    assert len(repairs) == 3
    for body in repairs:
        question, answer, reason = body["messages"]
        assert question == {"role": "user", "content": "Which town?"}
        assert answer == {"role": "assistant", "content": '{"name": 5}'}
        assert '5 is not of type "string"' in reason["content"]
        assert body["response_format"] == first["response_format"]
    (record,) = records(tmp_path / "errors.jsonl")
    assert (record["code"], record["attempts"], record["repairs"]) == ("invalid_answer", 4, 3)
    assert record["input"] == record["request"] == {"messages": [{"role": "user", "content": "Which town?"}]}
    assert record["invalid_usage"] == {"prompt_tokens": 40, "completion_tokens": 12}


def test_a_repair_keeps_to_the_limits(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """It is a request like any other: a strict server rejects none."""
    script = Script(lambda body: reply(GOOD if ASSISTANT in body else "no"))
    server = start_mock("latency=0&rps=40", script=script)
    write_prompts(tmp_path / "prompts.jsonl", 20)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--expect", "json", "--rps", "40", "--json")

    summary = summary_of(done.stdout)
    assert (done.returncode, summary["requests"]["sent"], summary["requests"]["rate_limited"]) == (0, 40, 0)
    assert summary["duration_s"] > 39 / 40


def test_a_repair_that_fails_is_retried_as_any_request(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Its attempts are its own: two failures do not use up those that the first send left."""
    failures = iter([500, 500])

    def say(body: bytes) -> ScriptedReply:
        if ASSISTANT not in body:
            return reply("no")
        return ScriptedReply(status) if (status := next(failures, 0)) else reply(GOOD)

    server = start_mock(script=Script(say))
    write_prompts(tmp_path / "prompts.jsonl", 1)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--expect", "json", "-a", "3")

    assert done.returncode == 0, done.stderr
    (record,) = records(tmp_path / "save.jsonl")
    assert (record["attempts"], record["repairs"]) == (4, 1)


def test_a_line_goes_to_the_endpoint_of_escalate_after_its_repairs(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """With the original request; that endpoint gets no other lines."""
    small, large = Script(lambda body: reply(GOOD if b"easy" in body else "no")), Script(lambda body: reply(GOOD))
    servers = start_mock(script=small), start_mock(script=large)
    write_requests(tmp_path / "prompts.jsonl", [*(f"easy {n}" for n in range(50)), "hard"])

    done = llmblast(
        *("run", "prompts.jsonl", "-u", f"{servers[0].url},name=small", "-u", f"{servers[1].url},name=large"),
        *("--expect", "json", "--repair", "1", "--escalate", "large", "--json"),
    )

    assert done.returncode == 0, done.stderr
    assert large.bodies == [{"messages": [{"role": "user", "content": "hard"}]}]
    assert len(small.bodies) == 52
    last = next(record for record in records(tmp_path / "save.jsonl") if record["line"] == 51)
    assert (last["endpoint"], last["repairs"], last["attempts"]) == ("large", 1, 3)
    assert summary_of(done.stdout)["answers"]["escalated"] == 1


def test_a_line_goes_to_an_endpoint_of_another_api(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """A repair stays with the API that gave the answer, the escalation is rendered for the other one."""
    small = Script(lambda body: reply("no"))
    large = start_mock("latency=0")
    server = start_mock(script=small)
    write_prompts(tmp_path / "prompts.jsonl", 3)
    write_schema(tmp_path)

    done = llmblast(
        *("run", "prompts.jsonl", "-u", f"{large.url},name=large,kind=anthropic", "-u", f"{server.url},name=small"),
        *("--schema", "schema.json", "--repair", "1", "--escalate", "large"),
    )

    assert done.returncode == 0, done.stderr
    assert Counter(len(body["messages"]) for body in small.bodies) == {1: 3, 3: 3}
    assert {record["endpoint"] for record in records(tmp_path / "save.jsonl")} == {"large"}


def test_an_endpoint_in_reserve_keeps_no_run_going(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Where all others reject the key, or cannot be reached, the run ends as without it."""
    rejecting, large = start_mock(script=Script(lambda body: ScriptedReply(401))), start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 100)
    reserve = ("-u", f"{large.url},name=large", "--expect", "json", "--escalate", "large")

    rejected = llmblast("run", "prompts.jsonl", "-u", f"{rejecting.url},name=small", *reserve)
    unreachable = llmblast("run", "prompts.jsonl", "-u", "http://127.0.0.1:9/v1,name=small", *reserve)

    assert (rejected.returncode, unreachable.returncode) == (77, 77), rejected.stderr
    assert "all endpoints rejected the requests: small: HTTP 401" in rejected.stderr
    assert "no endpoint can be reached" in unreachable.stderr
    assert large.received == 0


def test_lines_for_an_endpoint_in_reserve_that_cannot_be_reached_stay_pending(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """All others are answered, and the next run asks again."""
    small = start_mock(script=Script(lambda body: reply(GOOD if b"easy" in body else "no")))
    write_requests(tmp_path / "prompts.jsonl", [*(f"easy {n}" for n in range(50)), "hard"])

    done = llmblast(
        *("run", "prompts.jsonl", "-u", f"{small.url},name=small", "-u", "http://127.0.0.1:9/v1,name=large"),
        *("--expect", "json", "--repair", "0", "--escalate", "large"),
    )

    assert done.returncode == 5, done.stderr
    assert "large is off: " in done.stderr
    assert len(records(tmp_path / "save.jsonl")) == 50
    assert records(tmp_path / "errors.jsonl") == []


def test_a_line_that_names_the_endpoint_in_reserve_goes_there(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """It is the wish of the line. An answer of that endpoint that does not fit is repaired, but not escalated to it."""
    small, large = Script(lambda body: reply(GOOD)), Script(lambda body: reply(GOOD if b"easy" in body else "no"))
    servers = start_mock(script=small), start_mock(script=large)
    lines = [{"input": "easy"}, {"input": "easy", "endpoint": "large"}, {"input": "hard", "endpoint": "large"}]
    (tmp_path / "prompts.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))

    done = llmblast(
        *("run", "prompts.jsonl", "-u", f"{servers[0].url},name=small", "-u", f"{servers[1].url},name=large"),
        *("--expect", "json", "--repair", "1", "--escalate", "large"),
    )

    assert done.returncode == 3, done.stderr
    assert {record["line"]: record["endpoint"] for record in records(tmp_path / "save.jsonl")} == {
        1: "small",
        2: "large",
    }
    (failed,) = records(tmp_path / "errors.jsonl")
    assert (failed["line"], failed["endpoint"], failed["attempts"], failed["repairs"]) == (3, "large", 2, 1)
    assert (len(small.bodies), len(large.bodies)) == (1, 3)


APIS = {
    "openai": "/v1,kind=openai",
    "anthropic": ",kind=anthropic",
    "openai-responses": "/v1/responses,kind=openai-responses",
    "azure": "/openai?api-version=2024-10-21,kind=azure",
    "gemini": ",kind=gemini",
    "vertex": "/v1/projects/p/locations/l,kind=vertex",
    "vertex-anthropic": "/v1/projects/p/locations/l,kind=vertex-anthropic",
    "bedrock": ",kind=bedrock",
}


@pytest.mark.parametrize("kind", APIS)
def test_each_api_repairs_and_goes_to_another_model(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, kind: str
) -> None:
    """The model in the URL or in the body; the schema and the turns in the form of the API."""
    server = start_mock("latency=0&invalid=1")
    write_prompts(tmp_path / "prompts.jsonl", 4)
    write_schema(tmp_path)
    url = f"{server.url.removesuffix('/v1')}{APIS[kind]}"
    command = ("run", "prompts.jsonl", "-u", url, "-m", "small", "--schema", "schema.json")

    repaired = llmblast(*command, "-o", "repaired.jsonl", AWS_BEARER_TOKEN_BEDROCK="k")
    asked = len(server.ledger)
    failed = llmblast(
        *(*command, "-o", "failed.jsonl", "--repair", "0", "--escalate", "large"), AWS_BEARER_TOKEN_BEDROCK="k"
    )

    assert repaired.returncode == 0, repaired.stderr
    assert [record["repairs"] for record in records(tmp_path / "repaired.jsonl")] == [1] * 4
    assert failed.returncode == 3, failed.stderr
    assert asked == 8
    named = [f"{arrival.path} {arrival.body.decode()}" for arrival in server.ledger[asked:]]
    assert sorted("large" in request for request in named) == [False] * 4 + [True] * 4
    assert sorted("small" in request for request in named) == [False] * 4 + [True] * 4


def test_an_api_of_ones_own_is_told_in_the_prompt(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """It has no turns that anybody knows of; another model goes where its template has the model."""
    script = Script(
        lambda body: ScriptedReply(body=b'{"said":"{}"}' if b"cannot be used" in body else b'{"said":"no"}')
    )
    server = start_mock(script=script)
    (tmp_path / "prompts.jsonl").write_text('{"input":"Why?"}\n')
    (tmp_path / "llmblast.toml").write_text(f"""
        model = "small"
        [[endpoints]]
        url = "{server.url}/ask"
        custom.body = {{q = "{{prompt}}", m = "{{model}}"}}
        custom.text = "/said"
    """)

    command = ("run", "prompts.jsonl", "-c", "llmblast.toml", "--expect", "json", "-o")
    done = llmblast(*command, "a.jsonl")
    llmblast(*command, "b.jsonl", "--repair", "0", "--escalate", "large")

    assert done.returncode == 0, done.stderr
    first, again, unrepaired, escalated = script.bodies
    assert first == unrepaired == {"q": "Why?", "m": "small"}
    assert again["q"].startswith("Why?\n\nYour last answer to this was:\nno\n\nYour answer cannot be used: ")
    assert escalated == {"q": "Why?", "m": "large"}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://r.openai.azure.com/openai/deployments/d?api-version=2024-10-21", "its URL names the deployment"),
    ],
)
def test_a_model_that_no_endpoint_can_be_asked_for_is_a_usage_error(
    tmp_path: Path, llmblast: RunLlmblast, url: str, reason: str
) -> None:
    """Before anything is sent."""
    write_prompts(tmp_path / "prompts.jsonl", 1)

    done = llmblast("check", "prompts.jsonl", "-u", f"{url},name=e", "--expect", "json", "--escalate", "large")

    assert done.returncode == 2
    said = "--escalate large: names no endpoint, and no endpoint can be asked for a model of that name"
    assert f"{said}: e: {reason}" in done.stderr


def test_a_line_goes_to_the_model_of_escalate(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Where that does not help, it fails: nothing more is sent."""
    script = Script(lambda body: reply(GOOD if b'"model":"large"' in body and b"easy" in body else "no"))
    server = start_mock(script=script)
    write_prompts(tmp_path / "prompts.jsonl", 1)
    write_requests(tmp_path / "raw.jsonl", ["easy", "hard"])

    done = llmblast(
        *("run", "raw.jsonl", "-u", server.url, "-m", "small", "--expect", "json"),
        *("--repair", "0", "--escalate", "large"),
    )

    assert done.returncode == 3, done.stderr
    assert Counter(body["model"] for body in script.bodies) == {"small": 2, "large": 2}
    (record,) = records(tmp_path / "errors.jsonl")
    assert (record["code"], record["repairs"], record["attempts"]) == ("invalid_answer", 0, 2)


def test_a_command_checks_answers(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """What it prints on standard error is the reason in the repair."""
    script = Script(lambda body: reply("fine" if b"too dull" in body else "dull"))
    server = start_mock(script=script)
    write_prompts(tmp_path / "prompts.jsonl", 30)

    done = llmblast(
        *("run", "prompts.jsonl", "-u", server.url, "-o", "-"),
        *("--expect-command", "grep -q fine || { echo too dull >&2; exit 1; }"),
    )

    assert done.returncode == 0, done.stderr
    assert len(script.bodies) == 60
    assert [orjson.loads(line)["response"] for line in done.stdout.splitlines()] == ["fine"] * 30


def test_a_slow_command_holds_the_sends_back(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Answers that wait for it are bounded, however many lines there are: each is paid for."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 5000)

    done = llmblast(
        *("run", "prompts.jsonl", "-u", server.url, "-j", "16", "--max-time", "2", "--grace", "0"),
        *("--expect-command", "sleep 1"),
    )

    assert done.returncode == 5, done.stderr
    assert len(server.ledger) < 500


def test_a_command_that_cannot_run_ends_the_run(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """No answer is to blame, and no repair is paid for."""
    server = start_mock()
    write_prompts(tmp_path / "prompts.jsonl", 5000)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-j", "8", "--expect-command", "/no/such/thing '{}'")

    assert done.returncode == 4
    assert "--expect-command: cannot be run (exit code 127)" in done.stderr
    assert records(tmp_path / "errors.jsonl") == []
    assert len(server.ledger) < 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--schema", "bad.json"), "--schema: is not a valid JSON Schema: at type: "),
        (("--schema", "missing.json"), "--schema missing.json: cannot be read: No such file or directory"),
        (("--expect-regex", "("), "--expect-regex '(': is not a regular expression"),
        (("--expect-command", "no-such-program"), "--expect-command: there is no program 'no-such-program'"),
        (("--expect", "xml"), "--expect: 'xml' is not one of json"),
        (("--escalate", "large"), "--escalate large: has no effect without a check of the answers"),
        (("--escalate", "mock", "--expect", "json"), "--escalate mock: is the only endpoint"),
        (("--stop-if-bad", "20"), "--stop-if-bad '20': write a share of the answers, such as 20%"),
    ],
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_what_cannot_be_checked_is_said_before_anything_is_sent(
    tmp_path: Path, llmblast: RunLlmblast, command: str, arguments: tuple[str, ...], message: str
) -> None:
    """By `check` and by `run`, and no file is made."""
    write_prompts(tmp_path / "prompts.jsonl", 3)
    write_schema(tmp_path, {"type": "objekt"})
    (tmp_path / "schema.json").rename(tmp_path / "bad.json")

    done = llmblast(command, "prompts.jsonl", "-u", "mock:", *arguments)

    assert done.returncode == 2
    assert message in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.json", "prompts.jsonl"]


def test_a_changed_schema_is_noticed(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """It shapes the requests, as a system message does."""
    write_prompts(tmp_path / "prompts.jsonl", 3)
    write_schema(tmp_path)
    llmblast("run", "prompts.jsonl", "-u", "mock:", "--schema", "schema.json", "--limit", "2")
    write_schema(tmp_path, {**SCHEMA, "title": "Town"})

    done = llmblast("run", "prompts.jsonl", "-u", "mock:", "--schema", "schema.json")

    assert done.returncode == 2
    assert "its answers were made with other settings: schema was " in done.stderr


@pytest.mark.parametrize("kill_at", [5, 60, 130])
def test_a_killed_run_with_repairs_is_gone_on_with(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, llmblast: RunLlmblast, kill_at: int
) -> None:
    """A line has its record, or it is pending: none twice."""
    script = Script(lambda body: reply(GOOD if ASSISTANT in body else "no"))
    server = start_mock("latency=0.01", script=script)
    write_prompts(tmp_path / "prompts.jsonl", 100)
    arguments = ("-u", server.url, "-j", "10", "--expect", "json", "--rps", "300")
    process = start_run(tmp_path, environment, "prompts.jsonl", *arguments)
    wait_for_requests(server, kill_at, process)
    process.kill()
    process.communicate()

    done = llmblast("run", "prompts.jsonl", *arguments)

    assert done.returncode == 0, done.stderr
    assert sorted(record["line"] for record in records(tmp_path / "save.jsonl")) == list(range(1, 101))
    assert records(tmp_path / "errors.jsonl") == []


EMPTY: dict[str, Callable[[bytes], ScriptedReply]] = {
    "empty, tokens counted": lambda body: reply(""),
    "empty, no token": lambda body: ScriptedReply(
        body=b'{"choices":[{"message":{"content":""},"finish_reason":"stop"}],"usage":{"completion_tokens":0}}'
    ),
    "cut off": lambda body: reply("The", "length"),
    "filtered": lambda body: reply(None, "content_filter"),
    "refused": lambda body: reply(None, refusal="I cannot help with that."),
}
SAID = {
    "empty, tokens counted": "empty",
    "empty, no token": "empty",
    "cut off": "cut off",
    "filtered": "refused",
    "refused": "refused",
}


@pytest.mark.parametrize("kind", EMPTY)
def test_a_run_of_bad_answers_ends_before_the_money_is_gone(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, kind: str
) -> None:
    """Of 100,000 lines at most 200 and those in flight are sent."""
    server = start_mock(script=Script(EMPTY[kind]))
    write_prompts(tmp_path / "prompts.jsonl", 100_000)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-j", "32", "--stop-if-bad", "20%")

    assert done.returncode == 4, done.stderr
    assert re.search(rf"(\d\d) of the last \1 answers are bad \(\1 {SAID[kind]}\), ", done.stderr)
    assert server.received <= 200 + 32


def test_invalid_answers_count_for_the_canary(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """Those that will be repaired, too: each was paid for."""
    server = start_mock(script=Script(lambda body: reply(GOOD if ASSISTANT in body else "no")))
    write_prompts(tmp_path / "prompts.jsonl", 2000)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-j", "8", "--expect", "json", "--stop-if-bad", "30%")

    assert done.returncode == 4, done.stderr
    assert "invalid), more than --stop-if-bad 30%" in done.stderr
    assert server.received < 250


def test_calls_of_tools_and_other_apis_are_not_bad(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Such answers have no text."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    server = start_mock(script=Script(lambda body: reply(None, "tool_calls", tool_calls=[call])))
    write_prompts(tmp_path / "prompts.jsonl", 300)

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--stop-if-bad", "0%")

    assert done.returncode == 0, done.stderr


async def test_a_program_gets_the_parsed_value(start_mock: StartMock) -> None:
    """The schema may be a dict."""
    server = start_mock(script=Script(lambda body: reply(f"```json\n{GOOD}\n```" if ASSISTANT in body else "no")))

    results = [result async for result in library.stream(["Which?"] * 3, endpoints=[server.url], schema=SCHEMA)]

    assert [result.parsed for result in results] == [{"name": "Rome", "size": 3}] * 3
    assert {(result.repairs, result.invalid_tokens, result.attempts) for result in results} == {(1, 13, 2)}


async def test_a_program_gets_the_errors_of_answers(start_mock: StartMock, tmp_path: Path) -> None:
    """As those of the command line."""
    server = start_mock(script=Script(lambda body: reply("no")))

    summary = await library.run_async(["Which?"] * 3, endpoints=[server.url], schema=SCHEMA, repair=1)

    assert [(result.code, result.repairs, result.parsed) for result in summary.results] == [
        ("invalid_answer", 1, None)
    ] * 3
    assert (summary.invalid, summary.repairs, summary.escalated, summary.invalid_tokens) == (6, 3, 0, 78)
    with pytest.raises(GaveUpError, match="of the last"):
        async for _ in library.stream(["Which?"] * 3000, endpoints=[server.url], expect="json", stop_if_bad="20%"):
            pass
    with pytest.raises(UsageError, match="schema: is not a valid JSON Schema"):
        library.stream(["Which?"], endpoints=[server.url], schema={"type": "objekt"})
