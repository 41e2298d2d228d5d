"""Read the replies of the OpenAI API that are not plain chat completions.

These are replies of other paths, errors with HTTP 200, streams, JSON inside of a text, and replies that strict JSON
refuses. `openai` imports this module at the first of them, since most runs have none.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress

import orjson

from llmblast.models import Answer, Reply, ReplyError, Request
from llmblast.providers.choices import add_usage, read_first_choice
from llmblast.providers.embeddings import read_embeddings
from llmblast.providers.lenient_json import read_repaired
from llmblast.providers.passed_through import PASSED_THROUGH, Reader, read_list
from llmblast.providers.reply_errors import error_in_success, find_error, is_error
from llmblast.providers.streams import UnreadableStreamError, join_chunks
from llmblast.providers.usage import has_usage

_MAY_BE_LISTS = ("embeddings", "rerank", "v2/rerank", "score")
"""Paths whose results some servers send without an object around them."""
_READERS: dict[str, Reader] = {"embeddings": read_embeddings, **PASSED_THROUGH}
"""Readers of the APIs whose replies have no `choices`, by path. They return None where there is no answer."""


def read_data(request: Request, reply: Reply, data: object, path: str) -> Answer | ReplyError:
    """Return the answer or the error in the JSON of a 2xx reply to a path of the API."""
    if type(data) is not dict:
        return _read_no_object(request, reply, data, path)
    if data.get("error") and is_error(data["error"]):
        error = find_error(data)
        error.has_usage = has_usage(data)
        return error
    reader = _READERS.get(path)
    answer = read_first_choice(data) if reader is None else reader(request, data)
    if answer is None and reader is None and (joined := _joined([data])) is not None:
        return _read_inner(request, reply, joined, path)
    if not isinstance(answer, Answer):
        missing = ReplyError(f"HTTP {reply.status} without an answer in it", "unusable_reply")
        error = answer or error_in_success(data) or missing
        error.has_usage = has_usage(data)
        return error
    return add_usage(answer, data)


def read_broken_json(request: Request, reply: Reply, path: str) -> Answer | ReplyError:
    """Return the answer or the error in a reply that strict JSON refuses; `reply.body` becomes the repaired answer."""
    repaired = read_repaired(reply)
    if isinstance(repaired, ReplyError):
        return repaired
    data, body = repaired
    received, reply.body = reply.body, body
    answer = read_data(request, reply, data, path)
    if not isinstance(answer, Answer):
        reply.body = received
    return answer


def _read_no_object(request: Request, reply: Reply, data: object, path: str) -> Answer | ReplyError:
    """Read a reply that is a list, or JSON inside of a text, which some gateways send."""
    if path in _MAY_BE_LISTS and type(data) is list and data and not error_in_success(data):
        return read_data(request, reply, {"data": data}, path)
    if path not in _READERS and type(data) is list and (joined := _joined(data)) is not None:
        return _read_inner(request, reply, joined, path)
    if type(data) is str and data.lstrip()[:1] == "{":
        try:
            inner = orjson.loads(data)
        except (orjson.JSONDecodeError, UnicodeEncodeError):
            inner = None
        if type(inner) is dict:
            return _read_inner(request, reply, inner, path)
    told = f"HTTP {reply.status} with JSON that is not an object"
    return read_list(path, data) or error_in_success(data) or ReplyError(told, "unusable_reply")


def _read_inner(request: Request, reply: Reply, data: Mapping[str, object], path: str) -> Answer | ReplyError:
    """Read a plain reply inside of another one; if it has an answer, it replaces `reply.body`."""
    answer = read_data(request, reply, data, path)
    if isinstance(answer, Answer):
        with suppress(orjson.JSONEncodeError):  # orjson reads four times the depth that it writes
            reply.body = orjson.dumps(data)
    return answer


def _joined(chunks: Sequence[object]) -> Mapping[str, object] | None:
    """Join the chunks of a stream without framing; return None for other objects."""
    if not any(type(chunk) is dict and _is_chunk(chunk) for chunk in chunks):
        return None
    try:
        reply = join_chunks(chunks, is_ended=len(chunks) == 1)
    except UnreadableStreamError:
        return None
    return reply if type(reply) is dict and not any(_is_chunk(part) for part in (reply, *_choices(reply))) else None


def _is_chunk(value: Mapping[str, object]) -> bool:
    return "done" in value or any("delta" in choice for choice in _choices(value))


def _choices(data: Mapping[str, object]) -> list[Mapping[str, object]]:
    choices = data.get("choices")
    return [choice for choice in choices if type(choice) is dict] if type(choices) is list else []
