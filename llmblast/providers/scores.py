"""Rerank and score: read the list of results, which is the answer, and what was billed for it.

| shape | sender |
|---|---|
| `{"results": [{"index", "relevance_score", "document"?}], "usage"}` | vLLM and Jina, by score |
| `{"results": [...], "meta": {"billed_units": {"search_units"}, "tokens"?}}` | Cohere, v1 and v2 |
| `{"data": [{"index", "relevance_score"}], "usage"}` | Voyage |
| `{"data": [{"index", "object": "score", "score"}], "usage"}` | vLLM's score, by index |
| `[{"index", "score"}]` | text-embeddings-inference, by score |

Sources: https://docs.cohere.com/reference/rerank, https://api.jina.ai/redoc, vLLM's "Pooling models".
"""

from collections.abc import Mapping, Sequence

import orjson

from llmblast.models import Answer, ReplyError, Request
from llmblast.providers.usage import count_of

_CODE = "wrong_scores"
_SCORES = ("relevance_score", "score")
_FIRST = ("text_1", "data_1", "queries")
_SECOND = ("text_2", "data_2", "documents", "items")
_DOCUMENTS = ("documents", "texts")
_BILLED = ("billed_units", "tokens")


def read_ranking(request: Request, data: Mapping[str, object]) -> Answer | ReplyError | None:
    """Return the results in the order of the reply, an error, or None where there are none."""
    results = _results(data)
    if results is None:
        return None
    documents = next((value for name, value in _body(request).items() if name in _DOCUMENTS), None)
    count = len(documents) if type(documents) is list else None
    return _problem(results, count) or _answer(results, data)


def read_scores(request: Request, data: Mapping[str, object]) -> Answer | ReplyError | None:
    """Return the scores in the order of the pairs, an error, or None where there are none."""
    results = _results(data)
    if results is None:
        return None
    count = _count_of_pairs(_body(request))
    if count is not None and count != len(results):
        return ReplyError(f"the reply has {len(results)} scores for {count} pairs", _CODE)
    if all(type(result.get("index")) is int for result in results):
        results.sort(key=_index_of)
    return _problem(results, count) or _answer(results, data)


def _results(data: Mapping[str, object]) -> list[dict[str, object]] | None:
    results = data.get("results") or data.get("data")
    if type(results) is not list or not results or not all(type(result) is dict for result in results):
        return None
    return results if all(any(name in result for name in ("index", *_SCORES)) for result in results) else None


def _problem(results: Sequence[Mapping[str, object]], count: int | None) -> ReplyError | None:
    """Return the error where a score is no number, or where the indexes are not those of the request."""
    scores = [result[name] for result in results for name in _SCORES if name in result]
    if any(type(score) is not float and type(score) is not int for score in scores):
        return ReplyError("a score is null or NaN", _CODE)
    indexes = [result["index"] for result in results if "index" in result]
    known = range(len(indexes) if count is None else count)
    is_wrong = any(type(index) is not int or (count is not None and index not in known) for index in indexes)
    if is_wrong or len(set(map(str, indexes))) != len(indexes):
        return ReplyError("the indexes of the scores are not those of the documents", _CODE)
    return None


def _index_of(result: Mapping[str, object]) -> int:
    index = result["index"]
    return index if isinstance(index, int) else 0


def _answer(results: list[dict[str, object]], data: Mapping[str, object]) -> Answer:
    answer = Answer(results)
    meta = data.get("meta")
    billed: dict[str, object] = {}
    if isinstance(meta, dict):
        billed = {name: meta[name] for name in _BILLED if isinstance(meta.get(name), dict)}
    if billed:
        answer.usage = billed
        counts = [count_of(unit.get("input_tokens")) for unit in billed.values() if isinstance(unit, dict)]
        answer.prompt_tokens = next((count for count in reversed(counts) if count is not None), None)
        answer.completion_tokens = None if answer.prompt_tokens is None else 0
    return answer


def _count_of_pairs(body: Mapping[str, object]) -> int | None:
    """Return how many pairs a request for scores compares: one text with each, or text by text."""
    sides = [next((body[name] for name in names if name in body), None) for names in (_FIRST, _SECOND)]
    counts = [len(side) if type(side) is list else 1 if type(side) is str else None for side in sides]
    return None if None in counts else max(count or 0 for count in counts)


def _body(request: Request) -> Mapping[str, object]:
    try:
        body = orjson.loads(request.body)
    except orjson.JSONDecodeError:
        return {}
    return body if type(body) is dict else {}
