"""Embeddings: read the vectors in the order of the texts, one for each text, none of them empty.

| shape | who |
|---|---|
| `{"data": [{"index", "embedding"}]}` | OpenAI and most servers that speak its API |
| `[{"index", "embedding"}]`, `[[...]]` | llama.cpp without `/v1`, text-embeddings-inference |
| `{"embeddings": [[...]]}`, `{"embedding": [...]}` | Ollama's own API, older servers |

An index may be written as a text, and index 0 may be missing, as protocol buffers leave out zeros.
"""

from collections.abc import Mapping, Sequence

import orjson

from llmblast.models import Answer, ReplyError, Request

_CODE = "wrong_embeddings"
_MAX_DIGITS = 10


def read_embeddings(request: Request, data: Mapping[str, object]) -> Answer | ReplyError | None:
    """Return the vectors in the order of the texts, an error, or None where there are none."""
    items = data.get("data") or data.get("embeddings") or ([data] if data.get("embedding") else None)
    if not isinstance(items, list) or not items:
        return None
    vectors = [item.get("embedding") if isinstance(item, dict) else item for item in items]
    if any(vector is None or isinstance(vector, int | float) for vector in vectors):
        return None
    if not all(map(_is_vector, vectors)):
        return ReplyError("an embedding is empty, or its numbers are null or NaN", _CODE)
    expected = _count_of_texts(request.body)
    if expected is not None and expected != len(items):
        return ReplyError(f"the reply has {len(items)} embeddings for {expected} texts", _CODE)
    ordered = vectors[0] if len(vectors) == 1 else _in_order(items, vectors)
    return Answer(ordered) if ordered else ReplyError("the indexes of the embeddings are not those of the texts", _CODE)


def _in_order(items: Sequence[object], vectors: Sequence[object]) -> Sequence[object] | None:
    """Sort the vectors by their indexes, if they have any; return None where the indexes are wrong."""
    indexes = [item.get("index") if isinstance(item, dict) else None for item in items]
    if indexes == list(range(len(items))) or all(index is None for index in indexes):
        return vectors
    order = {index: n for n, index in enumerate(_completed([_number(index) for index in indexes]))}
    if any(index not in order for index in range(len(items))):
        return None
    return [vectors[order[index]] for index in range(len(items))]


def _is_vector(vector: object) -> bool:
    """Return whether there are numbers in a vector, in a list of vectors, or as base64.

    NaN is sent as null or as text, and all numbers of a vector are NaN or none: so two of them are checked.
    """
    if not isinstance(vector, list):
        return bool(vector)
    return bool(vector) and not any(number is None or isinstance(number, str) for number in (vector[0], vector[-1]))


def _number(index: object) -> int | None:
    """Return an index as a number, None for a missing one, a negative number for an invalid one."""
    if type(index) is str and index.isdecimal() and len(index) < _MAX_DIGITS:
        return int(index)
    if type(index) is float and index.is_integer():
        return int(index)
    return index if type(index) is int or index is None else -1


def _completed(indexes: Sequence[int | None]) -> Sequence[int | None]:
    """Fill in the missing index, where it is one only."""
    missing = set(range(len(indexes))).difference(indexes)
    if indexes.count(None) != 1 or len(missing) != 1:
        return indexes
    found = missing.pop()
    return [found if index is None else index for index in indexes]


def _count_of_texts(body: bytes) -> int | None:
    """Return the number of texts in a request, None where it is unknown. A list of tokens is one text."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    texts = fields.get("input") if type(fields) is dict else None
    if type(texts) is not list:
        return 1 if type(texts) is str else None
    return 1 if texts and all(type(text) is int for text in texts) else len(texts)
