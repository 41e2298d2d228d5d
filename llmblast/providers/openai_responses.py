"""OpenAI's Responses API: the provider. Simple lines are written for `/v1/responses`; raw bodies go to their own paths,
as servers with this API have the rest of OpenAI's, too.

Sources: https://platform.openai.com/docs/api-reference/responses and /docs/guides/migrate-to-responses, whose table of
renamed parameters `_TRANSLATIONS` follows. `passed_through` reads the output items of a reply.
"""

from base64 import b64decode
from collections.abc import Callable, Collection, Mapping

import orjson

from llmblast.models import Answer, Part, Prompt, Reply, ReplyError, Request, UnsupportedError
from llmblast.providers.chat_parts import PDF, data_url, is_text
from llmblast.providers.on_demand import named_wait_s, read_error
from llmblast.providers.openai import RESPONSES, OpenAI, path_of, read_reply
from llmblast.providers.rate_limit_headers import read_rate_limits
from llmblast.providers.structured_outputs import with_schema
from llmblast.urls import host_of, is_azure

_UNSUPPORTED = ("n", "seed", "stop", "logit_bias", "presence_penalty", "frequency_penalty")
"""Parameters of chat completions that change an answer and have no equivalent here."""
_LOGPROBS = "message.output_text.logprobs"


class OpenAIResponses:
    """The provider of the Responses API, of OpenAI and of servers such as vLLM and LiteLLM."""

    kind = "openai-responses"
    hosts: Collection[str] = ()
    key_env = "OPENAI_API_KEY"
    headers: Mapping[str, str] = {}
    read_error = staticmethod(read_error)
    named_wait_s = staticmethod(named_wait_s)
    read_limits = staticmethod(read_rate_limits)

    def __init__(self) -> None:
        openai = OpenAI()
        self.dialects = openai.dialects
        self.base_url = openai.base_url
        self.auth_header = openai.auth_header
        self._params: Mapping[str, object] | None = None
        self._schema: Mapping[str, object] | None = None
        self._system: str | None = None
        self._tail = b""

    def names_path(self, url: str) -> bool:
        return url.partition("?")[0].rstrip("/").endswith(f"/{RESPONSES}") and not is_azure(host_of(url))

    def unsupported_in(self, prompt: Prompt) -> str | None:
        for name in _UNSUPPORTED:
            if prompt.params.get(name) is not None and not (name == "n" and prompt.params[name] == 1):
                return f'the Responses API has no parameter like "{name}": take it out'
        return next((reason for part in prompt.parts if (reason := _reason_against(part)) is not None), None)

    def render(self, prompt: Prompt) -> tuple[str, bytes]:
        """See `Provider`. Parts that the next prompt shares with the last one are not encoded again."""
        is_other = prompt.params is not self._params or prompt.system is not self._system
        if is_other or prompt.schema is not self._schema:
            self._tail = _tail(prompt.system, with_schema(prompt.params, prompt.schema, "openai.responses"))
            self._system, self._params, self._schema = prompt.system, prompt.params, prompt.schema
        if (reason := self.unsupported_in(prompt)) is not None:
            raise UnsupportedError(reason)
        content: object = prompt.text
        if prompt.parts:
            content = [{"role": "user", "content": [{"type": "input_text", "text": prompt.text}, *_media(prompt)]}]
        return RESPONSES, b"".join((b'{"input":', orjson.dumps(content), self._tail))

    def read_answer(self, request: Request, reply: Reply) -> Answer | ReplyError:
        return read_reply(request, reply, path_of(request, self.kind, RESPONSES))


def _media(prompt: Prompt) -> list[Mapping[str, object]]:
    """Return the media of a prompt as parts of its message."""
    return [_media_part(part) for part in prompt.parts]


def _reason_against(part: Part) -> str | None:
    if part.kind in ("audio", "video"):
        return f"the Responses API takes no {part.kind}: leave it out"
    if part.kind == "image" or part.url or part.media_type == PDF or is_text(part.media_type):
        return None
    return f"the Responses API takes no {part.media_type}: convert it to PDF or text"


def _media_part(part: Part) -> Mapping[str, object]:
    if part.kind == "image":
        return {"type": "input_image", "image_url": part.url or data_url(part)}
    if part.url:
        return {"type": "input_file", "file_url": part.url}
    if is_text(part.media_type):
        return {"type": "input_text", "text": b64decode(part.data).decode(errors="replace")}
    return {"type": "input_file", "filename": part.name or "document.pdf", "file_data": data_url(part)}


def _tail(system: str | None, params: Mapping[str, object]) -> bytes:
    """Return a body from the end of the input on."""
    members: dict[str, object] = {"instructions": system} if system else {}
    for name, value in params.items():
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
