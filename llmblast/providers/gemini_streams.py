"""Streams of generateContent: join the chunks into the reply that would have come without streaming.

A gateway may stream although nobody asked. Source: https://ai.google.dev/api/generate-content#method:-models.streamgeneratecontent
"""

from collections.abc import Mapping, Sequence

from llmblast.providers.streams import UnreadableStreamError

_PLAIN_PART = ("text", "thoughtSignature", "thought")

Object = dict[str, object]


def join_contents(chunks: Sequence[object], *, is_ended: bool) -> object:
    """Return the reply, or the error that the stream ends in. Raises UnreadableStreamError where it breaks off."""
    reply: Object = {}
    candidates: dict[int, Object] = {}
    parts: dict[int, list[Object]] = {}
    for chunk in chunks:
        if not isinstance(chunk, dict):
            continue
        if chunk.get("error"):
            return {**chunk, "usageMetadata": chunk.get("usageMetadata") or reply.get("usageMetadata")}
        reply.update({name: value for name, value in chunk.items() if name != "candidates"})
        for candidate in _objects(chunk.get("candidates")):
            index = candidate.get("index")
            index = index if isinstance(index, int) else 0
            candidates.setdefault(index, {}).update(candidate)
            content = candidate.get("content")
            parts.setdefault(index, []).extend(_objects(content.get("parts")) if isinstance(content, dict) else [])
    if not candidates:
        if reply.get("promptFeedback"):
            return reply
        raise UnreadableStreamError("a stream that has no answer")
    if not is_ended and any(candidate.get("finishReason") is None for candidate in candidates.values()):
        raise UnreadableStreamError("a stream that ends too early")
    for index, candidate in candidates.items():
        candidate["content"] = {"role": "model", "parts": _join_parts(parts[index])}
    reply["candidates"] = [candidates[index] for index in sorted(candidates)]
    return reply


def _objects(values: object) -> list[Object]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _join_parts(parts: Sequence[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """Return the parts of a stream with adjacent texts joined."""
    joined: list[Mapping[str, object]] = []
    for part in parts:
        last = joined[-1] if joined else {}
        if _is_text(part) and _is_text(last) and bool(part.get("thought")) == bool(last.get("thought")):
            joined[-1] = {**last, **part, "text": f"{last['text']}{part['text']}"}
        else:
            joined.append(part)
    return joined


def _is_text(part: Mapping[str, object]) -> bool:
    return type(part.get("text")) is str and not any(name not in _PLAIN_PART for name in part)
