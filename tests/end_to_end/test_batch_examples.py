"""The examples of the batch documentations of OpenAI, Azure, Mistral, Together, vLLM and Anthropic go in.

What comes out has every documented member with its documented type. The files in `tests/data` have the members of the
examples, as their documentations show them; some texts are ours.
"""

from collections.abc import Mapping
from pathlib import Path
from shutil import copy
from typing import Any

import orjson
import pytest
from anthropic.types.messages import MessageBatchIndividualResponse
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from pydantic import TypeAdapter

from llmblast.mocking.server import ScriptedReply
from tests.conftest import ROOT, RunLlmblast, StartMock, records

OUTPUT: Mapping[str, type] = {"id": str, "custom_id": str, "response": dict, "error": type(None)}
RESPONSE: Mapping[str, type] = {"status_code": int, "request_id": str, "body": dict}
BODIES: Mapping[str, type] = {
    "chat.completion": ChatCompletion,
    "text_completion": Completion,
    "list": CreateEmbeddingResponse,
    "response": Response,
}
"""By `object`. https://platform.openai.com/docs/api-reference/batch names the APIs that batches go to."""
POOLED = {
    "/v1/score": {
        "id": "score-1",
        "object": "list",
        "data": [{"index": index, "object": "score", "score": 0.5} for index in range(2)],
    },
    "/v1/rerank": {"id": "rerank-1", "results": [{"index": 0, "relevance_score": 0.5}]},
    "/v2/rerank": {"id": "rerank-2", "results": [{"index": 0, "relevance_score": 0.7}]},
}


def take_example(tmp_path: Path, name: str) -> list[dict[str, Any]]:
    copy(ROOT / "tests" / "data" / f"{name}.jsonl", tmp_path / "batch.jsonl")
    return records(tmp_path / "batch.jsonl")


def assert_types(members: Mapping[str, Any], wanted: Mapping[str, type]) -> None:
    assert {name: type(members[name]) for name in wanted} == wanted


def assert_body(body: dict[str, Any]) -> None:
    """The official client's types take it as it is; `created` of its strict form is a whole number, and so on."""
    TypeAdapter(BODIES[body["object"]]).validate_json(orjson.dumps(body), strict=True)


@pytest.mark.parametrize("name", ["openai", "azure", "mistral", "together", "vllm"])
def test_batch_lines_get_what_the_documentation_says(
    tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock, name: str
) -> None:
    """Whoever documents `method`, `url` and `model`, or leaves them out."""
    lines = take_example(tmp_path, name)

    done = llmblast("run", "batch.jsonl", "-u", start_mock().url, "-m", "m", "-o", "out.jsonl", "--ordered")

    assert done.returncode == 0, done.stderr
    answers = records(tmp_path / "out.jsonl")
    assert [answer["custom_id"] for answer in answers] == [line["custom_id"] for line in lines]
    for answer in answers:
        assert_types(answer, OUTPUT)
        assert_types(answer["response"], RESPONSE)
        assert_body(answer["response"]["body"])
    assert len({answer["id"] for answer in answers}) == len(answers)


def test_vllms_pooling_lines_keep_their_replies(tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock) -> None:
    """Score and rerank have bodies of their own."""
    lines = take_example(tmp_path, "vllm-pooling")
    replies = {orjson.dumps(line["body"]): POOLED[line["url"]] for line in lines}

    def reply(index: int, body: bytes) -> ScriptedReply:
        return ScriptedReply(200, orjson.dumps(replies[body]))

    done = llmblast("run", "batch.jsonl", "-u", start_mock(script=reply).url, "-o", "out.jsonl", "--ordered")

    assert done.returncode == 0, done.stderr
    answers = records(tmp_path / "out.jsonl")
    assert [answer["response"]["body"]["id"] for answer in answers] == ["score-1", "rerank-1", "rerank-2"]
    for answer in answers:
        assert_types(answer, OUTPUT)
        assert_types(answer["response"], RESPONSE)


def test_a_rejected_batch_line_has_every_member_too(
    tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock
) -> None:
    """In the errors file: `response` with the reply, `error` with code and message; without a reply it is null."""
    take_example(tmp_path, "openai")
    refusal = b'{"error":{"message":"too long","code":"context_length_exceeded"}}'
    server = start_mock(script=lambda index, body: ScriptedReply(400, refusal))

    done = llmblast("run", "batch.jsonl", "-u", server.url, "-o", "out.jsonl")

    assert done.returncode == 3, done.stderr
    errors = records(tmp_path / "out.errors.jsonl")
    assert len(errors) == 3
    for error in errors:
        assert error["response"]["status_code"] == 400
        assert error["error"]["code"] == "context_length_exceeded"
        assert "too long" in error["error"]["message"]
        assert_types(error, {"id": str, "custom_id": str, "response": dict, "error": dict})
        assert_types(error["response"], RESPONSE)
        assert_types(error["error"], {"code": str, "message": str})


