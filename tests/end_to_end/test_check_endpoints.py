"""`llmblast check --endpoints`: one tiny request to each endpoint."""

from typing import Any

import orjson
import pytest

from llmblast.mocking.server import ScriptedReply
from tests.conftest import CANARY, RunLlmblast, StartMock


def check(llmblast: RunLlmblast, *urls: str, **environ: str) -> tuple[int, list[dict[str, Any]]]:
    arguments = [argument for url in urls for argument in ("-u", url)]
    done = llmblast("check", "--endpoints", "--json", *arguments, **environ)
    told = orjson.loads(done.stdout)
    assert told["exit_code"] == done.returncode, done.stderr
    return done.returncode, told["endpoints"]


def test_an_endpoint_that_works_is_told_with_limits_and_latency(start_mock: StartMock, llmblast: RunLlmblast) -> None:
    mock = start_mock(f"key={CANARY}&rpm=600&latency=0")

    code, (found,) = check(llmblast, f"{mock.url},model=m,name=one")

    assert code == 0
    assert (found["endpoint"], found["state"], found["kind"], found["model"]) == ("one", "ok", "openai", "m")
    assert (found["reachable"], found["authorised"], found["model_known"]) == (True, True, True)
    assert found["latency"] >= 0
    assert {"kind": "requests", "limit": 600.0, "remaining": 599.0} in found["limits"]
    assert len(mock.ledger) == 1


@pytest.mark.parametrize(
    ("query", "settings", "state", "status"),
    [
        ("key=other", "", "not authorised", 401),
        ("models=a", "model=b", "model or path unknown", 404),
        ("unauthorized=true", "", "not authorised", 401),
    ],
)
def test_what_is_wrong_is_told_after_one_request(
    start_mock: StartMock, llmblast: RunLlmblast, query: str, settings: str, state: str, status: int
) -> None:
    mock = start_mock(f"{query}&latency=0")

    code, (found,) = check(llmblast, f"{mock.url},{settings}".rstrip(","))

    assert (found["state"], found["status"]) == (state, status)
    assert code == 77
    assert len(mock.ledger) == 1
    assert found["fix"]


def test_some_endpoints_that_fail_do_not_hide_those_that_work(start_mock: StartMock, llmblast: RunLlmblast) -> None:
    mock = start_mock("latency=0")

    code, found = check(
        llmblast, mock.url, "http://127.0.0.1:9/v1", "mock:", "groq:", f"{mock.url},kind=openai-responses"
    )

    assert code == 3
    assert [finding["state"] for finding in found] == ["ok", "not reachable", "ok", "invalid settings", "ok"]
    assert "GROQ_API_KEY is not set" in found[3]["reason"]
    assert len(mock.ledger) == 2


