"""Anthropic's Messages API: render prompts and read replies.

Sources: https://docs.anthropic.com/en/api/messages, /api/errors, /api/rate-limits, /docs/build-with-claude/vision,
/api/handling-stop-reasons, and the types of https://github.com/anthropics/anthropic-sdk-python.
"""

from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence

import orjson

from llmblast.models import Answer, Part, Prompt, Reply, ReplyError
from llmblast.provider_contract import UnsupportedError
from llmblast.providers.chat_parts import is_text
from llmblast.providers.rendering import SharedTail, unsupported_param
from llmblast.providers.structured_outputs import with_schema
from llmblast.providers.usage import add_cache_counts, has_usage

DEFAULT_MAX_TOKENS = 4096
"""For prompts without `max_tokens`, which the API requires."""
_API = "the Messages API"
_PDF = "application/pdf"
_IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_UNSUPPORTED = (
    "n",
    "seed",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "response_format",
    "reasoning_effort",
)
"""Parameters of OpenAI's API that change an answer and have no equivalent here."""
_CHOICES: Mapping[object, str] = {"auto": "auto", "none": "none", "required": "any"}
_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "length",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_PLAIN_BLOCK = ("type", "text", "citations")
_INPUT_COUNTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


class Messages:
    """Renders prompts as requests of the Messages API, and reads its replies."""

    def __init__(self) -> None:
        self._tail = SharedTail(_tail)

    def unsupported_in(self, prompt: Prompt) -> str | None:
        """Return the part of the prompt that the API cannot express, if there is one."""
        if (reason := unsupported_param(prompt.params, _UNSUPPORTED, _API)) is not None:
            return reason
        return next((reason for part in prompt.parts if (reason := _reason_against(part)) is not None), None)

    def render(self, prompt: Prompt) -> bytes:
        """Return a body without a model. Parts that the next prompt shares with the last one are not encoded again."""
        tail = self._tail.of(prompt)
        if (reason := self.unsupported_in(prompt)) is not None:
            raise UnsupportedError(reason)
        content: object = prompt.text
        if prompt.parts:
            content = [*map(_block, prompt.parts), {"type": "text", "text": prompt.text}]
        return b"".join((b'{"messages":[{"role":"user","content":', orjson.dumps(content), tail))

    def read_answer(self, reply: Reply) -> Answer | ReplyError:
        """Return the answer in a 2xx reply, or its error. An unrequested stream is joined, and becomes the body."""
        try:
            data = orjson.loads(reply.body)
        except orjson.JSONDecodeError:
            from llmblast.providers.anthropic_streams import join_events  # noqa: PLC0415 -- at the first such reply
            from llmblast.providers.lenient_json import read_repaired_answer  # noqa: PLC0415

            return read_repaired_answer(reply, _read_data, join_events)
        return _read_data(reply.status, data)


def _tail(prompt: Prompt) -> bytes:
    """Return a body from the content of the user message on. A form of the answer among the parameters counts more than
    the schema.
    """
    members: dict[str, object] = {"system": _system_of(prompt)} if prompt.system else {}
    members.update(_translated(with_schema(prompt.params, prompt.schema, "anthropic.messages")))
    return b"}]," + orjson.dumps(members)[1:]


def _system_of(prompt: Prompt) -> object:
    """Return the system message, marked for the cache where that is asked: nothing is cached without a mark. Source:
    /docs/build-with-claude/prompt-caching.
    """
    if not prompt.caches_system:
        return prompt.system
    return [{"type": "text", "text": prompt.system, "cache_control": {"type": "ephemeral"}}]


def _translated(params: Mapping[str, object]) -> dict[str, object]:
    """Return parameters by the API's names; names that OpenAI's API does not have stay."""
    members: dict[str, object] = {}
    for name, value in params.items():
        if name == "n" or (value is None and name in _UNSUPPORTED):
            continue
        if (translate := _TRANSLATIONS.get(name)) is None:
            members[name] = value
        else:
            members.update(translate(value))
    return members if "max_tokens" in members else {"max_tokens": DEFAULT_MAX_TOKENS, **members}


def _stop(value: object) -> Mapping[str, object]:
    return {} if value is None else {"stop_sequences": [value] if isinstance(value, str) else value}


def _tools(value: object) -> Mapping[str, object]:
    """Translate functions; tools in the API's own form stay."""
    return {"tools": [_tool(tool) for tool in value] if isinstance(value, list) else value}


def _tool(tool: object) -> object:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict):
        return tool
    about = {"description": function["description"]} if function.get("description") else {}
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    return {"name": function.get("name"), **about, "input_schema": schema}


