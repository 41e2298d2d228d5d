"""Replies in odd clothes: what holds an answer is one, whatever stands around it, and what holds none is none."""

from collections.abc import Mapping

import orjson
import pytest

from llmblast.models import Answer, Reply, ReplyError, Request
from llmblast.providers import DEFAULT_PROVIDER

read_answer = DEFAULT_PROVIDER.read_answer


def read(data: object, path: str = "chat/completions") -> Answer | ReplyError:
    return read_answer(Request(1, "0" * 16, b"", "row-1", path=path), Reply(200, body=orjson.dumps(data)))


def answer_to(data: object, path: str = "chat/completions") -> Answer:
    answer = read(data, path)
    assert isinstance(answer, Answer)
    return answer


def chat(message: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


GOOD = {"index": 1, "message": {"role": "assistant", "content": "4"}, "finish_reason": "stop"}


@pytest.mark.parametrize(
    "error", [{"code": None, "message": None}, {"code": 0, "message": "Success"}, {"code": "200"}, "null", [[]], 200]
)
@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("chat/completions", {"choices": [GOOD]}),
        ("embeddings", {"data": [{"embedding": [1]}]}),
        ("responses", {"output": [{"type": "message", "content": [{"type": "output_text", "text": "4"}]}]}),
        ("rerank", {"results": [{"index": 0}], "message": "ok"}),
    ],
)
def test_an_error_that_is_none_takes_no_answer_away(path: str, data: Mapping[str, object], error: object) -> None:
    """Gateways write one beside each answer."""
    assert isinstance(read({**data, "error": error}, path), Answer)


@pytest.mark.parametrize("error", [{"code": 0, "message": "no"}, {"type": "x"}, {"code": 500}, "x", [{"message": "x"}]])
def test_an_error_beside_a_text_is_one(error: object) -> None:
    """The text may be half of an answer."""
    assert isinstance(read({"choices": [GOOD], "error": error}), ReplyError)


@pytest.mark.parametrize(
    "first",
    [
        {"message": {"content": "The"}, "finish_reason": "error"},
        {"message": {"content": ""}, "finish_reason": "stop"},
        {"message": {"content": None}, "finish_reason": "stop"},
    ],
)
def test_one_good_choice_is_an_answer(first: object) -> None:
    """All of them have been paid for, and the body has all."""
    answer = answer_to({"choices": [first, GOOD]})

    assert (answer.text, answer.says_more) == ("4", True)


@pytest.mark.parametrize(
    "name", ["images", "reasoning_details", "thinking", "thinking_blocks", "parsed", "audio", "executed_tools"]
)
def test_a_message_without_a_text_may_be_an_answer(name: str) -> None:
    """An image, say: the body has it."""
    answer = answer_to(chat({"role": "assistant", "content": None, name: [{"type": "x"}]}))

    assert (answer.text, answer.says_more) == (None, True)


def test_calls_that_are_not_there_are_no_answer() -> None:
    """The finish reason promises them; a parser of a server has lost them."""
    message = {"role": "assistant", "content": "", "tool_calls": []}
    data = {"choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": {"completion_tokens": 7}}

    assert isinstance(read(data), ReplyError)


DELTA = {"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}


@pytest.mark.parametrize(
    "data",
    [
        {"object": "chat.completion.chunk", "choices": [DELTA]},
        {"choices": [{**DELTA, "message": None}]},
        [
            {"choices": [{"delta": {"content": "H"}}]},
            {"choices": [{"delta": {"content": "i"}, "finish_reason": "stop"}]},
        ],
        {"message": {"role": "assistant", "content": "Hi"}, "done": True},
        orjson.dumps({"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}).decode(),
    ],
)
def test_chunks_without_a_stream_are_read(data: object) -> None:
    """So is JSON inside of a text. The body becomes what would have come without all that."""
    reply = Reply(200, body=orjson.dumps(data))

    answer = read_answer(Request(1, "0" * 16, b"", "row-1"), reply)

    assert isinstance(answer, Answer)
    assert answer.text == orjson.loads(reply.body)["choices"][0]["message"]["content"] == "Hi"


@pytest.mark.parametrize(
    "data",
    [
        [{"choices": [{"delta": {"content": "H"}}]}, {"choices": [{"delta": {"content": "i"}}]}],
        [{"choices": [{"delta": {"content": "H"}}]}, {"error": {"message": "broke"}}],
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
        {"choices": [{"delta": None}]},
        {"done": True},
        "{}",
        '"{}"',
        "{",
    ],
)
def test_chunks_that_are_no_answer(data: object) -> None:
    """A part of one, an error, nothing."""
    assert isinstance(read(data), ReplyError)


@pytest.mark.parametrize("vector", [[], "", [None, None], ["NaN", "NaN"]])
def test_a_vector_without_numbers_is_none(vector: object) -> None:
    """A model whose numbers overflow gives null, or NaN, for all of them."""
    error = read({"data": [{"embedding": vector, "index": 0}]}, "embeddings")

    assert isinstance(error, ReplyError)
    assert error.code == "wrong_embeddings"


@pytest.mark.parametrize(
    "data",
    [
        [{"index": 0, "embedding": [0.5, 1]}],
        [[0.5, 1]],
        {"embeddings": [[0.5, 1]]},
        {"embedding": [0.5, 1]},
        {"data": [{"embedding": [0.5, 1], "index": 7}]},
    ],
)
def test_embeddings_in_other_shapes(data: object) -> None:
    """Those of llama.cpp, text-embeddings-inference and Ollama; the only vector is that of the only text."""
    assert answer_to(data, "embeddings").text == [0.5, 1]


@pytest.mark.parametrize("path", ["moderations", "rerank", "score", "images/generations", "ocr"])
@pytest.mark.parametrize("data", [{"results": []}, {"data": []}, {"results": None}, {"pages": [], "id": "x"}])
def test_a_reply_without_results_is_no_answer(path: str, data: object) -> None:
    """Something was asked for."""
    assert isinstance(read(data, path), ReplyError)


@pytest.mark.parametrize(
    "output",
    [
        [{"type": "message", "content": [{"type": "output_text", "text": ""}]}],
        [{"type": "message", "content": []}],
        [{"type": "message", "content": ""}],
        [{"type": "reasoning", "summary": []}],
    ],
)
def test_a_response_that_says_nothing_is_no_answer(output: object) -> None:
    """Unless tokens were generated for it: the model meant to say nothing."""
    assert isinstance(read({"status": "completed", "output": output}, "responses"), ReplyError)
    assert isinstance(read({"output": output, "usage": {"output_tokens": 1}}, "responses"), Answer)


@pytest.mark.parametrize(
    "data",
    [
        {"output": [{"type": "message", "role": "assistant", "content": "Hi"}]},
        {"output": [], "output_text": "Hi"},
    ],
)
def test_a_response_may_have_its_text_elsewhere(data: object) -> None:
    """Some servers write it as a plain text, or in the member that OpenAI's client adds."""
    assert answer_to(data, "responses").text == "Hi"


@pytest.mark.parametrize("path", ["responses", "moderations"])
def test_a_failed_generation_is_no_answer_on_any_path(path: str) -> None:
    """A chat completion in the reply to another request."""
    data = {"choices": [{"message": {"content": "The"}, "finish_reason": "error"}]}

    assert isinstance(read(data, path), ReplyError)
