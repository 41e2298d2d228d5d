"""Prompts as a sequence of parts, in the order in which a model reads them: what a prompt cache compares.

Each API is a function in `PARTS`. Tools and schemas come first, as providers say; they count no tokens here, as in the
mock's `usage`. Source: https://platform.openai.com/docs/guides/prompt-caching
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from llmblast.mocking import anthropic_messages, responses
from llmblast.mocking.cloud_calls import GENERATE, RAW_PREDICT, STREAM_GENERATE


class Part(NamedTuple):
    """A text with what stands before it, such as its role; `ends_prefix` where `cache_control` is set on it."""

    label: bytes
    text: str = ""
    ends_prefix: bool = False


Asked = Mapping[str, Any]


def _chat(asked: Asked) -> Iterator[Part]:
    yield Part(orjson.dumps([asked.get("tools"), asked.get("response_format")]))
    for message in asked.get("messages") or ():
        yield from _content(str(message.get("role")), message.get("content"))
        if message.get("tool_calls"):
            yield Part(orjson.dumps(message["tool_calls"]))


def _completion(asked: Asked) -> Iterator[Part]:
    if isinstance(asked.get("prompt"), str):
        yield Part(b"", asked["prompt"])


def _response(asked: Asked) -> Iterator[Part]:
    yield Part(orjson.dumps(asked.get("text")), asked.get("instructions") or "")
    given = asked.get("input")
    items = given if isinstance(given, list) else [{"role": "user", "content": given}]
    for item in items:
        yield from _content(str(item.get("role")), item.get("content"))


def _messages(asked: Asked) -> Iterator[Part]:
    parts = [Part(orjson.dumps(tool), ends_prefix=_ends_prefix(tool)) for tool in asked.get("tools") or ()]
    parts += _content("system", asked.get("system"))
    for message in asked["messages"]:
        parts += _content(str(message.get("role")), message.get("content"))
    if asked.get("cache_control"):
        parts[-1] = parts[-1]._replace(ends_prefix=True)
    yield from parts


def _contents(asked: Asked) -> Iterator[Part]:
    yield Part(orjson.dumps(asked.get("tools")))
    contents = asked.get("contents")
    turns = [asked.get("systemInstruction") or asked.get("system_instruction")]
    turns += contents if isinstance(contents, list) else [contents]
    for turn in turns:
        if isinstance(turn, dict):
            parts = turn.get("parts")
            yield from _content(str(turn.get("role")), parts if isinstance(parts, list) else [parts])


def _content(role: str, content: object) -> Iterator[Part]:
    """Yield a part for a text, or for each block."""
    label = role.encode()
    if isinstance(content, str):
        yield Part(label, content)
    for block in content if isinstance(content, list) else ():
        text = block.get("text") if isinstance(block, dict) else None
        if isinstance(text, str):
            yield Part(label, text, _ends_prefix(block))
        else:
            yield Part(label + orjson.dumps(block), ends_prefix=_ends_prefix(block))


def _ends_prefix(block: object) -> bool:
    return isinstance(block, dict) and bool(block.get("cache_control"))


PARTS: Mapping[str, Callable[[Asked], Iterator[Part]]] = {
    "chat/completions": _chat,
    "completions": _completion,
    responses.OPERATION: _response,
    anthropic_messages.OPERATION: _messages,
    RAW_PREDICT: _messages,
    GENERATE: _contents,
    STREAM_GENERATE: _contents,
}
ASKED_FOR = (anthropic_messages.OPERATION, RAW_PREDICT)
"""Operations whose prompts are cached where `cache_control` says so, and nowhere else."""
