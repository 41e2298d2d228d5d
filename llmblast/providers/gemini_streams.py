"""Streams of generateContent: join the chunks into the reply that would have come without streaming.

A gateway may stream although nobody asked. Source: https://ai.google.dev/api/generate-content#method:-models.streamgeneratecontent
"""

from collections.abc import Sequence

from llmblast.providers.gemini_contents import join_parts
from llmblast.providers.streams import UnreadableStreamError

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
        candidate["content"] = {"role": "model", "parts": join_parts(parts[index])}
    reply["candidates"] = [candidates[index] for index in sorted(candidates)]
    return reply


def _objects(values: object) -> list[Object]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []
