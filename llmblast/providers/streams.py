"""Streams: join the chunks of a streamed reply into the reply without streaming.

Some servers stream by default, and a line may request it. Chunks have the shape of OpenAI's chat
completions (`delta`), of its completions (`text`), of its Responses API (`response.completed`), or of Ollama's own API
(`{"message": {...}, "done": false}`, https://github.com/ollama/ollama/blob/main/docs/api.md).
"""

from collections.abc import Iterable, Mapping, Sequence

_WHOLE = ("role", "id", "type", "name", "object")
"""Texts that are sent whole, once or repeatedly; others are sent in pieces."""
_LAST_OF_RESPONSES = ("response.completed", "response.incomplete", "response.failed")
_MAX_DEPTH = 20

Object = dict[str, object]


class UnreadableStreamError(Exception):
    """The stream has no answer, or only a part of one; the text explains it."""


class _Pieces(list[str]):
    """A text as it grows. Adding to a `str` would copy it for every chunk."""


def join_chunks(chunks: Sequence[object], *, is_ended: bool) -> object:
    """Return the reply, or the error at the end of the stream. `is_ended`: the stream had its end marker.

    Raises UnreadableStreamError where the stream breaks off.
    """
    reply: Object = {}
    choices: dict[int, Object] = {}
    for chunk in chunks:
        if not isinstance(chunk, dict):
            continue
        if chunk.get("error") or chunk.get("object") == "error" or chunk.get("type") == "error":
            return {**chunk, "usage": chunk.get("usage") or reply.get("usage")}
        if chunk.get("type") in _LAST_OF_RESPONSES and chunk.get("response"):
            return chunk["response"]
        _add_chunk(reply, choices, _from_ollama(chunk))
    if not choices:
        raise UnreadableStreamError("a stream that has no answer")
    if not is_ended and any(choice.get("finish_reason") is None for choice in choices.values()):
        raise UnreadableStreamError("a stream that ends too early")
    is_chat = any("message" in choice for choice in choices.values())
    reply["object"] = "chat.completion" if is_chat else "text_completion"
    reply["choices"] = [_joined(choices[index], 0) for index in sorted(choices)]
    return reply


def _from_ollama(chunk: Mapping[str, object]) -> Mapping[str, object]:
    """Return a chunk of Ollama's own API in OpenAI's shape, others unchanged."""
    if "done" not in chunk or "choices" in chunk:
        return chunk
    message, is_done = chunk.get("message"), chunk.get("done") is True
    delta = dict(message) if isinstance(message, dict) else {"content": chunk.get("response")}
    choice = {"delta": delta, "finish_reason": (chunk.get("done_reason") or "stop") if is_done else None}
    counts = {"prompt_tokens": chunk.get("prompt_eval_count"), "completion_tokens": chunk.get("eval_count")}
    usage = {name: count for name, count in counts.items() if count is not None}
    return {"model": chunk.get("model"), "choices": [choice], "usage": usage or None}


def _add_chunk(reply: Object, choices: dict[int, Object], chunk: Mapping[str, object]) -> None:
    for name, value in chunk.items():
        if name != "choices" and value is not None:
            reply[name] = value
    groq = chunk.get("x_groq")
    if isinstance(groq, dict) and groq.get("usage"):
        reply["usage"] = groq["usage"]
    for choice in _objects(chunk.get("choices")):
        index = choice.get("index")
        index = index if isinstance(index, int) else 0
        _add_choice(choices.setdefault(index, {"index": index}), choice)


def _add_choice(mine: Object, choice: Mapping[str, object]) -> None:
    for name, value in choice.items():
        if value is None or name == "index":
            continue
        if name == "delta" and isinstance(value, dict):
            message = mine.setdefault("message", {})
            if isinstance(message, dict):
                _merge(message, value, 0)
        elif name in ("text", "logprobs"):
            _merge(mine, {name: value}, 0)
        else:  # a `message` is whole, or all that there is so far
            mine[name] = value


def _merge(mine: Object, delta: Mapping[str, object], depth: int) -> None:
    """Add a delta to the object that earlier deltas have begun."""
    for name, value in delta.items():
        old = mine.get(name)
        if value is None or depth > _MAX_DEPTH:
            mine.setdefault(name, None)
        elif name == "tool_calls" and isinstance(value, list):
            calls = mine[name] = old if isinstance(old, list) else []
            for call in _objects(value):
                _merge(_call_of(calls, call), call, depth + 1)
        elif isinstance(value, str):
            _add_text(mine, name, value)
        elif isinstance(value, list):
            parts = mine[name] = _as_parts(old)
            parts.extend(value)
        elif isinstance(value, dict):
            inner = mine[name] = old if isinstance(old, dict) else {}
            _merge(inner, value, depth + 1)
        else:
            mine[name] = value


def _add_text(mine: Object, name: str, value: str) -> None:
    old = mine.get(name)
    if name in _WHOLE:
        mine[name] = value or old
    elif isinstance(old, _Pieces):
        old.append(value)
    elif isinstance(old, list):
        old.extend(_as_parts(value))
    else:
        mine[name] = _Pieces((value,))


def _as_parts(value: object) -> list[object]:
    """Return a text as a list of content parts, which some models mix with their thinking; return lists unchanged."""
    if isinstance(value, list) and not isinstance(value, _Pieces):
        return value
    text = "".join(value) if isinstance(value, _Pieces) else value
    return [{"type": "text", "text": text}] if isinstance(text, str) and text else []


def _call_of(calls: list[object], call: Mapping[str, object]) -> Object:
    """Return the tool call that the delta belongs to: by its index, and by its id where servers number all 0."""
    index, its_id = call.get("index"), call.get("id")
    for known in reversed(calls):
        if isinstance(known, dict) and index in (None, known.get("index")) and its_id in (None, "", known.get("id")):
            return known
    made: Object = {"index": index}
    calls.append(made)
    return made


def _objects(values: object) -> Iterable[Mapping[str, object]]:
    return (value for value in values if isinstance(value, dict)) if isinstance(values, list) else ()


def _joined(value: object, depth: int) -> object:
    """Return the value with its pieces joined. Tool calls lose their index, which only streams have."""
    if isinstance(value, _Pieces):
        return "".join(value)
    if depth > _MAX_DEPTH:
        return value
    if isinstance(value, dict):
        return {name: _joined(member, depth + 1) for name, member in value.items() if not _is_call_index(name, value)}
    if isinstance(value, list):
        return [_joined(member, depth + 1) for member in value]
    return value


def _is_call_index(name: str, value: Mapping[str, object]) -> bool:
    return name == "index" and "function" in value
