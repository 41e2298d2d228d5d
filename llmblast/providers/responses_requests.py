"""OpenAI's Responses API: render prompts.

Sources: https://platform.openai.com/docs/api-reference/responses and /docs/guides/migrate-to-responses, whose table of
renamed parameters `_TRANSLATIONS` follows.
"""

from base64 import b64decode
from collections.abc import Callable, Mapping

import orjson

from llmblast.models import Part, Prompt
from llmblast.provider_contract import UnsupportedError
from llmblast.providers.chat_parts import PDF, data_url, is_text
from llmblast.providers.rendering import SharedTail, unsupported_param
from llmblast.providers.structured_outputs import with_schema

_API = "the Responses API"
_UNSUPPORTED = ("n", "seed", "stop", "logit_bias", "presence_penalty", "frequency_penalty")
"""Parameters of chat completions that change an answer and have no equivalent here."""
_LOGPROBS = "message.output_text.logprobs"


class ResponsesRequests:
    """Renders prompts as requests of the Responses API."""

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
            media = map(_media_part, prompt.parts)
            content = [{"role": "user", "content": [{"type": "input_text", "text": prompt.text}, *media]}]
        return b"".join((b'{"input":', orjson.dumps(content), tail))


def _reason_against(part: Part) -> str | None:
    if part.kind in ("audio", "video"):
        return f"{_API} takes no {part.kind}: leave it out"
    if part.kind == "image" or part.url or part.media_type == PDF or is_text(part.media_type):
        return None
    return f"{_API} takes no {part.media_type}: convert it to PDF or text"


def _media_part(part: Part) -> Mapping[str, object]:
    if part.kind == "image":
        return {"type": "input_image", "image_url": part.url or data_url(part)}
    if part.url:
        return {"type": "input_file", "file_url": part.url}
    if is_text(part.media_type):
        return {"type": "input_text", "text": b64decode(part.data).decode(errors="replace")}
    return {"type": "input_file", "filename": part.name or "document.pdf", "file_data": data_url(part)}


def _tail(prompt: Prompt) -> bytes:
    """Return a body from the end of the input on."""
    members: dict[str, object] = {"instructions": prompt.system} if prompt.system else {}
    for name, value in with_schema(prompt.params, prompt.schema, "openai.responses").items():
        if name in _UNSUPPORTED:
            continue
        translate = _TRANSLATIONS.get(name)
        for key, translated in ({name: value} if translate is None else translate(value)).items():
            earlier = members.get(key)
            if isinstance(earlier, dict) and isinstance(translated, dict):
                translated = {**earlier, **translated}  # noqa: PLW2901 -- both stand in one object
            members[key] = translated
    return b"," + orjson.dumps(members)[1:] if members else b"}"


def _max_tokens(value: object) -> Mapping[str, object]:
    return {} if value is None else {"max_output_tokens": value}


def _response_format(value: object) -> Mapping[str, object]:
    """Return a format whose schema stands beside its name, not one level deeper as in chat completions."""
    schema = value.get("json_schema") if isinstance(value, dict) else None
    if isinstance(value, dict) and isinstance(schema, dict):
        value = {"type": value.get("type"), **schema}
    return {} if value is None else {"text": {"format": value}}


def _tools(value: object) -> Mapping[str, object]:
    """Return functions without the level `function`; tools in the API's own form stay."""
    return {"tools": [_flat(tool) for tool in value] if isinstance(value, list) else value}


def _tool_choice(value: object) -> Mapping[str, object]:
    return {"tool_choice": _flat(value)}


def _flat(tool: object) -> object:
    function = tool.get("function") if isinstance(tool, dict) else None
    return {"type": "function", **function} if isinstance(function, dict) else tool


def _logprobs(value: object) -> Mapping[str, object]:
    return {"include": [_LOGPROBS]} if value is True else {}


_TRANSLATIONS: Mapping[str, Callable[[object], Mapping[str, object]]] = {
    "max_tokens": _max_tokens,
    "max_completion_tokens": _max_tokens,
    "response_format": _response_format,
    "tools": _tools,
    "tool_choice": _tool_choice,
    "logprobs": _logprobs,
    "reasoning_effort": lambda value: {} if value is None else {"reasoning": {"effort": value}},
    "verbosity": lambda value: {} if value is None else {"text": {"verbosity": value}},
}
"""Parameters of chat completions that have another name or form here."""