def _tool_choice(value: object) -> Mapping[str, object]:
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        return {"tool_choice": {"type": "tool", "name": value["function"].get("name")}}
    kind = _CHOICES.get(value) if isinstance(value, str) else None
    return {"tool_choice": value if kind is None else {"type": kind}}


_TRANSLATIONS: Mapping[str, Callable[[object], Mapping[str, object]]] = {
    "max_completion_tokens": lambda value: {"max_tokens": value},
    "stop": _stop,
    "stream": lambda value: {},
    "user": lambda value: {"metadata": {"user_id": value}},
    "tools": _tools,
    "tool_choice": _tool_choice,
}
"""Parameters that have another name or form in OpenAI's API."""


def _reason_against(part: Part) -> str | None:
    """Return why the API cannot take a part, if so. Source of the types: /docs/build-with-claude/pdf-support."""
    media_type = part.media_type
    if part.kind == "image":
        is_known = bool(part.url) or media_type in _IMAGE_TYPES
        return None if is_known else f"{_API} takes no {media_type}: convert it to {', '.join(_IMAGE_TYPES)}"
    if part.kind != "document":
        return f"{_API} takes no {part.kind}"
    if part.url:
        return None if media_type in ("", _PDF) else f"{_API} takes no URL of {media_type}: name a local file"
    is_known = media_type == _PDF or is_text(media_type)
    return None if is_known else f"{_API} takes no {media_type}: convert it to PDF or text"


def _block(part: Part) -> Mapping[str, object]:
    source: dict[str, object] = {"type": "base64", "media_type": part.media_type, "data": part.data}
    if part.url:
        source = {"type": "url", "url": part.url}
    elif is_text(part.media_type):
        text = b64decode(part.data).decode(errors="replace")
        source = {"type": "text", "media_type": "text/plain", "data": text}
    title = {"title": part.name} if part.kind == "document" and part.name else {}
    return {"type": part.kind, "source": source, **title}


def _read_data(status: int, data: object) -> Answer | ReplyError:
    if type(data) is not dict:
        return ReplyError(f"HTTP {status} with JSON that is not an object", "unusable_reply")
    usage = data.get("usage")
    usage = usage if type(usage) is dict else None
    answer = None if data.get("error") or data.get("type") == "error" else _read_message(data, usage)
    if answer is None:
        answer = _read_failure(status, data, usage)
    if isinstance(answer, Answer) and usage is not None:
        answer.usage = usage
        counts = [count for name in _INPUT_COUNTS if type(count := usage.get(name)) is int and count >= 0]
        answer.prompt_tokens = sum(counts) if counts else None
        add_cache_counts(answer, usage)
        output = usage.get("output_tokens")
        answer.completion_tokens = output if type(output) is int and output >= 0 else 0
    return answer


def _read_failure(status: int, data: Mapping[str, object], usage: Mapping[str, object] | None) -> Answer | ReplyError:
    """Return the error in a reply without an answer, or the answer where the member `error` says that there is none."""
    from llmblast.providers.reply_errors import error_in_success, find_error, is_error  # noqa: PLC0415 -- on errors only

    is_failed = is_error(data.get("error")) or data.get("type") == "error"
    answer = None if is_failed else _read_message(data, usage)
    if answer is not None:
        return answer
    missing = ReplyError(f"HTTP {status} without an answer in it", "unusable_reply")
    error = find_error(data) if is_failed else error_in_success(data) or missing
    error.has_usage = has_usage(data)
    return error


def _read_message(data: Mapping[str, object], usage: Mapping[str, object] | None) -> Answer | ReplyError | None:
    """Return the joined texts of a message; None where there is no message."""
    blocks = data.get("content")
    if type(blocks) is not list:
        return None
    texts = [text for block in blocks if _is_text(block) and type(text := block.get("text")) is str]
    reason = data.get("stop_reason")
    reason = _FINISH_REASONS.get(reason, reason) if type(reason) is str else None
    if not texts and reason in (None, "stop") and not any(type(block) is dict for block in blocks):
        was_generated = usage is not None and bool(usage.get("output_tokens"))
        if not was_generated:
            message = "the answer is empty, and no token was generated for it"
            return ReplyError(message, "empty_answer")
        texts = [""]
    answer = Answer("".join(texts) if texts else None, reason)
    answer.says_more = bool(data.get("stop_details")) or not _are_plain(blocks)
    if type(model := data.get("model")) is str:
        answer.model = model
    return answer


def _is_text(block: object) -> bool:
    return type(block) is dict and block.get("type") == "text"


def _are_plain(blocks: Sequence[object]) -> bool:
    """Return whether blocks hold nothing but their text."""
    for block in blocks:
        if not (isinstance(block, dict) and _is_text(block)) or block.get("citations"):
            return False
        if any(value for name, value in block.items() if name not in _PLAIN_BLOCK):
            return False
    return True
