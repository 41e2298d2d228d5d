"""Rerank and score as the mock provider has them: a score is the share of the query's words in the document.

Sources: vLLM's "Pooling models", https://docs.cohere.com/reference/rerank. `/v2/rerank` answers as Cohere does, with
billed units; `/v1/rerank` and `/score` as vLLM.
"""

from collections.abc import Callable, Mapping
from typing import Any

from llmblast.mocking.checks import integer
from llmblast.mocking.error_replies import BadRequestError, invalid_type, missing
from llmblast.mocking.messages import BYTES_PER_TOKEN

RERANK, COHERE_RERANK, SCORE = "rerank", "v2/rerank", "score"
_DOCUMENTS_PER_UNIT = 100


def rerank(asked: Mapping[str, Any], model: str, make_id: Callable[[str], str], *, is_cohere: bool) -> tuple[Any, int]:
    """Return the reply and the prompt tokens. Raises BadRequestError."""
    query, documents = _text(asked, "query"), _texts(asked, "documents")
    top: int | None = asked.get("top_n")
    if top is not None:
        integer(0)(top, "top_n")
    scores = sorted(((_score(query, text), -index) for index, text in enumerate(documents)), reverse=True)
    results = [
        {"index": -index, "relevance_score": score, **({} if is_cohere else {"document": {"text": documents[-index]}})}
        for score, index in scores[: top or None]
    ]
    tokens = _tokens(query, *documents)
    if is_cohere:
        units = -(-len(documents) // _DOCUMENTS_PER_UNIT)
        meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": units}}
        return {"id": make_id(""), "results": results, "meta": meta}, tokens
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"id": make_id("rerank-"), "model": model, "usage": usage, "results": results}, tokens


def score(asked: Mapping[str, Any], model: str, created_s: int, make_id: Callable[[str], str]) -> tuple[Any, int]:
    """Return the reply and the prompt tokens. Raises BadRequestError."""
    firsts, seconds = _texts(asked, "text_1"), _texts(asked, "text_2")
    if len(firsts) == 1:
        firsts *= len(seconds)
    if len(firsts) != len(seconds):
        raise BadRequestError("Input lengths must be either 1:1, 1:N or N:N", "text_1")
    scored = [_score(*pair) for pair in zip(firsts, seconds, strict=True)]
    data = [{"index": index, "object": "score", "score": value} for index, value in enumerate(scored)]
    tokens = _tokens(*firsts, *seconds)
    head = {"id": make_id("score-"), "object": "list", "created": created_s, "model": model}
    return {**head, "data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}, tokens


def _score(query: str, document: str) -> float:
    words = set(query.lower().split())
    return round(len(words & set(document.lower().split())) / len(words), 4) if words else 0.0


def _tokens(*texts: str) -> int:
    return max(1, sum(map(len, texts)) // BYTES_PER_TOKEN)


def _text(asked: Mapping[str, Any], name: str) -> str:
    if asked.get(name) is None:
        raise missing(name)
    if not isinstance(asked[name], str):
        raise invalid_type(name, "a string", asked[name])
    return str(asked[name])


def _texts(asked: Mapping[str, Any], name: str) -> list[str]:
    """Return a text or a list of texts; a document may be an object with a text."""
    given = asked.get(name)
    if given is None:
        raise missing(name)
    items = given if isinstance(given, list) else [given]
    texts = [item.get("text") if isinstance(item, dict) else item for item in items]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise invalid_type(name, "a string or an array of strings", given)
    return [str(text) for text in texts]
