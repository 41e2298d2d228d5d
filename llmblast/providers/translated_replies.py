"""Translated replies: the answer of one chat API as the other one would send it, for records in a batch format.

Sources: platform.openai.com/docs/api-reference/chat/object, docs.anthropic.com/en/api/messages.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import orjson

_STOP_REASONS: Final[Mapping[str, str]] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_FINISH_REASONS: Final[Mapping[str, str]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def translate_reply(body: bytes, kind: str) -> bytes:
    """Return the body of a reply as the API `kind` has it. One that is not from the other chat API stays as it is."""
    translate = _TRANSLATIONS.get(kind)
    if translate is None:
        return body
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body
    translated = translate(data) if isinstance(data, dict) else None
    try:
        return body if translated is None else orjson.dumps(translated)
    except orjson.JSONEncodeError:  # nested deeper than orjson writes
        return body


def make_chat(
    text: object, finish_reason: str | None, usage: Mapping[str, object] | None, model: str | None, reply_id: str
) -> dict[str, object]:
    """Return a chat completion with this answer."""
    message: dict[str, object] = {"role": "assistant", "content": text, "refusal": None}
    return _chat(reply_id, model, message, finish_reason, _openai_usage(usage))


def _chat(
    reply_id: object,
    model: object,
    message: Mapping[str, object],
    finish_reason: str | None,
    usage: Mapping[str, object] | None,
) -> dict[str, object]:
    return {
        "id": reply_id,
        "object": "chat.completion",
        "created": 0,  # the Messages API does not tell it
        "model": model or "",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason or "stop"}],
        "usage": usage,
    }


def _to_openai(message: Mapping[str, object]) -> dict[str, object] | None:
    """Return the chat completion for a message of the Messages API; None for another reply."""
    blocks = message.get("content")
    if message.get("type") != "message" or not isinstance(blocks, list):
        return None
    texts = [str(block.get("text")) for block in _of_type("text", blocks)]
    said: dict[str, object] = {"role": "assistant", "content": "".join(texts) if texts else None, "refusal": None}
    if calls := [_call_of(block) for block in _of_type("tool_use", blocks)]:
        said["tool_calls"] = calls
    reason = message.get("stop_reason")
    finish_reason = _FINISH_REASONS.get(str(reason), reason if isinstance(reason, str) else None)
    return _chat(message.get("id"), message.get("model"), said, finish_reason, _openai_usage(message.get("usage")))


def _to_anthropic(chat: Mapping[str, object]) -> dict[str, object] | None:
    """Return the message for a chat completion; None for another reply."""
    choices = chat.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    said = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(said, dict):
        return None
    text, calls = said.get("content") or said.get("refusal"), said.get("tool_calls")
    blocks: list[object] = [{"type": "text", "text": text, "citations": None}] if isinstance(text, str) else []
    blocks += [_block_of(call) for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    reason = choice.get("finish_reason")
    return {
        "id": chat.get("id") or "",
        "type": "message",
        "role": "assistant",
        "model": chat.get("model") or "",
        "content": blocks,
        "stop_reason": _STOP_REASONS.get(str(reason), "end_turn"),
        "stop_sequence": None,
        "usage": _anthropic_usage(chat.get("usage")),
    }


_TRANSLATIONS: Final[Mapping[str, Callable[[Mapping[str, object]], dict[str, object] | None]]] = {
    "openai": _to_openai,
    "anthropic": _to_anthropic,
}
"""By the kind of provider whose form is wanted."""


def _of_type(kind: str, blocks: Sequence[object]) -> list[Mapping[str, object]]:
    return [block for block in blocks if isinstance(block, dict) and block.get("type") == kind]


def _call_of(block: Mapping[str, object]) -> dict[str, object]:
    function = {"name": block.get("name"), "arguments": orjson.dumps(block.get("input")).decode()}
    return {"id": block.get("id"), "type": "function", "function": function}


def _block_of(call: Mapping[str, object]) -> dict[str, object]:
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    return {"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": arguments_of(function)}


def arguments_of(function: Mapping[str, object]) -> object:
    """Return the arguments of a call as an object; a model may have written no JSON."""
    text = function.get("arguments")
    try:
        return json.loads(text) if isinstance(text, str) and text else {}
    except ValueError:
        return {"arguments": text}


def _openai_usage(usage: object) -> dict[str, object] | None:
    if not isinstance(usage, Mapping):
        return None
    if "prompt_tokens" in usage:
        prompt, output = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
        return {"completion_tokens": output, "total_tokens": prompt + output, **usage}
    cached = _count(usage, "cache_read_input_tokens")
    prompt = _count(usage, "input_tokens") + _count(usage, "cache_creation_input_tokens") + cached
    output = _count(usage, "output_tokens")
    counts: dict[str, object] = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
    }
    return {**counts, "prompt_tokens_details": {"cached_tokens": cached}} if cached else counts


def _anthropic_usage(usage: object) -> dict[str, object]:
    if not isinstance(usage, Mapping):
        return {"input_tokens": 0, "output_tokens": 0}
    details = usage.get("prompt_tokens_details")
    cached = _count(details, "cached_tokens") if isinstance(details, Mapping) else 0
    counts: dict[str, object] = {
        "input_tokens": max(0, _count(usage, "prompt_tokens") - cached),
        "output_tokens": _count(usage, "completion_tokens"),
    }
    return {**counts, "cache_read_input_tokens": cached} if cached else counts


def _count(usage: Mapping[str, object], name: str) -> int:
    count = usage.get(name)
    return count if type(count) is int and count > 0 else 0


def make_embeddings(
    vectors: Sequence[object], usage: Mapping[str, object] | None, model: str | None
) -> dict[str, object]:
    """Return a reply of the embeddings API with these vectors."""
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return {"object": "list", "data": data, "model": model or "", "usage": usage}


def embeddings_in(reply: Mapping[str, object]) -> list[object] | None:
    """Return the vectors in a reply of the embeddings API, by their index; None in another reply."""
    data = reply.get("data")
    if not isinstance(data, list) or not all(isinstance(item, dict) and "embedding" in item for item in data):
        return None
    if not data or not all(type(item.get("index")) is int for item in data):
        return None
    return [item["embedding"] for item in sorted(data, key=lambda item: int(item["index"]))]
