"""Replies of APIs whose raw reply is the answer."""

from typing import Any

import orjson
import pytest

from llmblast.endpoint_settings import EndpointSettings
from llmblast.models import Answer, Reply, ReplyError, Request
from llmblast.providers import DEFAULT_PROVIDER
from tests.openai_provider import make_target

read_answer = DEFAULT_PROVIDER.read_answer


def read(data: object, path: str = "responses") -> Answer | ReplyError:
    return read_answer(Request(1, "0" * 16, b"", "row-1", path=path), Reply(200, body=orjson.dumps(data)))


def answer_to(data: object, path: str = "responses") -> Answer:
    answer = read(data, path)
    assert isinstance(answer, Answer), answer.message
    return answer


def message(*texts: str, **more: object) -> dict[str, Any]:
    parts = [{"type": "output_text", "text": text, "annotations": [], **more} for text in texts]
    return {"type": "message", "role": "assistant", "content": parts}


def response(*output: object, **more: object) -> dict[str, Any]:
    return {"object": "response", "status": "completed", "error": None, "model": "m-2", "output": list(output), **more}


CALL = {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"}
USAGE = {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12}


def test_a_response_is_the_text_of_its_messages() -> None:
    """Its tokens are counted."""
    answer = answer_to(response(message("4", "2"), message("!"), usage=USAGE))

    assert (answer.text, answer.finish_reason, answer.model, answer.says_more) == ("42!", "stop", "m-2", False)
    assert (answer.prompt_tokens, answer.completion_tokens, answer.usage) == (7, 5, USAGE)


def test_a_response_may_be_short_of_members() -> None:
    """Other servers leave out what they do not have."""
    answer = answer_to({"output": [{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}]})

    assert (answer.text, answer.finish_reason, answer.says_more) == ("Hi", "stop", False)


@pytest.mark.parametrize(
    ("item", "text", "reason"),
    [
        (CALL, None, "tool_calls"),
        ({"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}, None, "stop"),
        ({"type": "reasoning", "summary": [{"text": "so"}]}, None, "stop"),
        (message("x", logprobs=[1]), "x", "stop"),
        ("odd", None, "stop"),
    ],
)
def test_a_response_that_says_more_keeps_its_body(item: object, text: str | None, reason: str) -> None:
    """Calls, refusals, reasoning, log probabilities."""
    answer = answer_to(response(item))

    assert (answer.text, answer.finish_reason, answer.says_more) == (text, reason, True)
    assert not answer_to(response({"type": "reasoning", "summary": []}, message("x"))).says_more


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("max_output_tokens", "length"), ("content_filter", "content_filter"), ("new", "length"), (None, "length")],
)
@pytest.mark.parametrize("output", [[], [message("Once")]])
def test_an_incomplete_response_is_cut_off(reason: str | None, expected: str, output: list[object]) -> None:
    """It is an answer, and flagged as those of chat are."""
    details = {"reason": reason} if reason else None
    answer = answer_to(response(*output, status="incomplete", incomplete_details=details))

    assert (answer.text, answer.finish_reason) == ("Once" if output else None, expected)


@pytest.mark.parametrize(
    "data",
    [
        response(status="failed", error={"code": "server_error", "message": "broke"}),
        response(message("x"), status="failed"),
        response(message("x"), status="cancelled"),
        response(status="queued"),
        response(),
        response(message("x"), error={"code": "rate_limit_exceeded", "message": "slow down"}),
        {"message": "Internal error", "code": 500},
        {},
    ],
)
def test_a_response_that_failed_is_no_answer(data: object) -> None:
    """Nor is one that is not there yet."""
    assert isinstance(read(data), ReplyError)


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("moderations", {"id": "m", "results": [{"flagged": False}]}),
        ("images/generations", {"created": 1, "data": [{"b64_json": "AAAA"}]}),
    ],
)
def test_other_replies_are_kept_as_they_are(path: str, data: object) -> None:
    """The record has them as its body, and no response."""
    answer = answer_to(data, path)

    assert (answer.text, answer.finish_reason, answer.says_more) == (None, None, True)


@pytest.mark.parametrize(
    "data", [{}, [], {"error": "busy"}, {"message": "Internal error", "code": 500}, [{"error": {"message": "no"}}], "x"]
)
def test_an_error_is_no_reply_to_keep(data: object) -> None:
    """Whatever its shape is."""
    assert isinstance(read(data, "rerank"), ReplyError)


def test_a_chat_completion_on_another_path_is_an_answer() -> None:
    """Its raw form is kept where it was not expected."""
    data = {"choices": [{"message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}]}

    answers = [answer_to(data, path) for path in ("responses", "moderations", "agents/completions")]

    assert [(answer.text, answer.says_more) for answer in answers] == [(None, True), (None, True), ("x", False)]


def test_a_transcription_is_its_text() -> None:
    """Segments and the like keep the body."""
    plain, long = (
        answer_to({"text": "Hi"}, "audio/translations"),
        answer_to({"text": "", "x": 1}, "audio/transcriptions"),
    )

    assert (plain.text, plain.says_more, long.text, long.says_more) == ("Hi", False, "", True)
    assert isinstance(read({"segments": []}, "audio/translations"), ReplyError)


@pytest.mark.parametrize(
    ("url", "path", "expected"),
    [
        ("http://h/v1", "rerank", "http://h/v1/rerank"),
        ("http://h/v1", "v2/rerank", "http://h/v2/rerank"),
        ("http://h/api", "v2/rerank", "http://h/api/v2/rerank"),
    ],
)
def test_a_path_with_a_version_takes_the_place_of_the_bases(url: str, path: str, expected: str) -> None:
    """vLLM and Cohere have `/v2/rerank` beside `/v1`."""
    assert make_target(EndpointSettings(url=url), None, None).url_of(path) == expected