def test_all_apis_of_text_and_vectors_go_in(tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock) -> None:
    """By `url`: a body alone does not tell a response from embeddings."""
    bodies: dict[str, dict[str, object]] = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
        "/v1/completions": {"prompt": "Hi"},
        "/v1/embeddings": {"input": "Hi"},
        "/v1/responses": {"input": "Hi"},
    }
    lines = [
        {"custom_id": url, "method": "POST", "url": url, "body": {"model": "m", **body}} for url, body in bodies.items()
    ]
    (tmp_path / "batch.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))

    done = llmblast("run", "batch.jsonl", "-u", start_mock().url, "-o", "out.jsonl", "--ordered")

    assert done.returncode == 0, done.stderr
    answers = records(tmp_path / "out.jsonl")
    assert [answer["custom_id"] for answer in answers] == list(bodies)
    assert [answer["response"]["body"]["object"] for answer in answers] == [
        *("chat.completion", "text_completion", "list", "response"),
    ]
    for answer in answers:
        assert_types(answer, OUTPUT)
        assert_types(answer["response"], RESPONSE)
        assert_body(answer["response"]["body"])


def test_a_batch_line_without_a_reply_has_no_response(
    tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock
) -> None:
    """As one that expires: `response` is null, and `error` has code and message."""
    take_example(tmp_path, "openai")
    server = start_mock(script=lambda index, body: ScriptedReply(break_connection=True))

    done = llmblast("run", "batch.jsonl", "-u", server.url, "-a", "1", "-o", "out.jsonl")

    assert done.returncode == 3, done.stderr
    errors = records(tmp_path / "out.errors.jsonl")
    assert {error["custom_id"] for error in errors} == {"request-1", "request-2", "request-3"}
    for error in errors:
        assert_types(error, {"id": str, "custom_id": str, "response": type(None), "error": dict})
        assert_types(error["error"], {"code": str, "message": str})


def test_anthropics_lines_get_its_results(tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock) -> None:
    """Each is what the official client makes of a line of results."""
    lines = take_example(tmp_path, "anthropic")

    done = llmblast("run", "batch.jsonl", "-u", f"{start_mock().url},kind=anthropic", "-o", "out.jsonl", "--ordered")

    assert done.returncode == 0, done.stderr
    results = [as_result(record) for record in records(tmp_path / "out.jsonl")]
    assert [result.custom_id for result in results] == [line["custom_id"] for line in lines]
    assert [result.result.type for result in results] == ["succeeded", "succeeded"]


@pytest.mark.parametrize(
    ("status", "kind"), [(400, "invalid_request_error"), (500, "api_error"), (404, "not_found_error")]
)
def test_anthropics_failed_lines_have_a_type_that_its_client_knows(
    tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock, status: int, kind: str
) -> None:
    """Also where a gateway answers in its own words."""
    take_example(tmp_path, "anthropic")
    server = start_mock(
        script=lambda index, body: ScriptedReply(status, b"<html>no</html>") if b"again" in body else None
    )

    llmblast("run", "batch.jsonl", "-u", f"{server.url},kind=anthropic", "-o", "out.jsonl", "-a", "1")

    (failed,) = records(tmp_path / "out.errors.jsonl")
    result = as_result(failed).result
    assert result.type == "errored"
    assert result.error.error.type == kind


def as_result(record: dict[str, Any]) -> MessageBatchIndividualResponse:
    members = orjson.dumps({name: record[name] for name in ("custom_id", "result")})
    return TypeAdapter(MessageBatchIndividualResponse).validate_json(members, strict=True)


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
@pytest.mark.parametrize("output_format", ["openai-batch", "anthropic-batch", "llmblast"])
@pytest.mark.parametrize("name", ["openai", "anthropic", "simple"])
def test_any_input_gets_the_form_of_records_that_is_asked_for(
    tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock, kind: str, output_format: str, name: str
) -> None:
    """Whichever API answers, and whatever form the line has; also in the errors file."""
    if name == "simple":
        (tmp_path / "batch.jsonl").write_text('{"input":"Hi","id":7}\nbad\n{"input":"Ho","team":"a"}\n')
    else:
        take_example(tmp_path, name)
    url = f"{start_mock().url},kind={kind}"

    done = llmblast("run", "batch.jsonl", "-u", url, "-m", "m", "--output-format", output_format, "-o", "out.jsonl")

    assert done.returncode in (0, 3), done.stderr
    for record in records(tmp_path / "out.jsonl"):
        if output_format == "openai-batch":
            assert_types(record, OUTPUT)
            assert_types(record["response"], RESPONSE)
            assert_body(record["response"]["body"])
        elif output_format == "anthropic-batch" and name != "openai":
            assert as_result(record).result.type == "succeeded"
        elif output_format == "llmblast":
            assert "response" in record
            assert "finish_reason" in record
    for record in records(tmp_path / "out.errors.jsonl"):
        if output_format == "openai-batch":
            assert_types(record, {"id": str, "custom_id": str, "error": dict})
        elif output_format == "anthropic-batch":
            assert as_result(record).result.type == "errored"
        else:
            assert isinstance(record["error"], str)
