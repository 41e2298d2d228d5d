"""Rerank and score: the results are the answer."""

from typing import Any

import orjson
import pytest

from llmblast.models import Answer, Reply, ReplyError, Request
from llmblast.providers import DEFAULT_PROVIDER

read_answer = DEFAULT_PROVIDER.read_answer

ASKED = {"query": "q", "documents": ["a", "b", "c"]}
PAIRS = {"text_1": "q", "text_2": ["a", "b"]}
RESULTS = [{"index": 2, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.2}]


def read(data: object, path: str = "rerank", asked: object = ASKED) -> Answer | ReplyError:
    request = Request(1, "0" * 16, b"", 1, path=path, body=orjson.dumps(asked))
    return read_answer(request, Reply(200, body=orjson.dumps(data)))


def answer_to(data: object, path: str = "rerank", asked: object = ASKED) -> Answer:
    answer = read(data, path, asked)
    assert isinstance(answer, Answer), answer.message
    return answer


@pytest.mark.parametrize("path", ["rerank", "v2/rerank"])
def test_results_are_the_answer_in_the_order_of_the_reply(path: str) -> None:
    """As vLLM and Jina send them, with their documents."""
    results = [{**result, "document": {"text": "x"}} for result in RESULTS]
    usage = {"total_tokens": 56, "prompt_tokens": 56}

    answer = answer_to({"id": "r", "model": "m", "usage": usage, "results": results}, path)

    assert (answer.text, answer.model, answer.usage, answer.says_more) == (results, "m", usage, False)
    assert (answer.prompt_tokens, answer.completion_tokens) == (56, 0)


def test_units_that_cohere_bills_are_the_usage() -> None:
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}, "tokens": {"input_tokens": 9}}

    answer = answer_to({"id": "r", "results": RESULTS, "meta": meta}, "v2/rerank")

    assert answer.usage == {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": 9}}
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == (RESULTS, 9, 0)


@pytest.mark.parametrize("data", [{"object": "list", "data": RESULTS}, RESULTS, {"results": RESULTS}])
def test_other_shapes_mean_the_same(data: object) -> None:
    """Those of Voyage and of text-embeddings-inference."""
    assert answer_to(data).text == RESULTS


def test_scores_are_in_the_order_of_the_pairs() -> None:
    scores: list[dict[str, Any]] = [{"index": n, "object": "score", "score": 0.5} for n in (1, 0)]

    answer = answer_to({"object": "list", "data": scores, "usage": {"prompt_tokens": 4}}, "score", PAIRS)

    assert (answer.text, answer.prompt_tokens) == (scores[::-1], 4)


@pytest.mark.parametrize(
    ("data", "path", "asked"),
    [
        ({"results": [{"index": 3, "relevance_score": 0.9}]}, "rerank", ASKED),
        ({"results": [{"index": 0, "relevance_score": None}]}, "rerank", ASKED),
        ({"results": [{"index": 0, "relevance_score": "NaN"}]}, "rerank", ASKED),
        ({"results": [{"index": 0, "relevance_score": 1}, {"index": 0, "relevance_score": 1}]}, "rerank", ASKED),
        ({"data": [{"index": 0, "score": 0.5}]}, "score", PAIRS),
        ({"data": [{"index": 1, "score": 0.5}, {"index": 2, "score": 0.5}]}, "score", PAIRS),
    ],
)
def test_wrong_scores_are_no_answer(data: object, path: str, asked: object) -> None:
    error = read(data, path, asked)

    assert isinstance(error, ReplyError)
    assert error.code == "wrong_scores"


@pytest.mark.parametrize("data", [{"results": []}, {"data": []}, [], {"message": "Internal error", "code": 500}])
def test_a_reply_without_results_is_no_answer(data: object) -> None:
    assert isinstance(read(data), ReplyError)
