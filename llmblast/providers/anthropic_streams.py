"""Streams of the Messages API: join the events into the message that would have come without streaming.

Source of the events: https://docs.anthropic.com/en/api/messages-streaming
"""

from collections.abc import Mapping, Sequence

import orjson

from llmblast.providers.streams import UnreadableStreamError

_PIECES = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}
_JSON_PIECES = "partial_json"

Object = dict[str, object]


def join_events(events: Sequence[object], *, is_ended: bool) -> object:
    """Return the message, or the error that the stream ends in. Raises UnreadableStreamError where it breaks off."""
    message: Object | None = None
    blocks: dict[int, Object] = {}
    pieces: dict[tuple[int, str], list[str]] = {}
    is_whole = is_ended
    for event in events:
        if not isinstance(event, dict):
            continue
        kind = event.get("type")
        if kind == "error" or event.get("error"):
            return {**event, "usage": (message or {}).get("usage")}
        if kind == "message_start" and isinstance(event.get("message"), dict):
            message = dict(event["message"])
        elif kind == "content_block_start" and isinstance(event.get("content_block"), dict):
            blocks[_index_of(event)] = dict(event["content_block"])
        elif kind == "content_block_delta":
            _add_delta(event, pieces)
        elif kind == "message_delta" and message is not None:
            _end_message(message, event)
        is_whole = is_whole or kind == "message_stop"
    if message is None:
        raise UnreadableStreamError("a stream that has no answer")
    if not is_whole and message.get("stop_reason") is None:
        raise UnreadableStreamError("a stream that ends too early")
    for (index, name), texts in pieces.items():
        _complete(blocks.setdefault(index, {"type": "text"}), name, "".join(texts))
    message["content"] = list(blocks.values())
    return message


def _add_delta(event: Mapping[str, object], pieces: dict[tuple[int, str], list[str]]) -> None:
    delta = event.get("delta")
    if not isinstance(delta, dict):
        return
    name = _JSON_PIECES if _JSON_PIECES in delta else _PIECES.get(str(delta.get("type")), "text")
    piece = delta.get(name)
    if isinstance(piece, str):
        pieces.setdefault((_index_of(event), name), []).append(piece)


def _index_of(event: Mapping[str, object]) -> int:
    index = event.get("index")
    return index if isinstance(index, int) else 0


def _end_message(message: Object, event: Mapping[str, object]) -> None:
    """Add the stop reason and the usage, whose counts cover the whole message."""
    delta, usage, before = event.get("delta"), event.get("usage"), message.get("usage")
    if isinstance(delta, dict):
        message.update(delta)
    if isinstance(usage, dict):
        message["usage"] = {**(before if isinstance(before, dict) else {}), **usage}


def _complete(block: Object, name: str, text: str) -> None:
    if name != _JSON_PIECES:
        first = block.get(name)
        block[name] = (first if isinstance(first, str) else "") + text
        return
    try:
        block["input"] = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        block["input"] = text
