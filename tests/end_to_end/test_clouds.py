"""Runs over the clouds' APIs: keys, URLs, bodies and records; the replies are read by the official clients' types."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import botocore.parsers
import botocore.session
import orjson
import pytest
from google.genai import types
from openai.types.chat import ChatCompletion

from llmblast.errors import ExitCode
from llmblast.mocking.server import MockServer, ScriptedReply
from tests.conftest import RunLlmblast, StartMock, records

KEY = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
AWS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": KEY,
    "AWS_REGION": "eu-west-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}
MODELS = {
    "gemini": "gemini-2.5-flash",
    "vertex": "gemini-2.5-flash",
    "vertex-anthropic": "claude-sonnet-4@20250514",
    "bedrock": "anthropic.claude-3-5-sonnet-20240620-v1:0",
    "azure": "my-deployment",
}
ENVIRONMENTS: Mapping[str, Mapping[str, str]] = {
    "gemini": {"GOOGLE_API_KEY": KEY},
    "vertex": {"GOOGLE_OAUTH_ACCESS_TOKEN": KEY},
    "vertex-anthropic": {"GOOGLE_OAUTH_ACCESS_TOKEN": KEY},
    "bedrock": AWS,
    "azure": {"AZURE_OPENAI_API_KEY": KEY},
}
BASES = {
    "gemini": "",
    "vertex": "/v1/projects/p/locations/europe-west1",
    "vertex-anthropic": "/v1/projects/p/locations/europe-west1",
    "bedrock": "",
    "azure": "?api-version=2024-10-21",
}
PATHS = {
    "gemini": "/v1beta/models/gemini-2.5-flash:generateContent",
    "vertex": "/v1/projects/p/locations/europe-west1/publishers/google/models/gemini-2.5-flash:generateContent",
    "vertex-anthropic": (
        "/v1/projects/p/locations/europe-west1/publishers/anthropic/models/claude-sonnet-4@20250514:rawPredict"
    ),
    "bedrock": "/model/anthropic.claude-3-5-sonnet-20240620-v1%3A0/converse",
    "azure": "/openai/deployments/my-deployment/chat/completions?api-version=2024-10-21",
}
HUGE = "123456789012345678901234567890"


def write_lines(path: Path, *lines: object) -> None:
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))


def bodies(server: MockServer) -> list[dict[str, Any]]:
    return [orjson.loads(arrival.body) for arrival in server.ledger]


def url_of(server: MockServer, kind: str, *more: str) -> str:
    base = f"{server.url.removesuffix('/v1')}{BASES[kind]}"
    return ",".join((base, f"kind={kind}", f"model={MODELS[kind]}", *more))


def start(start_mock: StartMock, key: str = KEY, **options: Any) -> MockServer:
    return start_mock(f"latency=0&key={quote_plus(key)}" if key else "latency=0", **options)


@pytest.mark.parametrize("transport", ["lean", "session"])
@pytest.mark.parametrize("kind", list(MODELS))
def test_simple_lines_get_answers(
    kind: str, transport: str, tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock
) -> None:
    """With the key or the signature that the API wants, at the URL that names the model."""
    server = start(start_mock)
    write_lines(tmp_path / "in.jsonl", *({"input": f"Count ships {n}", "system": "Bé brief"} for n in range(30)))

    done = llmblast(
        "run", "in.jsonl", "-u", url_of(server, kind), "--transport", transport, "--params",
        '{"max_tokens": 300, "temperature": 0.2, "stop": "END"}', **ENVIRONMENTS[kind], OPENAI_API_KEY="",
    )  # fmt: skip

    saved = records(tmp_path / "save.jsonl")
    assert done.returncode == ExitCode.OK, done.stderr
    assert {arrival.path for arrival in server.ledger} == {PATHS[kind]}
    assert len(saved) == 30
    assert {record["finish_reason"] for record in saved} == {"stop"}
    assert all("ships" in record["response"] for record in saved)
    assert all(record["usage"] and "body" not in record for record in saved)


@pytest.mark.parametrize("kind", list(MODELS))
def test_a_wrong_key_ends_the_run(kind: str, tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock) -> None:
    """And is shown nowhere."""
    server = start(start_mock, "another-key-of-the-mock")
    write_lines(tmp_path / "in.jsonl", *({"input": f"Count ships {n}"} for n in range(5)))

    done = llmblast("run", "in.jsonl", "-u", url_of(server, kind), **ENVIRONMENTS[kind])

    assert done.returncode == ExitCode.REFUSED, done.stderr
    assert KEY not in done.stderr + done.stdout


@pytest.mark.parametrize("kind", list(MODELS))
def test_limits_are_kept_and_429_are_waited_for(
    kind: str, tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock
) -> None:
    """By the header, the words or the RetryInfo of each API."""
    server = start_mock("latency=0&rps=40&policy=token-bucket&burst=3")
    write_lines(tmp_path / "in.jsonl", *({"input": f"Count ships {n}"} for n in range(40)))

    done = llmblast("run", "in.jsonl", "-u", url_of(server, kind), **ENVIRONMENTS[kind])

    assert done.returncode == ExitCode.OK, done.stderr
    assert len(records(tmp_path / "save.jsonl")) == 40


def read_by_botocore(body: Mapping[str, Any]) -> Mapping[str, Any]:
    model = botocore.session.Session().get_service_model("bedrock-runtime")
    parser = botocore.parsers.create_parser("rest-json")
    shape = model.operation_model("Converse").output_shape
    parsed: Mapping[str, Any] = parser.parse({"headers": {}, "status_code": 200, "body": orjson.dumps(body)}, shape)
    return parsed


def test_recorded_replies_are_read_by_the_types_of_the_official_clients(
    tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock
) -> None:
    """Whole, as `--body always` keeps them."""
    server = start(start_mock, "")
    write_lines(tmp_path / "in.jsonl", *({"input": f"Count ships {n}"} for n in range(3)))
    kept = {}
    for kind in ("gemini", "bedrock", "azure"):
        llmblast(
            "run", "in.jsonl", "-u", url_of(server, kind), "--body", "always", "-o", f"{kind}.jsonl",
            **ENVIRONMENTS[kind],
        )  # fmt: skip
        kept[kind] = records(tmp_path / f"{kind}.jsonl")

    gemini = [types.GenerateContentResponse.model_validate(record["body"]) for record in kept["gemini"]]
    azure = [ChatCompletion.model_validate(record["body"]) for record in kept["azure"]]
    bedrock = [read_by_botocore(record["body"]) for record in kept["bedrock"]]

    assert [reply.text for reply in gemini] == [record["response"] for record in kept["gemini"]]
    assert [reply.choices[0].message.content for reply in azure] == [record["response"] for record in kept["azure"]]
    assert [reply["output"]["message"]["content"][0]["text"] for reply in bedrock] == [
        record["response"] for record in kept["bedrock"]
    ]


def test_lines_in_the_forms_of_the_clouds(tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock) -> None:
    """Bodies and batch lines go to endpoints that speak them; models in them go into the URL."""
    google, amazon = start(start_mock, ""), start(start_mock, "")
    contents = [{"role": "user", "parts": [{"text": "Count the ships"}]}]
    messages = [{"role": "user", "content": [{"text": "Count the ships"}]}]
    write_lines(
        tmp_path / "in.jsonl",
        {"contents": contents, "id": "a", "generationConfig": {"maxOutputTokens": 50}},
        {"key": "b", "request": {"contents": contents, "generation_config": {"temperature": 0.7}}},
        {"model": "models/gemini-x", "contents": contents, "id": "c", "big": 1},
        {"request": {"contents": contents}, "team": "search"},
        {"messages": messages, "id": "d", "inferenceConfig": {"maxTokens": 50}},
        {"modelId": "amazon.nova-lite-v1:0", "messages": messages, "id": "e"},
        {"recordId": "f", "modelInput": {"messages": messages}},
        {"messages": [{"role": "user", "content": "Only for others"}], "id": "g"},
    )
    text = (tmp_path / "in.jsonl").read_text().replace('"big":1', f'"big":{HUGE}')
    (tmp_path / "in.jsonl").write_text(text)

    done = llmblast(
        "run", "in.jsonl", "-u", url_of(google, "gemini"), "-u", url_of(amazon, "bedrock"), "--own-fields", "big", **AWS
    )

    saved = {record["id"]: record for record in records(tmp_path / "save.jsonl")}
    (failed,) = records(tmp_path / "errors.jsonl")
    assert done.returncode == ExitCode.SOME_FAILED, done.stderr
    assert set(saved) == {"a", "b", "c", 4, "d", "e", "f"}
    assert saved[4]["team"] == "search"
    assert f'"big":{HUGE}' in (tmp_path / "save.jsonl").read_text()
    assert "no endpoint takes openai.chat requests, all speak gemini and bedrock" in failed["error"]
    assert sorted(arrival.path for arrival in google.ledger) == [
        *[PATHS["gemini"]] * 3,
        "/v1beta/models/gemini-x:generateContent",
    ]
    assert {arrival.path for arrival in amazon.ledger} == {PATHS["bedrock"], "/model/amazon.nova-lite-v1%3A0/converse"}
    assert not any(name in body for body in bodies(google) for name in ("model", "id", "big"))
    assert not any(name in body for body in bodies(amazon) for name in ("model", "modelId", "id"))


def test_a_run_over_all_apis(tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock) -> None:
    """Each gets bodies of its own; what an API has no words for goes to the others."""
    servers = {kind: start(start_mock, "") for kind in (*MODELS, "openai")}
    urls = [part for kind in MODELS for part in ("-u", url_of(servers[kind], kind, f"name={kind}"))]
    write_lines(
        tmp_path / "in.jsonl",
        *({"input": f"Count ships {n}"} for n in range(60)),
        {"input": "Same again", "params": {"seed": 7}, "id": "seeded"},
    )

    done = llmblast(
        "run", "in.jsonl", *urls, "-u", f"{servers['openai'].url},name=openai", **AWS, OPENAI_API_KEY="sk-" + "x" * 20
    )

    saved = records(tmp_path / "save.jsonl")
    assert done.returncode == ExitCode.OK, done.stderr
    assert {record["endpoint"] for record in saved} == {*MODELS, "openai"}
    (seeded,) = (record["endpoint"] for record in saved if record["id"] == "seeded")
    assert seeded not in ("bedrock", "vertex-anthropic")


@pytest.mark.parametrize("kind", list(MODELS))
def test_the_built_in_mock_needs_neither_key_nor_model(kind: str, tmp_path: Path, llmblast: RunLlmblast) -> None:
    write_lines(tmp_path / "in.jsonl", {"input": "Count the ships"})

    done = llmblast("run", "in.jsonl", "-u", f"mock:,kind={kind}", OPENAI_API_KEY="")

    assert done.returncode == ExitCode.OK, done.stderr


@pytest.mark.parametrize(
    ("kind", "extra", "words"),
    [
        ("gemini", {}, "the model is missing"),
        ("bedrock", {}, "the model is missing"),
        (
            "bedrock,model=m",
            {**AWS, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
            "no AWS credentials: export",
        ),
        ("bedrock,model=m", {**AWS, "AWS_REGION": ""}, "no AWS region: export AWS_REGION"),
    ],
)
def test_what_is_missing_is_found_before_anything_is_sent(
    kind: str, extra: Mapping[str, str], words: str, tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock
) -> None:
    server = start(start_mock, "")
    write_lines(tmp_path / "in.jsonl", {"input": "Count the ships"})

    done = llmblast("run", "in.jsonl", "-u", f"{server.url.removesuffix('/v1')},kind={kind}", **extra)

    assert done.returncode == ExitCode.USAGE
    assert words in done.stderr
    assert not server.ledger


@pytest.mark.parametrize(
    "url", ["https://generativelanguage.googleapis.com", "https://r.openai.azure.com?api-version=2024-10-21"]
)
def test_check_finds_a_missing_model(url: str, tmp_path: Path, llmblast: RunLlmblast) -> None:
    write_lines(tmp_path / "in.jsonl", {"input": "Count the ships"})

    missing = llmblast("check", "in.jsonl", "-u", url)
    named = llmblast("check", "in.jsonl", "-u", f"{url},model=m")

    assert missing.returncode == ExitCode.USAGE
    assert "the model is missing" in missing.stderr
    assert named.returncode == ExitCode.OK, named.stderr


def test_blocked_prompts_fail_and_blocked_answers_are_flagged(
    tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock
) -> None:
    """A prompt that a filter stops is sent once; an answer that it cuts off has its reason and its body."""
    replies: Sequence[Mapping[str, object]] = [
        {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4}},
        {"candidates": [{"finishReason": "SAFETY", "safetyRatings": []}], "usageMetadata": {"promptTokenCount": 4}},
    ]

    def answer(index: int, body: bytes) -> ScriptedReply:
        return ScriptedReply(body=orjson.dumps(replies[b"second" in body]))

    server = start(start_mock, "", script=answer)
    write_lines(tmp_path / "in.jsonl", {"input": "first"}, {"input": "second"})

    done = llmblast("run", "in.jsonl", "-u", url_of(server, "gemini"))

    (saved,), (failed,) = records(tmp_path / "save.jsonl"), records(tmp_path / "errors.jsonl")
    assert done.returncode == ExitCode.SOME_FAILED, done.stderr
    assert len(server.ledger) == 2
    assert (failed["code"], failed["transient"]) == ("content_filter", False)
    assert "the prompt was blocked by a content filter: SAFETY" in failed["error"]
    assert (saved["response"], saved["finish_reason"]) == (None, "content_filter")
    assert saved["body"]["candidates"][0]["finishReason"] == "SAFETY"


def test_a_token_of_a_command_is_renewed_after_a_401(
    tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock
) -> None:
    """As those of gcloud, which are valid for an hour."""
    (tmp_path / "token").write_text("ya29.first-token-of-the-run")
    asked: list[bytes] = []

    def answer(index: int, body: bytes) -> ScriptedReply | None:
        asked.append(body)
        if index == 10:
            (tmp_path / "token").write_text("ya29.second-token-of-the-run")
            error = {"code": 401, "message": "Request had invalid authentication", "status": "UNAUTHENTICATED"}
            return ScriptedReply(401, orjson.dumps({"error": error}))
        return None

    server = start(start_mock, "", script=answer)
    write_lines(tmp_path / "in.jsonl", *({"input": f"Count ships {n}"} for n in range(20)))

    done = llmblast(
        "run",
        "in.jsonl",
        "--concurrency",
        "1",
        "-u",
        url_of(server, "vertex", "key_command=cat token"),
        OPENAI_API_KEY="",
    )

    assert done.returncode == ExitCode.OK, done.stderr
    assert len(records(tmp_path / "save.jsonl")) == 20