def test_a_rate_limit_shows_that_the_endpoint_works(start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """It is not asked again."""
    body = b'{"error":{"message":"Rate limit reached","code":"rate_limit_exceeded"}}'
    mock = start_mock("latency=0", script=lambda index, asked: ScriptedReply(429, body))

    code, (found,) = check(llmblast, mock.url)

    assert (code, found["state"], found["authorised"]) == (0, "rate limited", True)
    assert len(mock.ledger) == 1


ENDPOINT_REPLIES = [
    (301, b"", {"Location": "https://other.example/v1?token=t"}, "redirected", 77, "write the URL"),
    (402, b'{"error":{"message":"Insufficient credits"}}', {}, "no credit or quota", 77, "check credit"),
    (429, b'{"error":{"code":"insufficient_quota"}}', {}, "no credit or quota", 77, "check credit"),
    (429, b'{"error":{"message":"Slow down"}}', {}, "rate limited", 0, "wait"),
    (503, b"upstream down", {}, "server error", 77, "try again later"),
    (503, b"full", {"Retry-After": "5"}, "rate limited", 0, "wait"),
    (500, b'{"error":{"message":"boom"}}', {}, "server error", 77, "try again later"),
    (200, b"<html>Login</html>", {}, "no usable answer", 77, "check that the URL"),
    (405, b'{"detail":"Method Not Allowed"}', {}, "model or path unknown", 77, "name a model"),
    (403, b'{"error":{"message":"Not in your region"}}', {}, "not authorised", 77, "check the key"),
]


@pytest.mark.parametrize(("status", "body", "headers", "state", "exit_code", "fix"), ENDPOINT_REPLIES)
def test_each_kind_of_reply_has_its_fix(
    start_mock: StartMock,
    llmblast: RunLlmblast,
    status: int,
    body: bytes,
    headers: dict[str, str],
    state: str,
    exit_code: int,
    fix: str,
) -> None:
    mock = start_mock("latency=0", script=lambda index, asked: ScriptedReply(status, body, headers))

    code, (found,) = check(llmblast, mock.url)

    assert (code, found["state"]) == (exit_code, state)
    assert found["fix"].startswith(fix)
    assert found["reason"].count("HTTP") == 1
    assert "token=" not in found["reason"]
    assert (found["authorised"] is True) == (state == "rate limited" or fix in ("check credit", "name a model"))


def test_a_key_that_is_not_there_is_not_called_wrong(start_mock: StartMock, llmblast: RunLlmblast) -> None:
    mock = start_mock("key=other&latency=0")

    _, (found,) = check(llmblast, mock.url, OPENAI_API_KEY="")

    assert found["fix"] == "no API key was sent: export OPENAI_API_KEY=..."


def test_a_reason_that_tells_what_to_do_stands_alone(llmblast: RunLlmblast) -> None:
    done = llmblast("check", "--endpoints", "-u", "http://127.0.0.1:9/v1", "-u", "groq:,name=g")

    assert "connection refused: is the server running?\n" in done.stdout
    assert "GROQ_API_KEY=...\n" in done.stdout


@pytest.mark.parametrize(
    ("status", "body", "state", "reason"),
    [
        (500, b'{"error":{"message":"out of memory"}}', "server error", "HTTP 500: out of memory"),
        (408, b'{"error":{"message":"a timeout"}}', "server error", "HTTP 408: a timeout"),
        (400, b'{"error":{"message":"no such tool"}}', "refused the request", "HTTP 400: no such tool"),
        (501, b"", "model or path unknown", "HTTP 501"),
        (200, b"{}", "no usable answer", "HTTP 200 without an answer"),
    ],
)
def test_the_reason_has_its_status_once(
    start_mock: StartMock, llmblast: RunLlmblast, status: int, body: bytes, state: str, reason: str
) -> None:
    """A fault of the server is not put down to the URL or to parameters."""
    mock = start_mock("latency=0", script=lambda index, asked: ScriptedReply(status, body))

    code, (found,) = check(llmblast, mock.url)

    assert (code, found["state"]) == (77, state)
    assert found["reason"].startswith(reason)
    assert "HTTP" not in found["reason"].removeprefix("HTTP")


def test_a_person_reads_lines(start_mock: StartMock, llmblast: RunLlmblast) -> None:
    mock = start_mock("key=other&latency=0")

    done = llmblast("check", "--endpoints", "-u", f"{mock.url},name=one", "-u", "mock:,name=three")

    assert done.returncode == 3
    first, reason, last = done.stdout.splitlines()
    assert first.startswith("one    not authorised, ")
    assert reason.startswith("       HTTP 401: Incorrect API key provided: check the key")
    assert last.startswith("three  ok, ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["in.jsonl", "-u", "mock:"], "--endpoints: reads no input"), ([], "no endpoint: name one with --url")],
)
def test_input_and_no_endpoint_are_refused(llmblast: RunLlmblast, arguments: list[str], message: str) -> None:
    done = llmblast("check", "--endpoints", *arguments)

    assert done.returncode == 2
    assert message in done.stderr
