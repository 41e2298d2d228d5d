"""Tell cached tokens in the `usage` of an answer, in the form of its API; each form is a line in `_FORMS`.

Sources: https://platform.openai.com/docs/guides/prompt-caching, https://api-docs.deepseek.com/guides/kv_cache,
https://platform.claude.com/docs/en/build-with-claude/prompt-caching, https://ai.google.dev/api/generate-content
"""

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from llmblast.mocking import anthropic_messages, responses
from llmblast.mocking.answers import Answer
from llmblast.mocking.cloud_calls import GENERATE, RAW_PREDICT, STREAM_GENERATE
from llmblast.mocking.prompt_cache import CacheUse

Usage = dict[str, Any]
_DATA = b"data: "


def tell_cached(operation: str, style: str, answer: Answer, use: CacheUse) -> None:
    """Change the usage in the body and the events of an answer."""
    tell = _deepseek if style == "deepseek" and operation in _OPENAI_OPERATIONS else _FORMS[operation]
    if answer.events:
        answer.events = tuple(_changed_event(event, tell, use) for event in answer.events)
        answer.body = b"".join(answer.events)
    else:
        answer.body = _changed(answer.body, tell, use)


def _changed_event(event: bytes, tell: Callable[[Usage, CacheUse], None], use: CacheUse) -> bytes:
    head, _, data = event.partition(_DATA)
    if b'"usage' not in data:
        return event
    return head + _DATA + _changed(data, tell, use) + b"\n\n"


def _changed(body: bytes, tell: Callable[[Usage, CacheUse], None], use: CacheUse) -> bytes:
    reply = orjson.loads(body)
    holder = reply.get("message", reply)
    usage = holder.get("usage") or holder.get("usageMetadata")
    if usage:
        tell(usage, use)
    return orjson.dumps(reply)


def _openai(usage: Usage, use: CacheUse) -> None:
    usage["prompt_tokens_details"] = {"cached_tokens": min(use.read, usage["prompt_tokens"]), "audio_tokens": 0}


def _deepseek(usage: Usage, use: CacheUse) -> None:
    _openai(usage, use)
    read = usage["prompt_tokens_details"]["cached_tokens"]
    usage.update(prompt_cache_hit_tokens=read, prompt_cache_miss_tokens=usage["prompt_tokens"] - read)


def _responses(usage: Usage, use: CacheUse) -> None:
    usage["input_tokens_details"]["cached_tokens"] = min(use.read, usage["input_tokens"])


def _anthropic(usage: Usage, use: CacheUse) -> None:
    """Split the input: `input_tokens` are those behind the cached prefix. The end of a stream tells the output only."""
    total = usage.get("input_tokens")
    if total is None:
        return
    read = min(use.read, total)
    added = min(use.added, total - read)
    usage.update(input_tokens=total - read - added, cache_read_input_tokens=read, cache_creation_input_tokens=added)


def _gemini(usage: Usage, use: CacheUse) -> None:
    """A member without a value is left out."""
    if use.read:
        usage["cachedContentTokenCount"] = min(use.read, usage["promptTokenCount"])


_OPENAI_OPERATIONS = ("chat/completions", "completions")
_FORMS: Mapping[str, Callable[[Usage, CacheUse], None]] = {
    **dict.fromkeys(_OPENAI_OPERATIONS, _openai),
    responses.OPERATION: _responses,
    anthropic_messages.OPERATION: _anthropic,
    RAW_PREDICT: _anthropic,
    GENERATE: _gemini,
    STREAM_GENERATE: _gemini,
}
